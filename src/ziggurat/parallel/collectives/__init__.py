"""Sums and exchanges over workers whose result does not depend on how many there are."""
