"""Batch normalization for PyTorch users and for people with only a table."""
