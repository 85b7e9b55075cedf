"""Stored loss curves."""
