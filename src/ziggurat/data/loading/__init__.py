"""Loader processes: what they make, how it travels, and in what order it arrives."""
