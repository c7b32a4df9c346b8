"""One file per fusion: how an ego combines its own feature, or boxes, with what it received."""
