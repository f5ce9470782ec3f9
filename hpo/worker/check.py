"""`hpo experiment check`: what a user must know of an experiment before it costs a week.

No user's code runs in this process: children train the reference of each model, fresh and warm, with one seed and with
another, killed and resumed, disturbed by what must change nothing, and what they answer is compared.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from hpo.errors import ExperimentError
from hpo.experiment.checked import BATCHES, DISTURBANCES, GLOBALS, REPORTS, SHARED_ITEMS, SHARED_UNITS
from hpo.experiment.description import Description, ModelDescription
from hpo.experiment.rows import SAME_VALIDATION
from hpo.experiment.spaces import Space
from hpo.study.spec import Budget, Protocol
from hpo.worker.check_training import OTHER_DRAW, OTHER_SEED, FreshProcesses, Trainer, Training, difference, distance

EPOCHS = 2  # of each training
LEVEL = 0.05  # at which a difference counts as clear
BATCH_ROUNDING = 1e-4  # of outputs, in parts of their size, that predicting other items with them may change
TRAININGS = 6  # of each model, where nothing is wrong
PROCESSES = 3  # for them
CHECKS = (  # in the order of the table
    "loads",
    "data",
    "space",
    "trains",
    "epochs",
    "draws",
    "same seed",
    "withheld B",
    "warm",
    "resumed",
    "another seed",
    "rounds",
    "reports",
    "withheld",
    "batches",
    "test",
)
_HARMLESS = (SAME_VALIDATION, "are in neither pool", "it is not tested")  # parts of remarks on the data
_DISTURBED = {  # the check, what is said where nothing changes, and where something does
    REPORTS: ("reports", "equal with reports and without", "being measured changes the training"),
    GLOBALS: (
        "withheld",
        "equal without the globals that are as long as the data",
        "the training reads the data past run.training, validation items among them",
    ),
    BATCHES: (
        "batches",
        "outputs do not depend on what is predicted together",
        "outputs depend on which items are predicted together",
    ),
}

Level = Literal["ok", "note", "BAD"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A line of the table."""

    model: str  # empty: of the experiment
    check: str
    level: Level
    text: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a model's whole comparison would take here, one training at a time."""

    model: str
    trainings: int
    seconds: float  # of one
    memory: int | None  # bytes


def check(
    description: Description, models: Sequence[str], *, epochs: int = EPOCHS, device: str = "cpu"
) -> tuple[Iterator[Finding], list[Cost]]:
    """The findings as they come, and a list that is filled with what each model would cost."""
    unknown = [name for name in models if name not in description.models]
    if unknown:
        there = ", ".join(description.models)
        raise ExperimentError(f"experiment {description.name} has no model {unknown[0]!r}; there are {there}")
    costs: list[Cost] = []

    def findings() -> Iterator[Finding]:
        yield from _of_experiment(description)
        trainers = FreshProcesses(description, epochs=epochs, device=device)
        try:
            for name in models or description.models:
                checking = ModelCheck(description, name, trainers)
                yield from checking.findings()
                costs.extend(checking.costs)
        finally:
            trainers.close()

    return findings(), costs


def not_checked(findings: Sequence[Finding]) -> list[str]:
    """What no check can show, or what these did not come to."""
    failed = sorted({finding.model for finding in findings if finding.level == "BAD" and finding.check == "trains"})
    return [
        *(f"{name}: its training failed, so nothing else of it was checked" for name in failed),
        "trainings longer than these, other configurations than the references",
        "what a training reads from disk or from elsewhere by itself, and what other libraries remember of the data",
        "another machine, another device, other versions",
    ]


def fewest_rounds(pairs: int) -> int:
    """The fewest final rounds at which a difference can be clear by sign flips, with Holm's correction for pairs."""
    return math.ceil(math.log2(2 * max(1, pairs) / LEVEL))


def _of_experiment(description: Description) -> Iterator[Finding]:
    """What is known without a training."""
    count = len(description.models)
    sizes = ", ".join(f"{size} items in pool {name.upper()}" for name, size in description.sizes.items())
    text = f"{description.name}, version {description.version}: {count} model{'' if count == 1 else 's'}; {sizes}"
    yield Finding(model="", check="loads", level="ok", text=text.rstrip("; "))
    for remark in description.remarks:
        harmless = any(part in remark for part in _HARMLESS)
        yield Finding(model="", check="data", level="ok" if harmless else "note", text=remark)


class ModelCheck:
    """The checks of one model."""

    def __init__(self, description: Description, name: str, trainers: FreshProcesses) -> None:
        self._description, self._name, self._trainers = description, name, trainers
        self._model: ModelDescription = description.models[name]
        self.costs: list[Cost] = []  # one, where it trains

    def findings(self) -> Iterator[Finding]:
        """What its trainings show; stops at the first that fails."""
        yield self._finding("space", "ok", _space(self._model))
        began = time.monotonic()
        with self._fresh() as trainer:
            first = trainer.train()
            rest = (PROCESSES - 1) * (time.monotonic() - began) + (TRAININGS - PROCESSES) * first.seconds
            if first.why:
                yield self._finding("trains", "BAD", first.why)
                return
            yield self._finding("trains", "ok", f"{_scores(first)}; the other checks take about {rest:.0f} s")
            other_seed = trainer.train(seed=OTHER_SEED)
            other_round = trainer.train(seed=OTHER_SEED, draw_seed=OTHER_DRAW)
            again = trainer.train()
        self.costs.append(self._cost(first))
        if first.epochs:
            problem = _epochs_problem(first.epochs, self._trainers.epochs_of(self._model))
            fine = f"{len(first.epochs)}, each reported once"
            yield self._finding("epochs", "BAD" if problem else "ok", problem or fine)
        yield self._draws(first)
        fresh, test = self._with_test()
        yield from self._same_seed(first, fresh)
        if not difference(first, fresh):
            yield self._warm(first, again)
            if first.epochs:
                yield self._resumed(first)
            yield from self._other_seed(first, other_seed, other_round)
            yield from self._disturbed(first)
        if test is not None:
            yield test

    def _draws(self, first: Training) -> Finding:
        items, units = first.scores.get(SHARED_ITEMS) or 0, first.scores.get(SHARED_UNITS) or 0
        if units:
            return self._finding("draws", "BAD", f"training and validation share {units:.0f} units")
        if items and not math.isnan(items):
            return self._finding("draws", "note", f"{items:.0f} validation items are equal to training items")
        return self._finding("draws", "ok", "training and validation share nothing")

    def _with_test(self) -> tuple[Training, Finding | None]:
        """A training in a process that may open B, and whether its sealed test works."""
        with self._fresh(with_b=True) as trainer:
            training = trainer.train()
            if training.why:
                return training, None
            shared = trainer.test()
        if isinstance(shared, str):
            return training, self._finding("test", "BAD", f"the test fails: {shared}")
        if shared and not math.isnan(shared):
            return training, self._finding("test", "note", f"{shared:.0f} test items are equal to items of pool A")
        return training, self._finding("test", "ok", "worked; its scores are not shown")

    def _same_seed(self, first: Training, fresh: Training) -> Iterator[Finding]:
        """In two fresh processes: one that could not read B, one that could."""
        differs = difference(first, fresh)
        if not differs:
            size = distance(first, fresh)
            equal = f"equal to rounding ({size:.0e} of the outputs' size)" if size else "equal in every output"
            yield self._finding("same seed", "ok", equal)
            yield self._finding("withheld B", "ok", "equal whether pool B is there or not")
            return
        with self._fresh() as trainer:
            is_random = bool(difference(first, trainer.train()))
        if is_random:
            text = f"{differs}: something draws from a generator that nobody seeded"
            yield self._finding("same seed", "BAD", text)
        else:
            yield self._finding("withheld B", "BAD", f"{differs}, as pool B is there or not: the training reads it")

    def _warm(self, first: Training, again: Training) -> Finding:
        if differs := difference(first, again):
            return self._finding("warm", "BAD", f"{differs}: a training depends on what its process did before")
        return self._finding("warm", "ok", "equal, warm or fresh")

    def _resumed(self, first: Training) -> Finding:
        """Killed at its first checkpoint, and gone on with in another process."""
        if not first.keeps_state:
            return self._finding("resumed", "ok", "keeps no state: a training that is killed starts anew")
        if self._trainers.epochs_of(self._model) < 2:
            return self._finding("resumed", "ok", "not tried: one epoch cannot be interrupted")
        with self._fresh() as trainer:
            checkpoint = (killed := trainer.train(kill=True)).checkpoint
        if checkpoint is None:
            text = f"the training that was to be killed failed: {killed.why}" if killed.why else "no checkpoint came"
            return self._finding("resumed", "BAD", text)
        with self._fresh() as trainer:
            differs = difference(first, trainer.train(resume=checkpoint))
        if differs:
            return self._finding("resumed", "BAD", f"{differs}: not all of the training's state is kept, or loaded")
        return self._finding("resumed", "ok", f"equal when killed after epoch {checkpoint.epoch}")

    def _other_seed(self, first: Training, other_seed: Training, other_round: Training) -> Iterator[Finding]:
        seeds = "; ".join(self._model.remarks)
        if other_seed.why:
            yield self._finding("another seed", "BAD", other_seed.why)
        elif difference(first, other_seed):
            yield self._finding("another seed", "note" if seeds else "ok", seeds or "differs, as it should")
        elif seeds:
            yield self._finding("another seed", "BAD", f"changes nothing: {seeds}; use run.seed")
        else:
            text = "changes nothing: a deterministic method, or one that ignores run.seed"
            yield self._finding("another seed", "ok", text)
        if other_round.why:
            yield self._finding("rounds", "BAD", other_round.why)
        elif not difference(first, other_round):
            text = "equal in every item, so that they count once: there is no spread to compare"
            yield self._finding("rounds", "note", text)

    def _disturbed(self, first: Training) -> Iterator[Finding]:
        """All disturbances at once; where that changes something, one by one."""
        with self._fresh(DISTURBANCES) as trainer:
            together = difference(first, trainer.train(), BATCH_ROUNDING)
        for disturbance in DISTURBANCES:
            name, fine, wrong = _DISTURBED[disturbance]
            differs = ""
            if together:
                with self._fresh([disturbance]) as trainer:
                    differs = difference(first, trainer.train(), BATCH_ROUNDING)
            yield self._finding(name, "BAD" if differs else "ok", f"{wrong} ({differs})" if differs else fine)

    def _cost(self, training: Training) -> Cost:
        model, defaults = self._model, self._description.defaults
        budget = {**Budget().model_dump(), **defaults.get("budget", {})}
        protocol = {**Protocol().model_dump(), **defaults.get("protocol", {})}
        trainings = protocol["final_rounds"]
        if Space.from_plain(model.space).parameters:
            confirm = (1 + protocol["confirm_configurations"]) * protocol["confirm_rounds"]
            trainings = budget["trials"] * protocol.get("folds", 1) + confirm + 2 * protocol["final_rounds"]
        longer = (model.epochs or budget["epochs"]) / self._trainers.epochs_of(model) if training.epochs else 1.0
        return Cost(model=self._name, trainings=trainings, seconds=training.seconds * longer, memory=training.memory)

    def _fresh(self, disturbances: Sequence[str] = (), *, with_b: bool = False) -> AbstractContextManager[Trainer]:
        return self._trainers.fresh(self._name, self._model, disturbances, with_b=with_b)

    def _finding(self, check: str, level: Level, text: str) -> Finding:
        return Finding(model=self._name, check=check, level=level, text=text)


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
