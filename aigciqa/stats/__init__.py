"""Intervals, correlations and tests."""
