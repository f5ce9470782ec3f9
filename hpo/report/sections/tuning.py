"""The report's section on what tuning changed, and what it cost."""

from collections.abc import Iterable, Sequence

from hpo.analysis.tuning import Spend, Tuning
from hpo.experiment.page import Bullets, PageTable, Part, numbers, texts
from hpo.report.charts.theme import parameter_title
from hpo.report.formats import (
    MINUS,
    NOTHING,
    Scale,
    by_metric,
    configuration,
    decimals,
    figures,
    references,
    signed,
    value,
)
from hpo.report.sentences import overtuning_sentence, tuning_verdict

AT_LEAST = "\N{GREATER-THAN OR EQUAL TO}"
DEVICES = {"cpu": "CPU", "cuda": "GPU"}  # by torch's names


def tuning_parts(tunings: Sequence[Tuning]) -> Iterable[Part]:
    """The whole section."""
    yield Bullets(lines=tuple(f"{tuning.study}: {tuning_verdict(tuning)}" for tuning in tunings))
    if any(tuning.parameters for tuning in tunings):
        yield _configurations(tunings)
    for of_metric in by_metric(tunings):
        yield _stages(of_metric)
        if any(tuning.confirmed for tuning in of_metric):
            yield _optimism(of_metric)
        overtuned = [(tuning, overtuning_sentence(tuning)) for tuning in of_metric]
        if any(line for _, line in overtuned):
            yield Bullets(lines=tuple(f"{tuning.study}: {line}" for tuning, line in overtuned if line))
    good = " or ".join(dict.fromkeys("high" if tuning.metric.maximize else "low" for tuning in tunings))
    yield (
        f"The search value comes from a single training and was selected for being {good}; the confirm phase repeats "
        "the training with fresh seeds and draws from pool A; the test uses pool B, which tuning never saw. Only the "
        "test value is unbiased."
    )
    for by_user in (False, True):
        of_kind = [tuning for tuning in tunings if tuning.by_user == by_user]
        if of_kind:
            yield _cost(of_kind, lanes=not by_user)
    if any(tuning.reported for tuning in tunings):
        yield _reported(tunings)


def _configurations(tunings: Sequence[Tuning]) -> PageTable:
    labels = dict.fromkeys(references(tuning.reference_label).removeprefix("the ") for tuning in tunings)
    title = next(iter(labels)) if len(labels) == 1 else "reference"
    return PageTable(
        caption="Configurations side by side"
        + (f"; {NOTHING}: inactive, or not known" if any(_has_blank(tuning) for tuning in tunings) else ""),
        columns=texts("study", "hyperparameter") + numbers(title, "search's best", "tuned", "searched"),
        rows=tuple(
            (
                tuning.study,
                parameter_title(p.name),
                value(p.reference),
                value(p.best),
                value(p.tuned),
                p.range if p.low is None or p.high is None else _range(p.low, p.high, p.log),
            )
            for tuning in tunings
            for p in tuning.parameters
        ),
        grouped=True,
    )


def _range(low: float, high: float, log: bool) -> str:
    return f"{value(low)} to {value(high)}{', log' if log else ''}"


def _has_blank(tuning: Tuning) -> bool:
    """Whether a hyperparameter is inactive in the reference configuration."""
    return any(p.reference is None for p in tuning.parameters)


def _stages(tunings: Sequence[Tuning]) -> PageTable:
    scale = Scale(tunings[0].metric)
    what = "accuracy in percent" if scale.is_percent else f"{scale.column('').strip()}, {scale.better}"
    gap = f"search {MINUS} confirm"
    return PageTable(
        caption=f"From search to test: {what}",
        columns=texts("study", "configuration") + numbers("search", "confirm", gap, "test"),
        rows=tuple(
            (
                tuning.study,
                configuration(stage.label),
                scale.number(stage.search, 2),
                scale.number(stage.confirm, 2),
                NOTHING if stage.optimism is None else _gap(scale, stage.optimism),
                scale.number(stage.test, 2),
            )
            for tuning in tunings
            for stage in tuning.stages
        ),
        grouped=True,
    )


def _optimism(tunings: Sequence[Tuning]) -> PageTable:
    """How far the search's values of all confirmed configurations hold."""
    scale = Scale(tunings[0].metric)
    rows = [(tuning, confirmed) for tuning in tunings for confirmed in tuning.confirmed]
    what = "accuracy in percent" if scale.is_percent else f"{scale.column('').strip()}, {scale.better}"
    return PageTable(
        caption=f"Every confirmed configuration, validation {what}: one training in the search, then fresh seeds and "
        "draws. Leads are over the reference, in the same rounds; what a lead lost was luck: of that trial in the "
        "search, or, where all leads lost, of the reference's one training there",
        columns=texts("study", "configuration")
        + numbers("search", "rounds", "confirm ± s.e.", "lead in search", "lead in confirm ± s.e.", "lost"),
        rows=tuple(
            (
                tuning.study,
                confirmed.label + (", the search's best" if confirmed.is_best else ""),
                scale.number(confirmed.search, 2),
                str(confirmed.rounds),
                scale.number(confirmed.confirm, 2) + _give_or_take(scale, confirmed.confirm_error),
                _lead(scale, confirmed.search_lead),
                _lead(scale, confirmed.confirm_lead) + _give_or_take(scale, confirmed.confirm_lead_error),
                _lead(scale, confirmed.lost),
            )
            for tuning, confirmed in rows
        ),
        grouped=True,
        folded=True,
    )


def _lead(scale: Scale, improvement: float | None) -> str:
    return NOTHING if improvement is None else scale.difference(improvement)


def _give_or_take(scale: Scale, error: float | None) -> str:
    return "" if error is None or scale.metric.is_relative else f" ± {scale.size(error)}"


def _gap(scale: Scale, optimism: float) -> str:
    """Search minus confirm, in the metric's unit."""
    change = scale.metric.sign * optimism
    return signed(100 * change, 2) if scale.is_percent else signed(change, decimals([change], 3))


def _cost(tunings: Sequence[Tuning], *, lanes: bool) -> PageTable:
    """What was spent; functions train in processes of their own, and often for minutes only."""
    kinds = sorted({kind for tuning in tunings for spend in tuning.spend for kind in spend.device_seconds})
    epochs = any(spend.epochs for tuning in tunings for spend in tuning.spend)
    longest = max(sum(spend.seconds for spend in tuning.spend) for tuning in tunings)
    unit, seconds = ("minutes", 60) if not lanes and longest < 3600 else ("hours", 3600)
    titles = (
        "search trainings",
        *(("search epochs",) if epochs else ()),
        "confirm trainings",
        "final trainings",
        *(("all epochs",) if epochs else ()),
        *([f"{DEVICES.get(kind, kind)} {unit}" for kind in kinds] or [f"CPU or GPU {unit}"]),
        f"lane {unit}" if lanes else f"{unit} in all",
    )
    if lanes:
        caption = (
            "What it cost: CPU or GPU hours divide the time of each epoch among the lanes that trained in it, "
            "lane hours count it in full for every lane"
        )
    else:
        caption = (
            f"What it cost: CPU or GPU {unit} are those in the training functions, {unit} in all count drawing, "
            "measuring and waiting too"
        )
    if any(spend.untimed for tuning in tunings for spend in tuning.spend):
        caption += f" ({NOTHING} or {AT_LEAST}: not measured by earlier versions)"
    return PageTable(
        caption=caption,
        columns=texts("study") + numbers(*titles),
        rows=tuple((tuning.study, *_spend_cells(tuning, kinds, epochs, seconds)) for tuning in tunings),
    )


def _spend_cells(tuning: Tuning, kinds: Sequence[str], epochs: bool, seconds: int) -> tuple[str, ...]:
    """A study's row; times are in units of so many seconds."""
    search, confirm, final = tuning.spend
    return (
        f"{search.runs:,}",
        *((f"{search.epochs:,}",) if epochs else ()),
        f"{confirm.runs:,}",
        f"{final.runs:,}",
        *((f"{sum(s.epochs for s in tuning.spend):,}",) if epochs else ()),
        *([_device_time(tuning.spend, kind, seconds) for kind in kinds] or [NOTHING]),
        f"{sum(s.seconds for s in tuning.spend) / seconds:.2f}",
    )


def _device_time(spend: Sequence[Spend], kind: str, unit: int) -> str:
    untimed = any(s.untimed for s in spend)
    seconds = sum(s.device_seconds.get(kind, 0.0) for s in spend)
    if untimed and not seconds:
        return NOTHING
    return f"{AT_LEAST} " * untimed + f"{seconds / unit:.2f}"


def _reported(tunings: Sequence[Tuning]) -> PageTable:
    """What the trainings of the final rounds reported themselves."""
    rows = [(tuning, reported) for tuning in tunings for reported in tuning.reported]
    names = list(dict.fromkeys(name for _, reported in rows for name in reported.numbers))
    what = "the last of each number that they reported, " if names else ""
    return PageTable(
        caption=f"The trainings of the final rounds: {what}seconds in the training function, memory of their process; "
        "means over the rounds, which judge nothing",
        columns=texts("study", "configuration") + numbers("rounds", "seconds", "memory, MB", *names),
        rows=tuple(
            (
                tuning.study,
                configuration(reported.label),
                str(reported.rounds),
                _figures(reported.seconds),
                NOTHING if reported.memory is None else f"{reported.memory / 1e6:,.0f}",
                *(_figures(reported.numbers.get(name)) for name in names),
            )
            for tuning, reported in rows
        ),
        grouped=True,
    )


def _figures(x: float | None) -> str:
    return NOTHING if x is None else figures(x, 3)
