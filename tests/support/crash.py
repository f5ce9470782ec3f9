"""`python crash.py POINT N hpo-words...`: hpo, killed by SIGKILL the Nth time that it comes to a point.

A point is "before MODULE:NAME" or "after MODULE:NAME", written with a dot: the process ends right there, with
whatever the database had been told by then.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def arm(point: str, times: int) -> None:
    """Put the kill around a function or method."""
    when, path = point.split(".", 1)
    module_name, _, name = path.partition(":")
    owner: Any = importlib.import_module(module_name)
    *outer, last = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    inner: Callable[..., Any] = getattr(owner, last)
    left = times

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = inner(*args, **kwargs)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, last, deadly)


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    from hpo.cli.main import main

    sys.argv = ["hpo", *sys.argv[3:]]
    main()
