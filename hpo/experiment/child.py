"""A process that runs a user's code for a worker: `python -m hpo.experiment.child LOCATOR FOLDER IN OUT`.

It trains what it is told to, one training after another, and answers on a descriptor of its own; what the user's code
prints goes where the worker's log is. What is to be tested is trained in a fork of this process where one can be made,
for who has seen pool B trains no more; else this process ends after the test. It ends too when the worker closes its
pipe, and when the worker dies.
"""

import faulthandler
import hashlib
import os
import platform
import select
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ExperimentError
from hpo.experiment import pool_files
from hpo.experiment.checkpoint import TrainingState
from hpo.experiment.experiment import Experiment
from hpo.experiment.items import Draw, Items
from hpo.experiment.jackknife import Blocks, blocks_of, column_of, units_of
from hpo.experiment.kept_columns import UNIT, KeptColumns
from hpo.experiment.load import describe, load
from hpo.experiment.measure import measure
from hpo.experiment.messages import Message, receive, send
from hpo.experiment.metrics import Score
from hpo.experiment.model import Model
from hpo.experiment.prepare import code_digests
from hpo.experiment.process import can_fork, end_alike, memory, watch_over
from hpo.experiment.randomness import kept_state, seed_all
from hpo.experiment.rows import Rows
from hpo.experiment.run import Diverged, Report, Run, Stopped
from hpo.experiment.tables import row_hashes
from hpo.training.recipe import Recipe

_DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow", "skimage": "scikit-image", "cv2": "opencv-python"}
MOST_FRAMES, MOST_CAUSES = 20, 5  # of a traceback that is told


@dataclass(kw_only=True, eq=False)
class Ordered:
    """A training that the worker has ordered, ready to begin."""

    id: str
    model: Model
    run: Run
    validation: Items
    state: TrainingState | None
    keeps_last: bool  # whether its state after the last epoch is kept


class Child:
    """One such process: an experiment, its pool A, and the predictor of the last training."""

    def __init__(self, experiment: Experiment, folder: Path, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
        """`folder` has the pools, as `hpo.experiment.prepare` writes them."""
        self._experiment, self._folder = experiment, folder
        self._incoming, self._outgoing = incoming, outgoing
        self._pool: Any = None
        self._trained: tuple[Model, Run, Any] | None = None
        self._inbox: deque[Message] = deque()  # what came while something else was waited for
        self._replies: dict[str, bool] = {}  # by training: whether to stop
        self._given_back: set[str] = set()  # trainings that the worker wants back
        self._is_fork = False

    # -- messages ------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Do what messages say until the stream ends, or a test has been made."""
        while (message := self._next()) is not None:
            if message.kind == "train":
                self._close()
                if is_for_lanes(message):
                    from hpo.experiment.lanes import LaneServer

                    LaneServer(self, message.values["lanes"]).serve(message)
                elif message.values.get("tested") and not self._is_fork and can_fork(message.values["device"]):
                    self._fork(message.values)
                else:
                    self._train(message.values)
            elif message.kind == "test":
                try:
                    answer = self._test(message.values)
                except BaseException as error:
                    answer = self.ending(error, None)
                self.tell(message.values.get("id", ""), answer)
                return

    def _next(self) -> Message | None:
        """The next order; None where there is none any more."""
        while not self._inbox:
            message = receive(self._incoming)
            if message is None:
                return None
            self._take(message)
        return self._inbox.popleft()

    def orders_for_lanes(self) -> list[Message]:
        """Those for lanes that have come by now; nothing is waited for, and others stay."""
        while select.select([self._incoming], [], [], 0)[0]:
            self._take(self._received())
        orders = [message for message in self._inbox if is_for_lanes(message)]
        self._inbox = deque(message for message in self._inbox if not is_for_lanes(message))
        return orders

    def _received(self) -> Message:
        message = receive(self._incoming)
        if message is None:
            os._exit(0)  # the worker is gone
        return message

    def _take(self, message: Message) -> None:
        name = message.values.get("id", "")
        match message.kind:
            case "reply":
                self._replies[name] = bool(message.values["stop"])
            case "give back":
                self._given_back.add(name)
            case _:
                self._inbox.append(message)

    def tell(self, name: str, message: Message) -> None:
        """Send what happened to a training."""
        send(self._outgoing, Message(message.kind, {**message.values, "id": name}, message.arrays))

    # -- trainings -----------------------------------------------------------------------------------------

    def _fork(self, values: Mapping[str, Any]) -> None:
        """Train, and test, in a copy of this process, which learns nothing of it; it ends as the copy does."""
        process = os.fork()
        if process:
            _, status = os.waitpid(process, 0)
            end_alike(os.waitstatus_to_exitcode(status))
            return
        try:
            self._is_fork = True
            self._train(values)
            self.serve()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def _train(self, values: Mapping[str, Any]) -> None:
        """Train from the beginning to the end, and tell what came of it; its predictor is kept for the test."""
        ordered = None
        try:
            ordered = self.order(values)
            begun = time.monotonic()
            seed_all(values["seed"], "train")
            predictor = ordered.model.fit(ordered.run)
            answer = self.ended(ordered, predictor, time.monotonic() - begun)
            self._trained = (ordered.model, ordered.run, predictor)
        except BaseException as error:
            if ordered is not None:
                ordered.run.close()
            answer = self.ending(error, ordered)
        self.tell(values.get("id", ""), answer)

    def order(self, values: Mapping[str, Any]) -> Ordered:
        """A training that the worker orders, with its items drawn; raises what the user's draw raises."""
        model, name = self._experiment.model(values["model"]), values.get("id", "")
        self.tell(name, Message("begun"))
        training, validation = self._draw(values)
        self._given_back.discard(name)
        checkpoints = values.get("checkpoints") or {}
        state = self._state(name, checkpoints) if checkpoints else None
        run = Run(
            params=values["params"],
            training=training,
            seed=values["seed"],
            device=values["device"],
            threads=values["threads"],
            max_epochs=values["max_epochs"],
            on_report=lambda report: self._report(name, model, validation, report),
            state=state,
            given_back=lambda: self._is_given_back(name),
        )
        return Ordered(
            id=name,
            model=model,
            run=run,
            validation=validation,
            state=state,
            keeps_last=checkpoints.get("keep_last", False),
        )

    def ended(self, ordered: Ordered, predictor: Any, seconds: float) -> Message:
        """What the worker is told of a training that has ended: its predictor measured on the validation items."""
        run = ordered.run
        if ordered.state is not None and ordered.keeps_last:
            ordered.state.save_last(run.epochs_trained)
        scores = self._measure(ordered.model, predictor, ordered.validation, run.key, "validation")
        answer = {"scores": _values(scores), "items": len(ordered.validation), "numbers": run.last_numbers}
        about = {"seconds": seconds, "epochs": run.epochs_trained, "memory": memory(), "device": device_name(run)}
        if isinstance(ordered.model.train, Recipe):
            about["kernels"] = predictor.kernels
        return Message("trained", {**answer, **about, "fork": self._is_fork, "forks": can_fork(run.device)})

    def ending(self, error: BaseException, ordered: Ordered | None) -> Message:
        """What the worker is told where a training ended so; what is no end of a training is raised."""
        match error:
            case Stopped():
                return Message("given back")
            case Diverged():
                return Message("diverged", {"why": " ".join(str(error).split())})
            case Exception():
                why = str(error) if isinstance(error, ExperimentError) else describe(error)
                unusable = ordered is not None and ordered.state is not None and ordered.state.is_loading
                about = {"why": why, "traceback": shortened(error), "unusable_checkpoint": unusable}
                return Message("failed", about)
        raise error

    def _report(self, name: str, model: Model, validation: Items, report: Report) -> bool:
        """Measure, tell the worker, and learn whether the training is to stop."""
        scores: Mapping[str, float | None] = {}
        if report.predictor is not None:
            metrics = self._experiment.metrics[:2]
            predict, chunk = model.predict, self._experiment.chunk
            measured = measure(report.predictor, validation, metrics, predict=predict, chunk=chunk)
            scores = {metric.name: _value(score) for metric, score in zip(metrics, measured, strict=True)}
        self.tell(name, Message("epoch", {"epoch": report.epoch, "scores": scores, "numbers": report.numbers}))
        while name not in self._replies:
            self._take(self._received())
        return self._replies.pop(name)

    def _is_given_back(self, name: str) -> bool:
        """Whether the worker has asked for the training back by now."""
        while name not in self._given_back and select.select([self._incoming], [], [], 0)[0]:
            self._take(self._received())
        return name in self._given_back

    def _state(self, name: str, values: Mapping[str, Any]) -> TrainingState:
        resume = values["resume"]
        return TrainingState(
            Path(values["place"]),
            resume=None if resume is None else (resume["epoch"], Path(resume["folder"])),
            seconds=values["seconds"],
            on_begin=lambda: self.tell(name, Message("resumable")),
            on_save=lambda epoch, folder: self.tell(
                name, Message("checkpoint", {"epoch": epoch, "folder": str(folder)})
            ),
        )

    def _test(self, values: Mapping[str, Any]) -> Message:
        """Score the last training's predictor on the test items; pool B is read here and nowhere else."""
        assert self._trained is not None
        model, _, predictor = self._trained
        pool = self._load_pool("b")
        options = self._experiment.options_of(values.get("options", {}))
        items = self._experiment.test_items(pool, Draw(seed=values["draw_seed"], options=options))
        numbers = self._units(items)
        units = units_of(numbers, len(items))
        blocks = None if units is None else blocks_of(units)
        kept = KeptColumns(self._experiment)
        scores = self._measure(model, predictor, items, values["seed"], "test", blocks, kept.add)
        arrays: dict[str, NDArray[Any]] = {} if numbers is None else {UNIT: numbers}
        for name, score in scores.items():
            if score is not None and score.items is not None:
                arrays[name] = score.items
                if score.blocks is not None:
                    arrays[column_of(name)] = score.blocks
        self._close()
        return Message("tested", {"scores": _values(scores), "items": len(items)}, {**arrays, **kept.joined()})

    def _units(self, items: Items) -> NDArray[np.int64] | None:
        """What the test items were sampled from, (n,) or (n, u); None where they are all of pool B, one unit each.

        A draw of one's own may be another in each round: where it says nothing, equal items are the same unit.
        """
        if items.unit is not None:
            return unit_numbers(items.unit)
        if self._experiment.draw_test is None:
            return None
        return row_hashes(items.x, items.y).view(np.int64)

    def _measure(
        self,
        model: Model,
        predictor: Any,
        items: Items,
        seed: int,
        what: str,
        blocks: Blocks | None = None,
        on_outputs: Callable[[Any, Items], None] = lambda outputs, part: None,
    ) -> dict[str, Score | None]:
        metrics, chunk = self._experiment.metrics, self._experiment.chunk
        with kept_state():
            seed_all(seed, "predict", what)
            scores = measure(
                predictor, items, metrics, predict=model.predict, chunk=chunk, blocks=blocks, on_outputs=on_outputs
            )
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


def is_for_lanes(message: Message) -> bool:
    """Whether it orders a training that others may join."""
    return message.kind == "train" and message.values.get("lanes", 1) > 1


def _values(scores: Mapping[str, Score | None]) -> dict[str, float | None]:
    return {name: _value(score) for name, score in scores.items()}


def _value(score: Score | None) -> float | None:
    return None if score is None else score.value


def shortened(error: BaseException) -> str:
    """An exception's traceback without the frames of hpo itself."""
    package = str(Path(__file__).parents[1])
    lines: list[str] = []
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < MOST_CAUSES:
        chain.append(cause)
    for raised in reversed(chain):
        frames = [f for f in traceback.extract_tb(raised.__traceback__) if not f.filename.startswith(package)]
        lines += ["Traceback (most recent call last):\n", *traceback.format_list(frames[-MOST_FRAMES:])]
        lines += traceback.format_exception_only(raised)
    return "".join(lines)


def device_name(run: Run) -> str:
    """The device as people know it."""
    torch: Any = sys.modules.get("torch")
    if run.device == "cuda" and torch is not None and torch.cuda.is_initialized():
        return f"cuda {torch.cuda.get_device_name()}"
    return f"{run.device} {platform.machine()}, {run.threads} thread(s)"


def unit_numbers(unit: NDArray[Any]) -> NDArray[np.int64]:
    """Units as whole numbers, (n,) or (n, u): what they are if they are such, else a digest of each."""
    if unit.dtype.kind in "iub":
        return unit.astype(np.int64)
    values, place = np.unique(unit.astype(str), return_inverse=True)
    digests = [int.from_bytes(hashlib.sha256(value.encode()).digest()[:8], "big", signed=True) for value in values]
    return np.array(digests, dtype=np.int64)[place.reshape(unit.shape)]


def versions() -> dict[str, str]:
    """Versions of the distributions whose modules the user's code has imported."""
    loaded = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
    there = {}
    for name in sorted(loaded):
        home = _DISTRIBUTIONS.get(name, name)  # reading which distribution has which module would take a second
        with suppress(metadata.PackageNotFoundError, ValueError):
            there[home] = metadata.version(home)
    return there


def main(arguments: Sequence[str]) -> int:
    """The process; returns its exit code."""
    locator, folder, read, write = arguments
    # Unbuffered, so that the system can be asked whether there is a message.
    incoming, outgoing = os.fdopen(int(read), "rb", buffering=0), os.fdopen(int(write), "wb")
    watch_over(int(read))
    faulthandler.enable()  # where a library crashes, the log has the line
    place = locator.partition(":")[0]
    try:
        if place.endswith(".py"):
            os.chdir(Path(place).parent)  # where what the user's code starts finds its neighbours
        experiment = load(locator)
    except (ExperimentError, OSError) as error:
        send(outgoing, Message("refused", {"why": str(error)}))
        return 1
    about = {
        "name": experiment.name,
        "version": experiment.version,
        "code": code_digests(experiment, locator),
        "new_process": [name for name, model in experiment.models.items() if model.new_process],
        "versions": versions(),
        "forks": can_fork("cpu"),
    }
    send(outgoing, Message("ready", about))
    Child(experiment, Path(folder), incoming, outgoing).serve()
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # threads of the user's code may not end; what it prints is not buffered
