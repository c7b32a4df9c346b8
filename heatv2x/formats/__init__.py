"""File formats of the field: here other conventions are converted to ours."""
