"""What `predict` writes beside its table of results: one file for each format, all made from the rows of that table."""
