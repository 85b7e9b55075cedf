"""Tasks: a kind of work, whole."""
