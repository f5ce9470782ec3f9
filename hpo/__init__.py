"""hpo: a fair comparison of neural architectures, tuned jointly, confirmed without luck, tested once."""

__version__ = "0.1.0"
