"""The long tests, and the table of bits."""
