"""Records of what the database holds about studies; `queries.py` fills them.

Values are in the unit of the study's first metric (accuracies are fractions), times are seconds since 1970, durations
are seconds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Literal

from hpo.experiment import shipped
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.spaces import Value
from hpo.storage.studies import CodeChange
from hpo.study.phases import too_many_failed
from hpo.study.ranking import ConfirmResult
from hpo.study.spec import StudySpec

RunState = Literal["waiting", "running", "complete", "pruned", "diverged", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRecord:
    """One slot and the result of its training; what is not known (yet) is None or empty."""

    slot_id: int
    kind: Literal["search", "confirm", "final"]
    idx: int  # of the slot among those of its study and kind, from 0
    number: int | None  # Optuna's number of the trial
    label: str | None  # confirm, final: which configuration
    round: int | None  # confirm, final: from 0
    state: RunState
    adaptive: bool  # search: its parameters depend on earlier results
    params: Mapping[str, Value] | None  # the active ones
    value: float | None = None  # of the first metric; search, confirm: on validation items; final: on test items
    loss: float | None = None  # of the second metric
    train_accuracy: float | None = None
    epochs: int  # trained
    train_loss: tuple[float | None, ...] = ()  # by epoch; None where it was not finite
    validation_accuracy: tuple[float, ...] = ()  # by epoch, of the first metric; empty in final rounds
    metrics: Mapping[str, float | None] = field(default_factory=dict)  # all of them; the first format has none
    numbers: Mapping[str, float | None] = field(default_factory=dict)  # that the training reported last
    memory: int | None = None  # bytes that the training's process had at its end
    items: int | None = None  # that it was measured on
    units_digest: str | None = None  # final: of what the test items were sampled from, in order
    seconds: float | None = None  # in a lane; lanes of one device train side by side
    device_seconds: float | None = None  # of the device: each epoch's time is shared among the lanes that trained in it
    attempt: int  # claims so far
    expiries: int  # leases that expired without progress
    failures: int  # exceptions in the model's code
    worker: str | None
    device: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    git_commit: str | None = None  # of hpo
    code_digest: str | None = None  # of the user's code that trained
    spec_digest: str | None = None
    data_digest: str | None = None
    slot_seed: int
    draw_seed: int | None = None
    error: str | None  # of the last attempt that failed, with the traceback; kept if a later attempt succeeds
    started_at: float | None
    finished_at: float | None

    @property
    def done(self) -> bool:
        """Whether it has an outcome."""
        return self.state in ("complete", "pruned", "diverged")


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """One opening of the test pool B."""

    slot_id: int
    attempt: int
    worker: str
    opened_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialCounts:
    """The search's trials by state."""

    waiting: int = 0
    running: int = 0
    complete: int = 0
    pruned: int = 0
    diverged: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """All of them: the budget."""
        return sum(asdict(self).values())

    @property
    def open(self) -> int:
        """Those without an outcome yet."""
        return self.waiting + self.running


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The best complete trial of the search, the paper's included."""

    number: int
    value: float  # on validation items; optimistic, as the best of all
    params: Mapping[str, Value]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """The configuration that won the confirm phase."""

    params: Mapping[str, Value]
    source: str | int  # the reference's label, or the number of a search trial
    confirm_mean: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalResult:
    """The final rounds of one configuration; only rounds that are done have values."""

    label: str
    params: Mapping[str, Value]
    planned: int  # rounds asked for
    round_numbers: tuple[int, ...]  # of the values, ascending; rounds are paired by number
    train_values: tuple[float | None, ...]  # None where the round diverged
    test_values: tuple[float, ...]  # a diverged round counts at the metric's value for that
    diverged: int
    failed: int
    metrics: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)  # on test items, by name
    units: tuple[str | None, ...] = ()  # digests of what the test items were sampled from
    items: tuple[int | None, ...] = ()  # how many test items there were
    same_as: str | None = None  # the reference's label where it won: both labels have the same rounds

    @property
    def rounds(self) -> int:
        """Rounds that are done."""
        return len(self.test_values)

    @property
    def train_mean(self) -> float | None:
        """Mean training accuracy of the rounds that have one."""
        return mean(self.train_values)

    @property
    def train_std(self) -> float | None:
        """Its standard deviation with n - 1; None below two rounds."""
        return std(self.train_values)

    @property
    def test_mean(self) -> float | None:
        """Mean on test items."""
        return mean(self.test_values)

    @property
    def test_std(self) -> float | None:
        """Its standard deviation with n - 1; None below two rounds."""
        return std(self.test_values)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyResult:
    """Everything that the database holds about one study."""

    id: int
    name: str
    model: str
    phase: Literal["search", "confirm", "final", "done"]
    paused: bool
    seed: int
    repeat_group: str | None
    spec: StudySpec
    spec_digest: str
    data_digest: str
    code_digest: str | None = None  # of the user's code that trains
    code_changes: tuple[CodeChange, ...] = ()  # accepted since the study was made, in order
    created_at: float
    search: tuple[TrainingRecord, ...]  # by index
    confirm: tuple[TrainingRecord, ...]
    final_runs: tuple[TrainingRecord, ...]
    openings: tuple[Opening, ...]
    trials: TrialCounts
    best: Best | None
    tuned: Tuned | None
    ranking: tuple[ConfirmResult, ...]  # best first; those that may not win come last
    final: tuple[FinalResult, ...]  # tuned, reference, then others as they were added
    waits_for: tuple[str, ...] = ()  # studies whose searches keep its test pool shut
    gone: tuple[str, ...] = ()  # Optuna's studies that were deleted past hpo: this study cannot go on
    missing: tuple[str, ...]  # sentences about what is not there yet

    @property
    def experiment(self) -> str:
        """The experiment's name."""
        return self.spec.experiment

    @property
    def is_shipped(self) -> bool:
        """Whether it is of the experiment that comes with hpo, which commands mean where they name none."""
        return self.experiment == shipped.NAME

    @property
    def metric(self) -> MetricInfo:
        """The one that judges."""
        return self.spec.metric

    @property
    def metrics(self) -> tuple[MetricInfo, ...]:
        """All that are measured; the second breaks ties."""
        return (self.metric, *self.spec.metrics[1:])

    @property
    def epochs(self) -> int | None:
        """Of each training; None where all that has ended had none: its method does not go epoch by epoch."""
        done = [run for run in self.runs if run.state == "complete"]
        return self.spec.budget.epochs if not done or any(run.epochs for run in done) else None

    @property
    def reference_label(self) -> str:
        """What tables and sentences call the configuration to compare with."""
        return self.spec.shown_reference

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """What is tuned, in the order of every table and file."""
        return tuple(self.spec.parsed_space.parameters)

    @property
    def is_fixed(self) -> bool:
        """Whether there is nothing to tune: its reference configuration is all that there is."""
        return not self.hyperparameters

    @property
    def runs(self) -> tuple[TrainingRecord, ...]:
        """All runs of all phases."""
        return self.search + self.confirm + self.final_runs

    @property
    def redraws_test(self) -> bool:
        """Whether its final rounds have different test items."""
        return self.spec.traits.redraws_test or len({run.units_digest for run in self.final_runs} - {None}) > 1

    @property
    def is_inconclusive(self) -> bool:
        """Whether too many trials of the search failed for conclusions about its tuned configuration."""
        return too_many_failed(self.trials.failed, self.trials.total)

    @property
    def is_blocked(self) -> bool:
        """Whether the study stands still until `hpo study resume` queues again what failed."""
        if self.phase == "search":
            return self.is_inconclusive and not self.trials.open
        runs = {"confirm": self.confirm, "final": self.final_runs}.get(self.phase, ())
        if not runs or any(run.state in ("waiting", "running") for run in runs):
            return False
        if self.phase == "confirm":
            return not any(ranked.whole for ranked in self.ranking)
        return any(run.state == "failed" for run in runs)

    def final_of(self, label: str) -> FinalResult | None:
        """The final rounds under a label, or None where there are none."""
        return next((f for f in self.final if f.label == label), None)


def models_of(results: Iterable[StudyResult]) -> list[tuple[str, str]]:
    """Experiments as they were first created, and their models: where they have no order, as they were created too."""
    places = {(result.experiment, result.model): result.spec.traits.place for result in results}
    experiments = list(dict.fromkeys(experiment for experiment, _ in places))
    return sorted(places, key=lambda key: (experiments.index(key[0]), places[key]))


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def std(values: Iterable[float | None]) -> float | None:
    """Standard deviation (n - 1) of the values that are known; None below two."""
    known = [value for value in values if value is not None]
    return stdev(known) if len(known) > 1 else None
