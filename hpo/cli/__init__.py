"""The command line: printing and exit codes, nothing else.

Commands import what they need when they run, so that `hpo --help` loads neither torch nor Optuna.
"""
