"""The signals that ask a process for its end; loads nothing."""

import signal


def stopping() -> list[signal.Signals]:
    """SIGINT, SIGTERM, and SIGHUP where the terminal's end is to end the process: nohup has it ignored."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]


def after_first(number: int) -> signal.Handlers:
    """What the same signal does when it comes again: it kills.

    Not SIGHUP, which comes twice where a terminal is closed, from the shell and from the system.
    """
    return signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL
