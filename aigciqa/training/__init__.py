"""Training: the metrics of the paper, and in `lite` the embedded ones."""
