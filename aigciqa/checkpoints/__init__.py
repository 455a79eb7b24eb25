"""Checkpoints: read, written, checked, published and fetched."""
