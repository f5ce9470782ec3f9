"""An experiment's own sections of the report: `python -m hpo.experiment.contribute LOCATOR FOLDER`.

Nobody else runs the user's code: the report writes what it has as FOLDER/view, and the process answers in plain values
in FOLDER/sections.json, or says in refused.json in one line why it cannot.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hpo.errors import ExperimentError
from hpo.experiment.environment import without_secrets
from hpo.experiment.load import describe, load
from hpo.experiment.messages import Garbled, receive, send
from hpo.experiment.page import Section, from_plain, to_plain
from hpo.experiment.view import View, from_message, to_message
from hpo.files import write_atomically

MOST_SECONDS = 300.0  # for all of an experiment's sections
LARGEST_ANSWER = 100 << 20  # bytes
VIEW, SECTIONS, REFUSED = "view", "sections.json", "refused.json"


def contributed(locator: str, name: str, view: View, seconds: float = MOST_SECONDS) -> list[Section]:
    """The sections that the experiment `name` makes of a view; ExperimentError, in one line, where that fails."""
    with tempfile.TemporaryDirectory(prefix="hpo-sections-") as temporary:
        folder = Path(temporary)
        with (folder / VIEW).open("wb") as stream:
            send(stream, to_message(view))
        command = [sys.executable, "-m", "hpo.experiment.contribute", locator, temporary]
        log = folder / "log"
        with log.open("wb") as prints:
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=prints,
                    stderr=subprocess.STDOUT,
                    env=without_secrets(),
                    timeout=seconds,
                )
            except subprocess.TimeoutExpired as error:
                raise ExperimentError(f"they took more than {seconds:.0f} s") from error
        if (refused := folder / REFUSED).exists():
            raise ExperimentError(str(json.loads(refused.read_text())["why"]))
        answer = folder / SECTIONS
        if not answer.exists():
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise ExperimentError(f"the process ended ({lines[-1] if lines else f'code {done.returncode}'})")
        if answer.stat().st_size > LARGEST_ANSWER:
            raise ExperimentError(f"they have more than {LARGEST_ANSWER >> 20} MB")
        plain = json.loads(answer.read_text())
    return [from_plain(section, f"{name}-{place}") for place, section in enumerate(plain)]


def contribute(locator: str, folder: Path) -> None:
    """Write the sections of the view in the folder; ExperimentError where that cannot be done."""
    place = locator.partition(":")[0]
    if place.endswith(".py"):
        os.chdir(Path(place).parent)
    experiment = load(locator)
    plain = []
    if experiment.sections is not None:
        with (folder / VIEW).open("rb") as stream:
            message = receive(stream)
        if message is None:
            raise Garbled("there is no view")
        try:
            plain = [to_plain(section) for section in experiment.sections(from_message(message)) or ()]
        except ExperimentError:
            raise
        except Exception as error:  # whatever the user's own code raises
            raise ExperimentError(describe(error)) from error
    write_atomically(folder / SECTIONS, json.dumps(plain, allow_nan=False))


def main(arguments: Sequence[str]) -> int:
    """The process; returns its exit code."""
    locator, folder = arguments
    try:
        contribute(locator, Path(folder))
    except ExperimentError as error:
        write_atomically(Path(folder) / REFUSED, json.dumps({"why": str(error)}))
        return error.exit_code
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # threads of the user's code may not end
