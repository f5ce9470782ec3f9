"""The report's section on what tuning did, and what it cost."""

from collections.abc import Iterable, Sequence

from hpo.analysis.model_cost import BATCHES, Latencies, ModelCost
from hpo.analysis.tuning import Spend, Tuning
from hpo.report.charts import theme
from hpo.report.formats import CONFIGURATIONS, NOTHING, percent, signed, value
from hpo.report.html import Bullets, PageTable, Part, numbers, texts
from hpo.report.sentences import tuning_verdict

AT_LEAST = "\N{GREATER-THAN OR EQUAL TO}"
DEVICES = {"cpu": "CPU", "cuda": "GPU"}  # as people call them


def tuning_parts(tuning: Sequence[Tuning], costs: Sequence[ModelCost], latencies: Latencies | None) -> Iterable[Part]:
    """The whole section."""
    yield Bullets(lines=tuple(f"{one.study}: {tuning_verdict(one)}" for one in tuning))
    yield _configurations(tuning)
    yield _stages(tuning)
    yield (
        "The search's value is of one training and was picked for being high; confirm repeats it with fresh seeds "
        "and draws from pool A; the test uses pool B, which no tuning saw. Only the test is unbiased."
    )
    yield _cost(tuning)
    if latencies is not None:
        yield _models(costs, latencies)
        yield (
            "Multiply-adds are those of the convolutions and linear layers. Latency is the median of a few passes of "
            f"the plain network ({latencies.device}), measured when this report was made: no two reports have the same."
        )


def _configurations(tuning: Sequence[Tuning]) -> PageTable:
    return PageTable(
        caption="Configurations side by side",
        columns=texts("study", "hyperparameter") + numbers("paper's", "search's best", "tuned", "searched"),
        rows=tuple(
            (
                one.study,
                theme.PARAMETER_TITLES.get(p.name, p.name),
                value(p.paper),
                value(p.best),
                value(p.tuned),
                f"{value(p.low)} to {value(p.high)}{', log' if p.log else ''}",
            )
            for one in tuning
            for p in one.parameters
        ),
        groups=tuple(one.study for one in tuning for _ in one.parameters),
    )


def _stages(tuning: Sequence[Tuning]) -> PageTable:
    stages = [(one, stage) for one in tuning for stage in one.stages]
    return PageTable(
        caption="From promise to test, accuracy in percent",
        columns=texts("study", "configuration") + numbers("search", "confirm", "search - confirm", "test"),
        rows=tuple(
            (
                one.study,
                CONFIGURATIONS[stage.label],
                percent(stage.search, 2),
                percent(stage.confirm, 2),
                NOTHING if stage.optimism is None else signed(100 * stage.optimism, 2),
                percent(stage.test, 2),
            )
            for one, stage in stages
        ),
        groups=tuple(one.study for one, _ in stages),
    )


def _cost(tuning: Sequence[Tuning]) -> PageTable:
    kinds = sorted({kind for one in tuning for spend in one.spend for kind in spend.device_seconds})
    titles = (
        "search trainings",
        "search epochs",
        "confirm trainings",
        "final trainings",
        "all epochs",
        *([f"{DEVICES.get(kind, kind)} hours" for kind in kinds] or ["CPU or GPU hours"]),
        "lane hours",
    )
    caption = (
        "What it cost: CPU or GPU hours share the time of each epoch among the lanes that trained in it, "
        "lane hours count it for every lane"
    )
    if any(spend.untimed for one in tuning for spend in one.spend):
        caption += f" ({NOTHING} or {AT_LEAST}: not measured in earlier trainings)"
    return PageTable(
        caption=caption,
        columns=texts("study") + numbers(*titles),
        rows=tuple((one.study, *_spend_cells(one, kinds)) for one in tuning),
    )


def _models(costs: Sequence[ModelCost], latencies: Latencies) -> PageTable:
    one, many = BATCHES
    titles = (
        "parameters",
        "multiply-adds a pair",
        "latency of one pair, ms",
        f"of a pair among {many:,}, \N{MICRO SIGN}s",
    )
    return PageTable(
        caption="What each model costs to use",
        columns=texts("model") + numbers(*titles),
        rows=tuple(
            (
                cost.model,
                f"{cost.parameters:,}",
                f"{cost.multiply_adds:,}",
                f"{1e3 * latencies.of(cost.model, one).a_pair:.2f}",
                f"{1e6 * latencies.of(cost.model, many).a_pair:.0f}",
            )
            for cost in costs
        ),
    )


def _spend_cells(tuning: Tuning, kinds: Sequence[str]) -> tuple[str, ...]:
    search, confirm, final = tuning.spend
    return (
        f"{search.runs:,}",
        f"{search.epochs:,}",
        f"{confirm.runs:,}",
        f"{final.runs:,}",
        f"{sum(s.epochs for s in tuning.spend):,}",
        *([_device_hours(tuning.spend, kind) for kind in kinds] or [NOTHING]),
        f"{sum(s.seconds for s in tuning.spend) / 3600:.2f}",
    )


def _device_hours(spend: Sequence[Spend], kind: str) -> str:
    untimed = any(s.untimed for s in spend)
    seconds = sum(s.device_seconds.get(kind, 0.0) for s in spend)
    if untimed and not seconds:
        return NOTHING
    return f"{AT_LEAST} " * untimed + f"{seconds / 3600:.2f}"
