"""Whether a dataset can be true: poses, labels, points, clocks and cameras checked against one another."""
