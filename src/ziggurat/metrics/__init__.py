"""Metrics, computed from predictions and ground truth alone."""
