"""Workers, their start, and exact collectives: knows of no particular model."""
