"""Pictures of predictions and annotations."""
