"""Data sets, augmentation, and the sampler: which samples a step sees, and how they look."""
