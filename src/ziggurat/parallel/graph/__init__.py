"""A network's graph of calls, traced once."""
