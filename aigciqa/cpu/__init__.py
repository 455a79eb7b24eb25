"""What only speed on a CPU needs; the scores are the same without it."""
