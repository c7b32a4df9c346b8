"""A frame as it was read, drawn: as a picture, a page, a film or a recording."""
