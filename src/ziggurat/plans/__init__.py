"""Joins a model to a mesh: the only place that knows both."""
