"""Where `hpo` begins; it loads nothing before it can answer Ctrl-C with one line."""

import sys


def main() -> None:
    """Run `hpo`; Ctrl-C before it is ready is one line too."""
    try:
        from hpo.cli.streams import prepare

        prepare()
        from hpo.cli.root import root

        root(prog_name="hpo")
    except KeyboardInterrupt:
        print("hpo: interrupted", file=sys.stderr)
        sys.exit(130)
