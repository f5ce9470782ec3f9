"""Trainings of `hpo experiment check`: in child processes, which are waited for, and how two of them differ."""

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hpo.experiment.checked import OUTPUTS, PROBES, SCALE, TEST_ITEMS
from hpo.experiment.description import Description, ModelDescription
from hpo.experiment.messages import Message
from hpo.experiment.spaces import Space, Value
from hpo.worker.child import ChildProcess, Ended

MAX_SECONDS = 600.0  # for each training, with its measurements
ROUNDING = 1e-6  # of outputs, in parts of their size, that two runs of the same may differ by
SEED, OTHER_SEED, DRAW, OTHER_DRAW = 11, 12, 21, 22


@dataclass(frozen=True, kw_only=True)
class StateFolder:
    """A training's state after some epochs, as its process has written it."""

    epoch: int
    folder: str


@dataclass(frozen=True, kw_only=True)
class Training:
    """What came of a training in a child."""

    why: str = ""  # it failed, diverged or was killed; empty: it ended as it should
    scores: Mapping[str, float | None] = field(default_factory=dict)
    seconds: float = 0.0
    epochs: tuple[int, ...] = ()  # as they were reported
    memory: int | None = None  # bytes of its process
    keeps_state: bool = False  # it has called run.checkpoint or run.checkpoint_folder
    checkpoint: StateFolder | None = None  # with which its process was killed

    @property
    def metrics(self) -> dict[str, float | None]:
        """The scores of the experiment's own metrics."""
        return {name: value for name, value in self.scores.items() if name not in PROBES}


class FreshProcesses:
    """Fresh processes to train an experiment's models in, and what is written for them."""

    def __init__(self, description: Description, *, epochs: int, device: str) -> None:
        self._description, self._epochs, self._device = description, epochs, device
        self._temporary = Path(tempfile.mkdtemp(prefix="hpo-check-"))
        self._sealed = self._temporary / "without-b"  # the pools as a training sees them: B is not there
        self._sealed.mkdir()
        if (pool := description.folder / "a").exists():
            (self._sealed / "a").symlink_to(pool)
        self._count = 0

    def close(self) -> None:
        """Delete what was written."""
        shutil.rmtree(self._temporary, ignore_errors=True)

    def epochs_of(self, model: ModelDescription) -> int:
        """The most epochs that a training of this model gets here."""
        return self._epochs if model.epochs is None else min(self._epochs, model.epochs)

    @contextmanager
    def fresh(
        self, name: str, model: ModelDescription, disturbances: Sequence[str] = (), *, with_b: bool = False
    ) -> Iterator["Trainer"]:
        """A process that trains this model; where it is not said otherwise one in which B is not there."""
        self._count += 1
        place = self._temporary / f"child-{self._count}"
        place.mkdir()
        sizes = self._description.sizes
        lengths = sorted({*sizes.values(), sum(sizes.values())} - {0})
        file = place / f"hpo_checked_{self._count}.py"
        file.write_text(
            "from hpo.experiment.checked import checked\n"
            f"experiment = checked({self._description.locator!r}, {list(disturbances)!r}, {lengths!r})\n"
        )
        folder = self._description.folder if with_b else self._sealed
        with (self._temporary / "log").open("ab") as log:
            child = ChildProcess(f"{file}:experiment", folder, device=self._device, threads=1, log=log)
            try:
                yield Trainer(child, place, self._task(name, model))
            finally:
                child.close()

    def _task(self, name: str, model: ModelDescription) -> dict[str, object]:
        """A training of the model's reference, but for its seeds."""
        params: dict[str, Value] = Space.from_plain(model.space).complete(model.reference)
        how = {"fold": 0, "folds": 1, "device": self._device.partition(":")[0], "threads": 1}
        return {"model": name, "params": params, "max_epochs": self.epochs_of(model), **how}


class Trainer:
    """A child that is told to train, and waited for."""

    def __init__(self, child: ChildProcess, place: Path, task: Mapping[str, object]) -> None:
        """`place` is a folder for its checkpoints."""
        self._child, self._place, self._task = child, place, task
        self._is_ready = False
        self._seeds: dict[str, object] = {}

    def train(
        self, *, seed: int = SEED, draw_seed: int = DRAW, kill: bool = False, resume: StateFolder | None = None
    ) -> Training:
        """Train; with `kill` until the first checkpoint, with `resume` from one."""
        if not self._is_ready:
            event = self._answer()
            if isinstance(event, str):
                return Training(why=event)
            self._is_ready = True
        self._seeds = {"seed": seed, "draw_seed": draw_seed, "options": {}}
        checkpoints = {
            "place": str(self._place),
            "seconds": 0.0 if kill else MAX_SECONDS,
            "keep_last": False,
            "resume": None if resume is None else vars(resume),
        }
        self._child.tell("train", {**self._task, **self._seeds, "checkpoints": checkpoints})
        epochs: list[int] = []
        keeps_state = False
        while not isinstance(event := self._answer(), str) and event.kind in ("epoch", "resumable", "checkpoint"):
            if event.kind == "epoch":
                epochs.append(int(event.values["epoch"]))
                self._child.tell("reply", {"stop": False})
            elif event.kind == "checkpoint" and kill:
                self._child.kill()
                return Training(
                    why="killed", checkpoint=StateFolder(**{name: event.values[name] for name in ("epoch", "folder")})
                )
            keeps_state = keeps_state or event.kind == "resumable"
        if isinstance(event, str):
            return Training(why=event, epochs=tuple(epochs))
        if event.kind != "trained":
            return Training(why=str(event.values.get("why") or event.kind), epochs=tuple(epochs))
        return Training(
            scores=event.values["scores"],
            seconds=event.values["seconds"],
            epochs=tuple(epochs),
            memory=event.values["memory"],
            keeps_state=keeps_state,
        )

    def test(self) -> float | str:
        """How many test items stand in A too; or why the test failed. The scores stay where they are."""
        self._child.tell("test", self._seeds)
        answer = self._answer()
        if isinstance(answer, str):
            return answer
        if answer.kind != "tested":
            return str(answer.values.get("why") or answer.kind)
        return float(answer.values["scores"].get(TEST_ITEMS) or 0.0)

    def _answer(self) -> Message | str:
        """A message, or why there is none."""
        event = self._child.poll(MAX_SECONDS)
        if event is None:
            self._child.kill()
            return f"no answer within {MAX_SECONDS:g} s"
        if isinstance(event, Ended):
            return event.why
        return str(event.values["why"]) if event.kind == "refused" else event


# --- How two trainings differ -----------------------------------------------------------------------------------


def difference(first: Training, other: Training, rounding: float = ROUNDING) -> str:
    """How another training differs from the first; empty where they are equal, to rounding."""
    if other.why:
        return other.why
    size = distance(first, other)
    if size <= rounding:
        return ""
    theirs = other.metrics
    for name, value in first.metrics.items():
        if value is not None and theirs.get(name) not in (None, value):
            return f"{name} is {value:.4g} and {theirs[name]:.4g}"
    return f"outputs differ by {size:.1g} of their size"


def distance(first: Training, other: Training) -> float:
    """Between the outputs of two predictors, in parts of their size; infinite where there are none."""
    if first.scores == other.scores:
        return 0.0
    a, b = first.scores.get(OUTPUTS), other.scores.get(OUTPUTS)
    if a is None or b is None or not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    return abs(a - b) / max(abs(first.scores.get(SCALE) or 0.0), 1e-30)
