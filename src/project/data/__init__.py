"""One file for each example data set."""
