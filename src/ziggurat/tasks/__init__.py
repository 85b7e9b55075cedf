"""Detection (and later classification and segmentation): loss shares, target assignment, decoding, metric."""
