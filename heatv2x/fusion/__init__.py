"""One file per fusion: how an ego combines its own feature with those that it received."""
