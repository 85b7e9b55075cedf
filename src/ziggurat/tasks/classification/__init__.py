"""Classification: one class for each image."""
