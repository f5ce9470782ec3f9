"""`hpo.run` and `hpo.report`: from Python and in notebooks what the commands do, by the same code."""

import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from hpo.api import run as runs
from hpo.api.comparison_report import ComparisonReport, report_of
from hpo.api.known_errors import known_error
from hpo.api.progress import where_it_runs
from hpo.api.report import write_report
from hpo.api.run import BudgetSize, RunOptions
from hpo.api.sources import Sources, sources_of
from hpo.errors import UsageError
from hpo.experiment.experiment import Experiment
from hpo.experiment.load import is_importing, locator_of
from hpo.study import limits

AnyPath = str | PathLike[str]


def run(
    experiment: AnyPath | Experiment | None = None,
    *,
    models: Sequence[str] = (),
    files: Sequence[AnyPath] = (),
    trials: int | None = None,
    epochs: int | None = None,
    rounds: int | None = None,
    budget: BudgetSize = "full",
    workers: int | None = None,
    out: AnyPath = "report",
    db: str | None = None,
    data: AnyPath | None = None,
    accept_changes: bool = False,
) -> ComparisonReport:
    """Tune, confirm, evaluate and report on this machine, as `hpo run` does; the same call goes on where it stopped.

    `experiment` is FILE.py, FILE.py:NAME or MODULE:NAME, or an experiment imported from one; without it, and without
    study `files`, the digits are compared. `models` are some of its models, by default all. `trials`, `epochs` and
    `rounds` are above what the experiment and the files say, "quick" and "demo" are small budgets. `out` is the
    report's folder, `db` the database's URL, by default that of HPO_DATABASE_URL or hpo.db in this folder, `data` a
    folder with MNIST's files.

    Raises HpoError, whose message is one line, where it cannot be done. Ctrl-C stops the workers, which give back what
    they train, and raises KeyboardInterrupt.
    """
    _refuse_in_import("hpo.run")
    options = RunOptions(
        experiment=_locator(experiment),
        models=_several("models", models),
        files=[Path(file) for file in _several("files", files)],
        trials=_count("trials", trials, 0, limits.TRIALS),
        epochs=_count("epochs", epochs, 1, limits.COUNT),
        rounds=_count("rounds", rounds, 1, limits.ROUNDS),
        budget=_budget(budget),
        workers=_count("workers", workers, 1, limits.WORKERS),
        out=Path(out),
        accept_changes=accept_changes,
    )
    progress = where_it_runs()
    with _sources(db, data) as sources:
        end = runs.run(sources, options, progress)
    if end.written is None:
        progress.message("stopped: the same call continues from here")
        signal.raise_signal(signal.SIGINT if end.caught is None else end.caught)
        raise KeyboardInterrupt
    for problem in end.problems:
        progress.message(problem)
    return report_of(end.written, end.problems)


def report(
    *experiments: AnyPath | Experiment,
    out: AnyPath = "report",
    db: str | None = None,
    data: AnyPath | None = None,
) -> ComparisonReport:
    """Write the comparison of all studies in the database, as `hpo report` does; arguments as in `hpo.run`.

    `experiments` are those whose own sections it gets.

    Raises HpoError, whose message is one line, where it cannot be done.
    """
    _refuse_in_import("hpo.report")
    locators = [locator for experiment in experiments if (locator := _locator(experiment)) is not None]
    with _sources(db, data) as sources:
        return report_of(write_report(sources, sources.engine(), Path(out), locators=locators))


def _refuse_in_import(name: str) -> None:
    """Else each process that imports the file to describe it would start another one."""
    if is_importing():
        raise UsageError(f"{name} is called where this file is imported; put it below `if __name__ == '__main__':`")


@contextmanager
def _sources(db: str | None, data: AnyPath | None) -> Iterator[Sources]:
    """The database and the images; what they or the system refuse becomes an HpoError."""
    sources = sources_of(db, data)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's in a notebook; ours needs none
            yield sources
    except Exception as error:
        known = known_error(error, sources.opened)
        if known is None:
            raise
        raise known from error
    finally:
        sources.close()


def _locator(experiment: object) -> str | None:
    if experiment is None or isinstance(experiment, str):
        return experiment
    if isinstance(experiment, PathLike):
        return str(Path(experiment))
    if not isinstance(experiment, Experiment):
        raise UsageError(f"experiment: give a file's name, such as 'cancer.py', not a {type(experiment).__name__}")
    if (locator := locator_of(experiment)) is None:
        name = experiment.name
        raise UsageError(
            f"experiment {name} is defined here, where other processes cannot import it: put it into a file (in a "
            f"notebook by `%%writefile {name}.py` at the top of its cell) and give that, hpo.run('{name}.py')"
        )
    return locator


def _several(what: str, values: Sequence[Any]) -> Sequence[Any]:
    if isinstance(values, str | PathLike):
        raise UsageError(f"{what}: give a list, [{str(values)!r}]")
    return tuple(values)


def _count(what: str, value: int | None, low: int, high: int) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high):
        raise UsageError(f"{what}: {value!r} is no whole number from {low} to {high}")
    return value


def _budget(value: BudgetSize) -> BudgetSize:
    if value not in ("full", "quick", "demo"):
        raise UsageError(f"budget: {value!r} is none of 'full', 'quick', 'demo'")
    return value
