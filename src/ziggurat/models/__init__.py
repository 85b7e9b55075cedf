"""Backbones, pyramids and heads: single-device code that knows of no worker."""
