"""File formats of the field: the border where other conventions are converted to ours."""
