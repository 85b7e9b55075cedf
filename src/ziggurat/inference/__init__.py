"""Running models over images of any size on all workers: what evaluation and prediction share."""
