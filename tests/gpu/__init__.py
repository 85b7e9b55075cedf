"""What one GPU can prove."""
