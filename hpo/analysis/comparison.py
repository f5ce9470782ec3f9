"""The comparison: the rows of the table and the pairs of configurations, as numbers alone.

A row never comes without its epochs. Accuracies are fractions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hpo.analysis import stats
from hpo.analysis.answers import Answers, RoundAnswers, crossed_intervals
from hpo.analysis.pairwise import Pair, PairSide, Setting, pairs_of, setting_of
from hpo.analysis.repeats import Repeats, repeats_of
from hpo.results.records import FinalResult, StudyResult
from hpo.study.labels import PAPER, PUBLISHED, TUNED
from hpo.study.spec import MODELS, ModelName

PUBLISHED_EPOCHS, PUBLISHED_ROUNDS = 40, 20
PUBLISHED_ACCURACIES: dict[ModelName, tuple[float, float, float, float]] = {  # train mean, std, test mean, std
    "simple": (0.992, 0.004, 0.841, 0.012),
    "ws": (0.993, 0.007, 0.872, 0.011),
    "ws-aux": (0.998, 0.003, 0.971, 0.009),
}
"""EE-559, "Development of a deep neural network comparing hand written digits" (2019)."""


# --- The table --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Accuracies over rounds, summarised; published ones come without the single values."""

    n: int  # rounds
    mean: float | None
    std: float | None  # n - 1
    interval: stats.Interval | None = None  # of the mean
    median: float | None = None
    median_interval: stats.Interval | None = None
    iqm: float | None = None
    iqm_interval: stats.Interval | None = None
    values: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """One row of the comparison table."""

    model: ModelName
    label: str  # "published", "paper", "tuned", or that of `hpo evaluate --label`
    study: str | None  # None: published
    setting: int | None  # index into Comparison.settings
    epochs: int
    trials: int | None  # of the search; None for rows without one
    rounds: int
    planned: int
    train: Summary
    test: Summary  # a diverged round counts at chance accuracy; the train values leave it out
    diverged: int = 0  # rounds
    failed: int = 0  # rounds
    same_as: str | None = None  # the label of the configuration whose rounds these are too


def published_row(model: ModelName) -> TableRow:
    """The paper's own numbers."""
    train_mean, train_std, test_mean, test_std = PUBLISHED_ACCURACIES[model]
    return TableRow(
        model=model,
        label=PUBLISHED,
        study=None,
        setting=None,
        epochs=PUBLISHED_EPOCHS,
        trials=None,
        rounds=PUBLISHED_ROUNDS,
        planned=PUBLISHED_ROUNDS,
        train=Summary(n=PUBLISHED_ROUNDS, mean=train_mean, std=train_std),
        test=Summary(n=PUBLISHED_ROUNDS, mean=test_mean, std=test_std),
    )


def summarize(values: Iterable[float | None]) -> Summary:
    """Summarise the values that are known."""
    known = tuple(value for value in values if value is not None)
    if not known:
        return Summary(n=0, mean=None, std=None)
    return Summary(
        n=len(known),
        mean=stats.mean(known),
        std=stats.std(known),
        interval=stats.t_interval(known),
        median=stats.median(known),
        median_interval=stats.median_interval(known),
        iqm=stats.iqm(known),
        iqm_interval=stats.iqm_interval(known),
        values=known,
    )


def _row(result: StudyResult, final: FinalResult, setting: int) -> TableRow:
    return TableRow(
        model=result.model,
        label=final.label,
        study=result.name,
        setting=setting,
        epochs=result.spec.budget.epochs,
        trials=result.trials.total if final.label == TUNED and result.trials.total else None,
        rounds=final.rounds,
        planned=final.planned,
        train=summarize(final.train_values),
        test=summarize(final.test_values),
        diverged=final.diverged,
        failed=final.failed,
        same_as=final.same_as,
    )


# --- Everything ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """What may be compared, and the outcome."""

    settings: tuple[Setting, ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All that the report compares."""

    rows: tuple[TableRow, ...]
    settings: tuple[Setting, ...]
    pairs: tuple[Pair, ...]
    repeats: Repeats

    @property
    def repeated(self) -> bool:
        """Whether model, label and setting do not identify a row, so that its study must be named."""
        return len({(row.model, row.label, row.setting) for row in self.rows}) < len(self.rows)

    @property
    def paired(self) -> Paired:
        """The part that `paired_of` computes."""
        return Paired(settings=self.settings, pairs=self.pairs)


def paired_of(results: Sequence[StudyResult]) -> Paired:
    """All pairs that may be compared; takes milliseconds, where the table's bootstrap intervals take seconds."""
    settings: list[Setting] = []
    for result in results:
        if any(final.rounds for final in result.final) and setting_of(result) not in settings:
            settings.append(setting_of(result))
    pairs = [pair for index in range(len(settings)) for pair in pairs_of(results, settings, index)]
    return Paired(settings=tuple(settings), pairs=tuple(pairs))


def compare(results: Sequence[StudyResult], answers: Mapping[int, Answers] | None = None) -> Comparison:
    """Compare all final rounds that may be compared.

    `answers`, by study id, add the uncertainty that comes from the choice of images.
    """
    paired = paired_of(results)
    settings, pairs, repeats = paired.settings, paired.pairs, repeats_of(results, paired.settings)
    if answers:
        pairs = tuple(_with_images(pairs, answers))
    return Comparison(
        rows=tuple(_rows(results, settings)),
        settings=settings,
        pairs=pairs,
        repeats=repeats,
    )


def _with_images(pairs: Sequence[Pair], answers: Mapping[int, Answers]) -> list[Pair]:
    """The pairs with intervals for new images, where the answers of all their rounds are at hand."""

    def rounds(side: PairSide) -> Mapping[int, RoundAnswers]:
        return answers[side.study_id].by_label.get(side.label, {}) if side.study_id in answers else {}

    sides = [(rounds(pair.a), rounds(pair.b)) for pair in pairs]
    missing = [[r for r in p.rounds if r not in a or r not in b] for p, (a, b) in zip(pairs, sides, strict=True)]
    complete = [({}, {}) if lacking else side for side, lacking in zip(sides, missing, strict=True)]
    return [
        replace(pair, images=interval, unanswered=len(lacking) if _at_hand(pair, answers) else 0)
        for pair, interval, lacking in zip(pairs, crossed_intervals(complete), missing, strict=True)
    ]


def _at_hand(pair: Pair, answers: Mapping[int, Answers]) -> bool:
    return {pair.a.study_id, pair.b.study_id} <= answers.keys()


def _rows(results: Sequence[StudyResult], settings: Sequence[Setting]) -> list[TableRow]:
    """By model: published, the paper's configuration re-run, tuned, others."""
    rows = [published_row(model) for model in MODELS if any(r.model == model for r in results)]
    for result in results:
        measured = [final for final in result.final if final.rounds]
        rows += [_row(result, final, settings.index(setting_of(result))) for final in measured]
    order = {PUBLISHED: 0, PAPER: 1, TUNED: 2}
    return sorted(rows, key=lambda r: (MODELS.index(r.model), order.get(r.label, 3), r.setting or 0))
