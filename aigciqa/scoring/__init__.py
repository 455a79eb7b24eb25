"""The scoring engine: sources -> decode -> batches -> records -> sinks, and a summary.

Empty on purpose: the command line reads `records` and `sources` without importing torch, which `engine` needs.
"""
