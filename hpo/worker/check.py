"""`hpo experiment check`: what a user must know of an experiment before it costs a week.

No user's code runs in this process: children train the reference of each model, fresh and warm, with one seed and with
another, disturbed by what must change nothing, and what they say is compared.
"""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hpo.errors import ExperimentError
from hpo.experiment.checked import (
    BATCHES,
    DISTURBANCES,
    GLOBALS,
    OUTPUTS,
    PROBES,
    REPORTS,
    SCALE,
    SHARED_ITEMS,
    SHARED_UNITS,
    TEST_ITEMS,
)
from hpo.experiment.description import Description, ModelDescription
from hpo.experiment.messages import Message
from hpo.experiment.rows import SAME_VALIDATION
from hpo.experiment.spaces import Space, Value
from hpo.study.spec import Budget, Protocol
from hpo.worker.child import ChildProcess, Ended

EPOCHS = 2  # of each training
MAX_SECONDS = 600.0  # for each training, with its measurements
LEVEL = 0.05  # at which a difference counts as clear
ROUNDING = 1e-6  # of outputs, in parts of their size, that two runs of the same may differ by
BATCH_ROUNDING = 1e-4  # the same where other items are predicted together
TRAININGS = 6  # of each model, where nothing is wrong
CHECKS = (  # in the order of the table
    "loads", "data", "space", "trains", "epochs", "draws", "same seed", "withheld B", "warm", "resumed", "another seed",
    "rounds",
    "reports", "withheld", "batches", "test",
)  # fmt: skip
_HARMLESS = (SAME_VALIDATION, "are in neither pool", "it is not tested")
_SEED, _OTHER_SEED, _DRAW, _OTHER_DRAW = 11, 12, 21, 22

Level = Literal["ok", "note", "BAD"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A line of the table."""

    model: str  # empty: of the experiment
    check: str
    level: Level
    text: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A training's state after some epochs, as its process has written it."""

    epoch: int
    folder: str


@dataclass(frozen=True, kw_only=True)
class Training:
    """What came of a training in a child."""

    why: str = ""  # it failed, or diverged; empty: it did not
    scores: Mapping[str, float | None] = field(default_factory=dict)
    seconds: float = 0.0
    epochs: tuple[int, ...] = ()  # as they were reported
    memory: int | None = None  # bytes of its process
    keeps_state: bool = False  # it has called run.checkpoint or run.checkpoint_folder
    checkpoint: Checkpoint | None = None  # with which its process was killed

    @property
    def metrics(self) -> dict[str, float | None]:
        """The scores of the experiment's own metrics."""
        return {name: value for name, value in self.scores.items() if name not in PROBES}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a model's whole comparison would take here, one training at a time."""

    model: str
    trainings: int
    seconds: float  # of one
    memory: int | None  # bytes


class ExperimentCheck:
    """The checks of one experiment."""

    def __init__(
        self, description: Description, *, epochs: int = EPOCHS, device: str = "cpu", max_seconds: float = MAX_SECONDS
    ) -> None:
        self._description, self._epochs = description, epochs
        self._device, self._max_seconds = device, max_seconds
        self._temporary = Path(tempfile.mkdtemp(prefix="hpo-check-"))
        self._sealed = self._temporary / "without-b"  # the pools as a training sees them: B is not there
        self._sealed.mkdir()
        if (pool := description.folder / "a").exists():
            (self._sealed / "a").symlink_to(pool)
        self._files = 0
        self.costs: list[Cost] = []

    def close(self) -> None:
        """Delete what was written for the children."""
        shutil.rmtree(self._temporary, ignore_errors=True)

    def of_experiment(self) -> Iterator[Finding]:
        """What is known without a training."""
        description = self._description
        sizes = ", ".join(f"{size} items in pool {name.upper()}" for name, size in description.sizes.items())
        text = f"{description.name}, version {description.version}: {len(description.models)} models; {sizes}"
        yield Finding(model="", check="loads", level="ok", text=text.rstrip("; "))
        for remark in description.remarks:
            harmless = any(part in remark for part in _HARMLESS)
            yield Finding(model="", check="data", level="ok" if harmless else "note", text=remark)

    def of_model(self, name: str) -> Iterator[Finding]:
        """What its trainings show; stops at the first that fails."""
        model = self._description.models[name]

        def finding(check: str, level: Level, text: str) -> Finding:
            return Finding(model=name, check=check, level=level, text=text)

        yield finding("space", "ok", _space(model))
        with self._child() as train:
            first = train(name, model)
            if first.why:
                yield finding("trains", "BAD", first.why)
                return
            other_seed = train(name, model, seed=_OTHER_SEED)
            other_round = train(name, model, seed=_OTHER_SEED, draw_seed=_OTHER_DRAW)
            again = train(name, model)
        self.costs.append(self._cost(name, model, first))
        yield finding("trains", "ok", _scores(first))
        if first.epochs:
            problem = _epochs_problem(first.epochs, self._epochs_of(model))
            yield finding("epochs", "BAD" if problem else "ok", problem or f"{len(first.epochs)}, each reported once")
        yield from self._draws(first, finding)
        fresh, test = self._fresh_with_test(name, model)
        same = _compare(first, fresh)
        yield from self._same_seed(name, model, first, fresh, finding)
        if same == "":
            yield finding("warm", *_judged(_compare(first, again), "a training depends on what its process did before"))
            if first.epochs:
                yield self._resumed(name, model, first, finding)
            yield from _other_seed(first, other_seed, other_round, model, finding)
            yield from self._disturbed(name, model, first, finding)
        if test is not None:
            yield test

    # --- The single checks --------------------------------------------------------------------------------------

    def _draws(self, first: Training, finding: Callable[[str, Level, str], Finding]) -> Iterator[Finding]:
        items, units = first.scores.get(SHARED_ITEMS) or 0, first.scores.get(SHARED_UNITS) or 0
        if units:
            yield finding("draws", "BAD", f"training and validation share {units:.0f} units")
        elif items and not math.isnan(items):
            yield finding("draws", "note", f"{items:.0f} validation items are equal to training items")
        else:
            yield finding("draws", "ok", "training and validation share nothing")

    def _same_seed(
        self,
        name: str,
        model: ModelDescription,
        first: Training,
        fresh: Training,
        finding: Callable[[str, Level, str], Finding],
    ) -> Iterator[Finding]:
        """In two fresh processes: one that could read B, one that could not."""
        difference = _compare(first, fresh)
        if not difference:
            yield finding("same seed", "ok", _equality(first, fresh))
            yield finding("withheld B", "ok", "equal whether pool B is there or not")
            return
        with self._child() as train:
            once_more = train(name, model)
        if _compare(first, once_more):
            yield finding("same seed", "BAD", f"{difference}: something draws from a generator that nobody seeded")
        else:
            yield finding("withheld B", "BAD", f"{difference}, as pool B is there or not: the training reads it")

    def _disturbed(
        self, name: str, model: ModelDescription, first: Training, finding: Callable[[str, Level, str], Finding]
    ) -> Iterator[Finding]:
        """All disturbances at once; where that changes something, one by one."""
        fine = {
            REPORTS: "equal with reports and without",
            GLOBALS: "equal without the globals that are as long as the data",
            BATCHES: "outputs do not depend on what is predicted together",
        }
        wrong = {
            REPORTS: "being measured changes the training",
            GLOBALS: "the training reads the data past run.training, validation items among them",
            BATCHES: "outputs depend on which items are predicted together",
        }
        names = {REPORTS: "reports", GLOBALS: "withheld", BATCHES: "batches"}
        with self._child(DISTURBANCES) as train:
            together = _compare(first, train(name, model), BATCH_ROUNDING)
        for disturbance in DISTURBANCES:
            difference = ""
            if together:
                with self._child([disturbance]) as train:
                    difference = _compare(first, train(name, model), BATCH_ROUNDING)
            text = f"{wrong[disturbance]} ({difference})" if difference else fine[disturbance]
            yield finding(names[disturbance], "BAD" if difference else "ok", text)

    def _resumed(
        self, name: str, model: ModelDescription, first: Training, finding: Callable[[str, Level, str], Finding]
    ) -> Finding:
        """Killed at its first checkpoint, and gone on with in another process."""
        if self._epochs_of(model) < 2:
            return finding("resumed", "ok", "not tried: one epoch cannot be interrupted")
        with self._child() as train:
            killed = train(name, model, checkpoints=self._checkpoints(None), kill=True)
        if killed.checkpoint is None:
            if killed.keeps_state:
                return finding("resumed", "note", "not tried: no checkpoint was written")
            return finding("resumed", "ok", "keeps no state: a training that is killed starts anew")
        with self._child() as train:
            difference = _compare(first, train(name, model, checkpoints=self._checkpoints(killed.checkpoint)))
        if difference:
            return finding("resumed", "BAD", f"{difference}: not all of the training's state is kept, or loaded")
        return finding("resumed", "ok", f"equal when killed after epoch {killed.checkpoint.epoch}")

    def _checkpoints(self, resume: Checkpoint | None) -> dict[str, object]:
        """For the child: where checkpoints go, and from which one to go on."""
        self._files += 1
        place = self._temporary / f"checkpoints-{self._files}"
        place.mkdir()
        return {
            "place": str(place),
            "seconds": 0.0,
            "keep_last": False,
            "resume": None if resume is None else {"epoch": resume.epoch, "folder": resume.folder},
        }

    def _fresh_with_test(self, name: str, model: ModelDescription) -> tuple[Training, Finding | None]:
        """A training in a process that may open B, and whether its sealed test works; the scores stay there."""
        with self._child(folder=self._description.folder) as train:
            fresh = train(name, model)
            if fresh.why:
                return fresh, None
            answer = train.test()
        if isinstance(answer, str):
            return fresh, Finding(model=name, check="test", level="BAD", text=f"the test fails: {answer}")
        if answer and not math.isnan(answer):
            text = f"{answer:.0f} test items are equal to items of pool A"
            return fresh, Finding(model=name, check="test", level="note", text=text)
        return fresh, Finding(model=name, check="test", level="ok", text="worked; its scores are not shown")

    # --- Trainings ----------------------------------------------------------------------------------------------

    def _epochs_of(self, model: ModelDescription) -> int:
        return self._epochs if model.epochs is None else min(self._epochs, model.epochs)

    @contextmanager
    def _child(self, disturbances: Sequence[str] = (), folder: Path | None = None) -> Iterator["_Trainer"]:
        """A fresh process to train in; without a folder one in which B is not there."""
        sizes = self._description.sizes
        lengths = sorted({*sizes.values(), sum(sizes.values())} - {0})
        self._files += 1
        file = self._temporary / f"hpo_checked_{self._files}.py"
        file.write_text(
            "from hpo.experiment.checked import checked\n"
            f"experiment = checked({self._description.locator!r}, {list(disturbances)!r}, {lengths!r})\n"
        )
        with (self._temporary / "log").open("ab") as log:
            child = ChildProcess(f"{file}:experiment", folder or self._sealed, device=self._device, threads=1, log=log)
            try:
                yield _Trainer(child, self._device, self._epochs_of, self._max_seconds)
            finally:
                child.close()

    def _cost(self, name: str, model: ModelDescription, training: Training) -> Cost:
        defaults = self._description.defaults
        budget = {**Budget().model_dump(), **defaults.get("budget", {})}
        protocol = {**Protocol().model_dump(), **defaults.get("protocol", {})}
        trainings = protocol["final_rounds"]
        if Space.from_plain(model.space).parameters:
            confirm = (1 + protocol["confirm_configurations"]) * protocol["confirm_rounds"]
            trainings = budget["trials"] * protocol.get("folds", 1) + confirm + 2 * protocol["final_rounds"]
        longer = (model.epochs or budget["epochs"]) / self._epochs_of(model) if training.epochs else 1.0
        return Cost(model=name, trainings=trainings, seconds=training.seconds * longer, memory=training.memory)


class _Trainer:
    """A child that is told to train, and waited for."""

    def __init__(
        self, child: ChildProcess, device: str, epochs_of: Callable[[ModelDescription], int], max_seconds: float
    ) -> None:
        self._child, self._device, self._epochs_of = child, device, epochs_of
        self._max_seconds = max_seconds
        self._ready = False

    def __call__(
        self,
        name: str,
        model: ModelDescription,
        *,
        seed: int = _SEED,
        draw_seed: int = _DRAW,
        checkpoints: Mapping[str, object] | None = None,
        kill: bool = False,
    ) -> Training:
        """Train the model's reference; with `kill` until its first checkpoint."""
        if not self._ready:
            event = self._answer()
            if isinstance(event, str):
                return Training(why=event)
            self._ready = True
        params: dict[str, Value] = Space.from_plain(model.space).complete(model.reference)
        self._seeds = {"seed": seed, "draw_seed": draw_seed, "options": {}}
        task = {"fold": 0, "folds": 1, "device": self._device.partition(":")[0], "threads": 1}
        more = {"model": name, "params": params, "max_epochs": self._epochs_of(model), "checkpoints": checkpoints}
        self._child.tell("train", {**self._seeds, **task, **more})
        epochs: list[int] = []
        keeps_state = False
        while not isinstance(event := self._answer(), str) and event.kind in ("epoch", "resumable", "checkpoint"):
            if event.kind == "epoch":
                epochs.append(int(event.values["epoch"]))
                self._child.tell("reply", {"stop": False})
            elif event.kind == "checkpoint" and kill:
                self._child.kill()
                return Training(keeps_state=True, checkpoint=Checkpoint(**event.values), why="killed")
            keeps_state = keeps_state or event.kind == "resumable"
        if isinstance(event, str):
            return Training(why=event, epochs=tuple(epochs))
        if event.kind != "trained":
            return Training(why=str(event.values.get("why") or event.kind), epochs=tuple(epochs))
        return Training(
            scores=event.values["scores"],
            seconds=event.values["seconds"],
            epochs=tuple(epochs),
            memory=event.values.get("memory"),
            keeps_state=keeps_state,
        )

    def test(self) -> float | str:
        """How many test items stand in A too; or why the test failed."""
        self._child.tell("test", self._seeds)
        answer = self._answer()
        if isinstance(answer, str):
            return answer
        if answer.kind != "tested":
            return str(answer.values.get("why") or answer.kind)
        return float(answer.values["scores"].get(TEST_ITEMS) or 0.0)

    def _answer(self) -> Message | str:
        event = self._child.poll(self._max_seconds)
        if event is None:
            self._child.kill()
            return f"no answer within {self._max_seconds:g} s"
        if isinstance(event, Ended):
            return event.why
        return str(event.values["why"]) if event.kind == "refused" else event


# --- What trainings are compared by -----------------------------------------------------------------------------


def _compare(first: Training, other: Training, rounding: float = ROUNDING) -> str:
    """How two trainings differ; empty where they are equal, to rounding."""
    if other.why:
        return other.why
    difference = _distance(first, other)
    if difference <= rounding:
        return ""
    mine, theirs = first.metrics, other.metrics
    for name, value in mine.items():
        if value is not None and theirs.get(name) not in (None, value):
            return f"{name} is {value:.4g} and {theirs[name]:.4g}"
    return f"outputs differ by {difference:.1g} of their size"


def _distance(first: Training, other: Training) -> float:
    """Between the outputs of two predictors, in parts of their size; infinite where one has none."""
    if first.scores == other.scores:
        return 0.0
    a, b = first.scores.get(OUTPUTS), other.scores.get(OUTPUTS)
    if a is None or b is None or not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    return abs(a - b) / max(abs(first.scores.get(SCALE) or 0.0), 1e-30)


def _equality(first: Training, other: Training) -> str:
    distance = _distance(first, other)
    return "equal in every output" if not distance else f"equal to rounding ({distance:.0e} of the outputs' size)"


def _judged(difference: str, why: str) -> tuple[Level, str]:
    return ("BAD", f"{difference}: {why}") if difference else ("ok", "equal, warm or fresh")


def _other_seed(
    first: Training,
    other_seed: Training,
    other_round: Training,
    model: ModelDescription,
    finding: Callable[[str, Level, str], Finding],
) -> Iterator[Finding]:
    seeds = "; ".join(model.remarks)
    if _compare(first, other_seed):
        yield finding("another seed", "note" if seeds else "ok", seeds or "differs, as it should")
    elif seeds:
        yield finding("another seed", "BAD", f"changes nothing: {seeds}; use run.seed")
    else:
        yield finding("another seed", "ok", "changes nothing: a deterministic method, or one that ignores run.seed")
    if not _compare(first, other_round):
        yield finding("rounds", "note", "equal in every item, so that they count once: there is no spread to compare")


def _epochs_problem(epochs: Sequence[int], most: int) -> str:
    twice = sorted({epoch for epoch in epochs if epochs.count(epoch) > 1})
    if twice:
        return f"epoch {twice[0]} is reported {epochs.count(twice[0])} times"
    if list(epochs) != list(range(1, len(epochs) + 1)):
        return f"epochs are reported as {', '.join(map(str, epochs))}; they must be 1, 2, ..."
    return f"{len(epochs)} epochs are reported, but run.max_epochs is {most}" if len(epochs) > most else ""


def _space(model: ModelDescription) -> str:
    space = Space.from_plain(model.space)
    conditions = sum(bool(parameter.when) for parameter in space.parameters.values())
    conditional = f", {conditions} of them under conditions" if conditions else ""
    if not space.parameters:
        return "nothing to tune: the reference alone is tested"
    many = "" if len(space.parameters) == 1 else "s"
    return f"{len(space.parameters)} hyperparameter{many}{conditional}; the reference lies inside"


def _scores(training: Training) -> str:
    shown = [f"{name} {'-' if value is None else f'{value:.4g}'}" for name, value in training.metrics.items()]
    return f"{', '.join(shown)} on validation items, {training.seconds:.2g} s"


def fewest_rounds(pairs: int) -> int:
    """The fewest final rounds at which a difference can be clear by sign flips, with Holm's correction for pairs."""
    return math.ceil(math.log2(2 * max(1, pairs) / LEVEL))


def check(
    description: Description, models: Sequence[str], *, epochs: int = EPOCHS, device: str = "cpu"
) -> tuple[Iterator[Finding], list[Cost]]:
    """The findings as they come, and a list that is filled with what each model would cost."""
    unknown = [name for name in models if name not in description.models]
    if unknown:
        there = ", ".join(description.models)
        raise ExperimentError(f"experiment {description.name} has no model {unknown[0]!r}; there are {there}")
    checking = ExperimentCheck(description, epochs=epochs, device=device)

    def findings() -> Iterator[Finding]:
        try:
            yield from checking.of_experiment()
            for name in models or description.models:
                yield from checking.of_model(name)
        finally:
            checking.close()

    return findings(), checking.costs


def not_checked(findings: Sequence[Finding]) -> list[str]:
    """What no check can show, or what these did not come to."""
    failed = sorted({finding.model for finding in findings if finding.level == "BAD" and finding.check == "trains"})
    return [
        *(f"{name}: its training failed, so nothing else of it was checked" for name in failed),
        "trainings longer than these, other configurations than the references",
        "what a training reads from disk or from elsewhere by itself, and what other libraries remember of the data",
        "another machine, another device, other versions",
    ]
