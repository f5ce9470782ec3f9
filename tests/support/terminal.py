"""A terminal that a test types into."""

import os
import pty
import select
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.commandline import PATIENCE


@contextmanager
def on_a_terminal(
    command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process that has a terminal for everything; the other end of it."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def answer_prompts(terminal: int, answer: str) -> str:
    """Type the answer wherever a line that ends with a colon waits; returns what was shown to the end."""
    shown = ""
    try:
        while select.select([terminal], [], [], PATIENCE)[0] and (piece := os.read(terminal, 65536).decode()):
            shown += piece
            if shown.endswith(": "):
                os.write(terminal, f"{answer}\n".encode())
    except OSError:  # nobody has it any more
        pass
    return shown
