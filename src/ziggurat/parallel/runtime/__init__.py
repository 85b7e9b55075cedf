"""Processes: starting workers, watching them, joining them."""
