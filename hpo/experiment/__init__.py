"""What is compared: an experiment with its data, its metrics and its models, as a user writes it.

Imports neither torch nor Optuna nor a database.
"""
