"""The report's section on what tuning changed, and what it cost."""

from collections.abc import Iterable, Sequence

from hpo.analysis.model_cost import BATCHES, Latencies, ModelCost
from hpo.analysis.tuning import Spend, Tuning
from hpo.report.charts import theme
from hpo.report.formats import CONFIGURATIONS, MINUS, NOTHING, percent, signed, value
from hpo.report.html import Bullets, PageTable, Part, numbers, texts
from hpo.report.sentences import tuning_verdict

AT_LEAST = "\N{GREATER-THAN OR EQUAL TO}"
DEVICES = {"cpu": "CPU", "cuda": "GPU"}  # by torch's names


def tuning_parts(tunings: Sequence[Tuning], costs: Sequence[ModelCost], latencies: Latencies | None) -> Iterable[Part]:
    """The whole section."""
    yield Bullets(lines=tuple(f"{tuning.study}: {tuning_verdict(tuning)}" for tuning in tunings))
    yield _configurations(tunings)
    yield _stages(tunings)
    yield (
        "The search value comes from a single training and was selected for being high; the confirm phase repeats the "
        "training with fresh seeds and draws from pool A; the test uses pool B, which tuning never saw. Only the test "
        "value is unbiased."
    )
    yield _cost(tunings)
    if latencies is not None:
        yield _models(costs, latencies)
        yield (
            "Multiply-adds count the convolutions and linear layers. Latency is the median of a few forward passes of "
            f"the plain network ({latencies.device}), measured when this report was made, so it differs from report to "
            "report."
        )


def _configurations(tunings: Sequence[Tuning]) -> PageTable:
    return PageTable(
        caption="Configurations side by side",
        columns=texts("study", "hyperparameter") + numbers("paper's", "search's best", "tuned", "searched"),
        rows=tuple(
            (
                tuning.study,
                theme.PARAMETER_TITLES.get(p.name, p.name),
                value(p.paper),
                value(p.best),
                value(p.tuned),
                f"{value(p.low)} to {value(p.high)}{', log' if p.log else ''}",
            )
            for tuning in tunings
            for p in tuning.parameters
        ),
        grouped=True,
    )


def _stages(tunings: Sequence[Tuning]) -> PageTable:
    return PageTable(
        caption="From search to test: accuracy in percent",
        columns=texts("study", "configuration") + numbers("search", "confirm", f"search {MINUS} confirm", "test"),
        rows=tuple(
            (
                tuning.study,
                CONFIGURATIONS[stage.label],
                percent(stage.search, 2),
                percent(stage.confirm, 2),
                NOTHING if stage.optimism is None else signed(100 * stage.optimism, 2),
                percent(stage.test, 2),
            )
            for tuning in tunings
            for stage in tuning.stages
        ),
        grouped=True,
    )


def _cost(tunings: Sequence[Tuning]) -> PageTable:
    kinds = sorted({kind for tuning in tunings for spend in tuning.spend for kind in spend.device_seconds})
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
        "What it cost: CPU or GPU hours divide the time of each epoch among the lanes that trained in it, "
        "lane hours count it in full for every lane"
    )
    if any(spend.untimed for tuning in tunings for spend in tuning.spend):
        caption += f" ({NOTHING} or {AT_LEAST}: not measured by earlier versions)"
    return PageTable(
        caption=caption,
        columns=texts("study") + numbers(*titles),
        rows=tuple((tuning.study, *_spend_cells(tuning, kinds)) for tuning in tunings),
    )


def _models(costs: Sequence[ModelCost], latencies: Latencies) -> PageTable:
    single, many = BATCHES
    titles = (
        "parameters",
        "multiply-adds per pair",
        "latency of one pair, ms",
        f"per pair in a batch of {many:,}, \N{MICRO SIGN}s",
    )
    return PageTable(
        caption="Cost of inference",
        columns=texts("model") + numbers(*titles),
        rows=tuple(
            (
                cost.model,
                f"{cost.parameters:,}",
                f"{cost.multiply_adds:,}",
                f"{1e3 * latencies.of(cost.model, single).a_pair:.2f}",
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
