"""The process in which a user's code runs: its memory, whether it can be copied, who ends it with the worker."""

import faulthandler
import os
import resource
import select
import signal
import sys
from pathlib import Path

from hpo.machine import peak_memory

WATCH_MILLISECONDS = 1000  # between two looks whether this process, and not only the worker, is gone


def memory() -> int:
    """Bytes of memory that this process has now; where the system does not say, the most that it ever had."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return peak_memory()


def can_fork(device: str) -> bool:
    """Whether a copy of this process would work as this one does: on Linux, with one thread, and no GPU in use."""
    if device != "cpu" or not sys.platform.startswith("linux"):
        return False
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def end_alike(code: int) -> None:
    """End this process as another has ended, by exit code or signal; one that ended well lets it go on."""
    if code < 0:
        faulthandler.disable()  # the other has told where
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    if code:
        os._exit(code)


def watch_over(parent_pipe: int) -> None:
    """Start a process that ends this one, with all that the user's code has started, when the worker is gone.

    The worker closes its end of the pipe by dying. A thread here could not see that while a library holds Python up.
    """
    process = os.getpid()
    if os.fork():
        return
    poll = select.poll()
    poll.register(parent_pipe, 0)  # POLLHUP and POLLERR alone: what is sent is read elsewhere
    while not poll.poll(WATCH_MILLISECONDS) and os.getppid() == process:
        pass
    os.killpg(process, signal.SIGKILL)  # this watcher too
