"""Evaluate image quality on benchmark datasets."""
