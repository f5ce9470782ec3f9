"""Where `hpo` begins; it loads nothing before it can answer Ctrl-C with one line."""

import sys


def main() -> None:
    """Run `hpo`; Ctrl-C before it is ready is one line too, as is a system on which it does not run."""
    if sys.platform == "win32":
        sys.exit("hpo: does not run on Windows itself; install it in WSL (`wsl --install`), where it does")
    try:
        from hpo.cli.streams import prepare

        prepare()
        from hpo.cli.root import root

        root(prog_name="hpo")
    except KeyboardInterrupt:
        print("hpo: interrupted", file=sys.stderr)
        sys.exit(130)
