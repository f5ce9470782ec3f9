"""One worker's life: slots claimed, trained in a population, stored; leases, checkpoints and results on disk.

The one place that joins storage and training.
"""
