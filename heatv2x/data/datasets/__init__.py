"""One file per dataset, each yields `Frame`s in our conventions."""
