"""A process that runs a user's code for a worker: `python -m hpo.experiment.child LOCATOR FOLDER IN OUT`.

It trains what it is told to, one training after another, and answers on a descriptor of its own; what the user's code
prints goes where the worker's log is. It ends after a test, when the worker closes its pipe, and when the worker dies.
"""

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from hpo.errors import ExperimentError
from hpo.experiment import pool_files
from hpo.experiment.experiment import Experiment
from hpo.experiment.items import Draw, Items
from hpo.experiment.load import describe, load
from hpo.experiment.measure import measure
from hpo.experiment.messages import Message, receive, send
from hpo.experiment.metrics import Score
from hpo.experiment.model import Model
from hpo.experiment.randomness import kept_state, seed_all
from hpo.experiment.rows import Rows
from hpo.experiment.run import Diverged, Report, Run

WATCH_MILLISECONDS = 1000  # between two looks whether this process, and not only the worker, is gone


class Child:
    """One such process: an experiment, its pool A, and the predictor of the last training."""

    def __init__(self, experiment: Experiment, folder: Path, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        """`folder` has the pools, as `hpo.experiment.prepare` writes them."""
        self._experiment, self._folder = experiment, folder
        self._incoming, self._outgoing = incoming, outgoing
        self._pool: Any = None
        self._trained: tuple[Model, Run, Any] | None = None

    def serve(self) -> None:
        """Do what messages say until the stream ends, or a test has been made."""
        while (message := receive(self._incoming)) is not None:
            if message.kind == "train":
                self._close()
                self._answer(self._train, message.values)
            elif message.kind == "test":
                self._answer(self._test, message.values)
                self._close()
                return

    def _answer(self, act: Any, values: Mapping[str, Any]) -> None:
        """Send what comes of it: an answer, that it diverged, or how it failed."""
        try:
            answer = act(values)
        except Diverged as error:
            answer = Message("diverged", {"why": " ".join(str(error).split())})
        except ExperimentError as error:
            answer = Message("failed", {"why": str(error), "traceback": traceback.format_exc()})
        except Exception as error:
            answer = Message("failed", {"why": describe(error), "traceback": traceback.format_exc()})
        send(self._outgoing, answer)

    def _train(self, values: Mapping[str, Any]) -> Message:
        model = self._experiment.model(values["model"])
        training, validation = self._draw(values)
        run = Run(
            params=values["params"],
            training=training,
            seed=values["seed"],
            device=values["device"],
            threads=values["threads"],
            max_epochs=values["max_epochs"],
            on_report=lambda report: self._report(model, validation, report),
        )
        begun = time.monotonic()
        try:
            seed_all(values["seed"], "train")
            predictor = model.train(run)
        except BaseException:
            run.close()
            raise
        seconds = time.monotonic() - begun
        scores = self._measure(model, predictor, validation, values["seed"], "validation")
        self._trained = (model, run, predictor)
        answer = {"scores": _values(scores), "seconds": seconds, "numbers": run.last_numbers}
        return Message("trained", {**answer, "epochs": run.asked_for_epochs})

    def _report(self, model: Model, validation: Items, report: Report) -> bool:
        """Measure, tell the worker, and learn whether the training is to stop."""
        scores: Mapping[str, float | None] = {}
        if report.predictor is not None:
            metrics = self._experiment.metrics[:2]
            predict, chunk = model.predict, self._experiment.chunk
            measured = measure(report.predictor, validation, metrics, predict=predict, chunk=chunk)
            scores = {metric.name: _value(score) for metric, score in zip(metrics, measured, strict=True)}
        send(self._outgoing, Message("epoch", {"epoch": report.epoch, "scores": scores, "numbers": report.numbers}))
        reply = receive(self._incoming)
        if reply is None:
            os._exit(0)  # the worker is gone
        return bool(reply.values["stop"])

    def _test(self, values: Mapping[str, Any]) -> Message:
        """Score the last training's predictor on the test items; pool B is read here and nowhere else."""
        assert self._trained is not None
        model, _, predictor = self._trained
        pool = self._load_pool("b")
        options = self._experiment.options_of(values.get("options", {}))
        items = self._experiment.test_items(pool, Draw(seed=values["draw_seed"], options=options))
        scores = self._measure(model, predictor, items, values["seed"], "test")
        by_item = {name: score.items for name, score in scores.items() if score is not None and score.items is not None}
        arrays = by_item if items.unit is None else {**by_item, "unit": items.unit}
        return Message("tested", {"scores": _values(scores), "items": len(items)}, arrays)

    def _measure(self, model: Model, predictor: Any, items: Items, seed: int, what: str) -> dict[str, Score | None]:
        metrics = self._experiment.metrics
        with kept_state():
            seed_all(seed, "predict", what)
            scores = measure(predictor, items, metrics, predict=model.predict, chunk=self._experiment.chunk)
        if scores[0] is None:
            raise ExperimentError(f"metric {metrics[0].name} judges, but does not apply to the outputs of this model")
        return {metric.name: score for metric, score in zip(metrics, scores, strict=True)}

    def _draw(self, values: Mapping[str, Any]) -> tuple[Items, Items]:
        if self._pool is None:
            self._pool = self._load_pool("a")
        options = self._experiment.options_of(values.get("options", {}))
        draw = Draw(seed=values["draw_seed"], fold=values["fold"], folds=values["folds"], options=options)
        return self._experiment.drawn(self._pool, draw)

    def _load_pool(self, name: str) -> Any:
        data = self._experiment.data
        if isinstance(data, Rows):
            return pool_files.load(self._folder / name)
        return data.a() if name == "a" else data.b()

    def _close(self) -> None:
        """Have done with the predictor."""
        if self._trained is not None:
            _, run, predictor = self._trained
            self._trained = None
            if callable(close := getattr(predictor, "close", None)):
                close()
            run.close()


def _values(scores: Mapping[str, Score | None]) -> dict[str, float | None]:
    return {name: _value(score) for name, score in scores.items()}


def _value(score: Score | None) -> float | None:
    return None if score is None else score.value


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


def main(arguments: Sequence[str]) -> int:
    """The process; returns its exit code."""
    locator, folder, read, write = arguments
    incoming, outgoing = os.fdopen(int(read), "rb"), os.fdopen(int(write), "wb")
    watch_over(int(read))
    try:
        experiment = load(locator)
    except ExperimentError as error:
        send(outgoing, Message("refused", {"why": str(error)}))
        return 1
    about = {"name": experiment.name, "version": experiment.version, "models": list(experiment.models)}
    send(outgoing, Message("ready", about))
    Child(experiment, Path(folder), incoming, outgoing).serve()
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of the user's code may not end
