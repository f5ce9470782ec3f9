"""The command line: printing and exit codes, nothing else.

Commands import what they need when they run, so that `hpo --help` loads neither torch nor Optuna.
"""

import sys


def main() -> None:
    """Run `hpo`; Ctrl-C before it is ready is one line too."""
    try:
        from hpo.cli.root import root

        root(prog_name="hpo")
    except KeyboardInterrupt:
        print("hpo: interrupted", file=sys.stderr)
        sys.exit(130)
