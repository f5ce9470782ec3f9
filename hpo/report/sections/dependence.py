"""The report's section on dependence between hyperparameters: sentences, tables and figures."""

from collections.abc import Iterable, Sequence

from hpo.analysis.dependence.encoding import RELATIVE_DECAY
from hpo.analysis.dependence.interactions import (
    CHECK_REPEATS,
    CV_REPEATS,
    LEAST_R2,
    LEAST_TRIALS,
    NULL_REPEATS,
    Answer,
    Dependence,
    PairStrength,
    SampleCounts,
)
from hpo.analysis.dependence.one_at_a_time import SAME, CoordinateSearch, Expectation
from hpo.analysis.dependence.surrogate import GRID
from hpo.report.charts import dependence as charts
from hpo.report.formats import MINUS, NOTHING, p_value, percent, signed, value
from hpo.report.html import Bullets, Column, PageTable, Part, numbers, plotly_figure, texts

TITLE = "Do the hyperparameters depend on each other?"
R2 = "R\N{SUPERSCRIPT TWO}"


def dependence_parts(dependences: Sequence[Dependence]) -> Iterable[Part]:
    """The whole section; nothing where no study has a search."""
    searched = [dependence for dependence in dependences if dependence.counts.random]
    if not searched:
        return
    yield (
        "The paper tuned one hyperparameter at a time, which is right only if the best value of each does not depend "
        "on the others. This is tested on the random start-up trials, which were neither pruned nor chosen by the "
        "results of other trials."
    )
    yield Bullets(lines=tuple(line for dependence in searched for line in sentences(dependence)))
    answered = [dependence for dependence in searched if dependence.answer is not None]
    if not answered:
        return
    yield from _quality_parts(answered)
    yield from _effect_parts(answered)
    yield from _interaction_parts(answered)
    good = [dependence for dependence in answered if _answer(dependence).quality.good]
    if good:
        yield from _surface_parts(good)
        yield from _coordinate_search_parts(good)


def _quality_parts(answered: Sequence[Dependence]) -> Iterable[Part]:
    yield PageTable(
        caption="How well a surrogate (Gaussian process) predicts trials that it has not seen",
        columns=texts("study", "trials fitted") + numbers("n", R2) + texts("strongest interaction (H)"),
        rows=tuple(row for dependence in answered for row in _quality_rows(dependence)),
        grouped=True,
    )
    yield (
        f"{R2}: from 5-fold cross-validation, mean ± standard deviation over {CV_REPEATS} repeats ({CHECK_REPEATS} in "
        "the checks); at 0 the surrogate is no better than the mean of the trials, below 0 it is worse. The rows "
        "called check fit other sets of trials and give no verdict: adaptive trials crowd where accuracy is high, and "
        "trials that learned nothing form a cliff that every fit reproduces, so a high "
        f"{R2} there says nothing about the region where training works."
    )


def _effect_parts(answered: Sequence[Dependence]) -> Iterable[Part]:
    """The effect of each hyperparameter alone."""
    yield plotly_figure(
        "importance",
        "Which hyperparameters matter. Surrogate: the share of its variance over the range of the fitted trials, alone "
        "and with interactions. PED-ANOVA (Optuna): how strongly the best trials (a tenth, at least five) differ from "
        "all trials; the vertical mark is the 95th percentile with permuted values, so a bar that ends before it is no "
        "evidence.",
        charts.importance_chart(answered),
    )
    for index, dependence in enumerate(answered):
        yield plotly_figure(
            f"effects-{index}",
            f"{dependence.study}: the effect of each hyperparameter alone, with the fitted trials."
            + ("" if _answer(dependence).quality.good else " The fit is poor: the dashed line is a guess."),
            charts.effects_chart(dependence),
        )


def _interaction_parts(answered: Sequence[Dependence]) -> Iterable[Part]:
    yield PageTable(
        caption="Interactions",
        columns=texts("study", "pair") + numbers("H", "share of variance %", "p", "Holm") + texts("verdict"),
        rows=tuple(_pair_cells(dependence, pair) for dependence in answered for pair in _answer(dependence).pairs),
        grouped=True,
    )
    yield (
        "H (Friedman and Popescu, 2008) is the part of two hyperparameters' joint effect that is not the sum of their "
        "separate effects, from 0 to 1. It is never below 0 and grows with noise, so p compares it with data in which "
        "no pair interacts, or only those detected before: an additive fit with its residuals permuted, refitted up to "
        f"{NULL_REPEATS} times. Holm: p with Holm's correction over the model's pairs. All fits are to the log-odds of "
        "the accuracy: near 100% a percentage point is worth more, and every model close to the ceiling would "
        "otherwise seem to have interactions."
    )


def _surface_parts(good: Sequence[Dependence]) -> Iterable[Part]:
    """Figures of the interactions, for models with a good fit."""
    yield plotly_figure(
        "interactions",
        "H of every pair, with its corrected p below it; a star marks pairs that interact more than by chance. Models "
        "whose fit is too poor are left out.",
        charts.interactions_chart(good),
    )
    yield plotly_figure(
        "contours",
        "The strongest pair: validation accuracy (%) predicted by the surrogate, averaged over the other "
        "hyperparameters. The marked configurations differ in those too, so their predicted accuracies are in the "
        "table below, not here.",
        charts.contours_chart(good),
    )


def _coordinate_search_parts(good: Sequence[Dependence]) -> Iterable[Part]:
    yield PageTable(
        caption="Tuning one at a time against all at once, on the surrogate: predicted validation accuracy in percent",
        columns=(*texts("study", "tuning"), *numbers("predicted", "against joint"), Column(title="values", long=True)),
        rows=tuple(row for dependence in good for row in _coordinate_search_rows(dependence)),
        grouped=True,
    )
    yield (
        f"One pass tunes the hyperparameters in the order of the values, each over a grid of {GRID} points with the "
        "others fixed, as the paper did; repeated passes go on until nothing changes. Both, and the joint optimum, "
        "stay inside the range of the fitted trials. These are predictions of a fit, whose maximum is optimistic; "
        "what tuning really gained is in the headline."
    )


# --- Sentences --------------------------------------------------------------------------------------------


def sentences(dependence: Dependence) -> list[str]:
    """What one study's trials show: first the verdict."""
    lines, answer = [_verdict(dependence)], dependence.answer
    if answer is not None and answer.coordinate_search is not None:
        lines.append(_coordinate_search_sentence(answer.coordinate_search))
    lines += _left_out(dependence.counts)
    if answer is not None and answer.redundant:
        lines.append(
            "the common scale of the loss weights is redundant, which is not an interaction: under Adam, multiplying "
            "both weights and the weight decay by the same number gives the same training. So the weights enter as "
            "their ratio main : aux, and the decay relative to main + 2 aux."
        )
    return [f"{dependence.study}: {line}" for line in lines]


def _verdict(dependence: Dependence) -> str:
    answer = dependence.answer
    if answer is None:
        return (
            f"no answer, too few trials to fit a surrogate: {dependence.counts.learned} random trials learned "
            f"something, {LEAST_TRIALS} are needed."
        )
    quality = answer.quality
    fit = f"{R2} {_number(quality.r2)} from {quality.n} trials"
    if not quality.good:
        return (
            f"the fit is too poor ({fit}, {LEAST_R2} is needed) to show that the hyperparameters depend on each other "
            "or that they do not."
        )
    clear = [pair for pair in answer.pairs if pair.clear]
    if clear:
        pairs = ", ".join(f"{_name(pair)} (H {pair.h:.2f}, p = {p_value(pair.p_holm or 0)})" for pair in clear)
        return f"yes, hyperparameters depend on each other: {pairs}; {fit}."
    first = answer.pairs[0]
    return (
        f"no dependence is shown; the strongest pair, {_name(first)}, has an H of {first.h:.2f}, which chance can "
        f"explain (corrected p = {p_value(first.p_holm or 0)}; {fit}). So few trials would miss a weak dependence."
    )


def _coordinate_search_sentence(search: CoordinateSearch) -> str:
    once, repeated = 100 * search.lost_once, 100 * search.lost_repeated
    joint = f"the joint optimum ({percent(search.joint.accuracy, 1)}% predicted)"
    tuning = "on the surrogate, one-at-a-time tuning from the paper's values"
    if search.lost_once <= SAME:
        outcome = f"{tuning} finds {joint} in one pass"
    elif search.lost_repeated <= SAME:
        outcome = f"{tuning} stops {once:.1f} points below {joint} after one pass and finds it in {search.passes}"
    else:
        outcome = (
            f"{tuning} does not find {joint}: one pass stops {once:.1f} points below it, repeated passes {repeated:.1f}"
        )
    if search.lost_once > SAME:
        outcome += f" (the standard deviation of the first difference is {100 * search.unsure:.1f} points)"
    if search.edges:
        where = ", ".join(_title(name) for name in search.edges)
        outcome += (
            f"; that optimum lies at the edge of the fitted trials' range ({where}), where a fit is least certain"
        )
    return outcome + "."


def _left_out(counts: SampleCounts) -> Iterable[str]:
    if counts.diverged:
        yield f"{counts.diverged} of {counts.random} random trials diverged and are left out."
    if counts.blank and counts.blank_rates is not None:
        low, high = (value(x) for x in counts.blank_rates)
        line = (
            f"{counts.blank} of {counts.random} random trials learned nothing (no better than a constant answer) and "
            f"are left out of the fit; their learning rates are {low} to {high}"
        )
        if counts.learned_rates is not None:
            line += f", those of the {counts.learned} others {' to '.join(value(x) for x in counts.learned_rates)}"
        yield line + "."


# --- Cells ------------------------------------------------------------------------------------------------


def _quality_rows(dependence: Dependence) -> list[tuple[str, ...]]:
    answer = _answer(dependence)
    top = max(answer.pairs, key=lambda pair: pair.h)
    fits = [("random start-up trials that learned", answer.quality, f"{_name(top)} {top.h:.2f}")]
    for check in answer.sensitivity:
        a, b, h = max(check.h, key=lambda pair: pair[2])
        fits.append((f"check: {check.what}", check.quality, f"{_title(a)} and {_title(b)} {h:.2f}"))
    return [
        (dependence.study, trials, str(q.n), f"{_number(q.r2)} ± {q.r2_std:.2f}", strongest)
        for trials, q, strongest in fits
    ]


def _pair_cells(dependence: Dependence, pair: PairStrength) -> tuple[str, ...]:
    if pair.p is None or pair.p_holm is None:
        p, holm, verdict = NOTHING, NOTHING, "no verdict: poor fit"
    else:
        p, holm = p_value(pair.p), p_value(pair.p_holm)
        verdict = "they depend on each other" if pair.clear else "not shown"
    return (dependence.study, _name(pair), f"{pair.h:.2f}", f"{100 * pair.share:.1f}", p, holm, verdict)


def _coordinate_search_rows(dependence: Dependence) -> Iterable[tuple[str, ...]]:
    search = _answer(dependence).coordinate_search
    assert search is not None  # there is one wherever the fit is good
    for label, expected, lost in (
        ("the paper's values" + (" (moved into the range)" if search.moved else ""), search.paper, None),
        ("one at a time, one pass", search.once, search.lost_once),
        (f"one at a time, {search.passes} passes", search.repeated, search.lost_repeated),
        ("joint optimum", search.joint, None),
    ):
        below = NOTHING if lost is None else signed(-100 * lost, 2)
        yield dependence.study, label, percent(expected.accuracy, 1), below, _values(expected)


def _values(expected: Expectation) -> str:
    return ", ".join(f"{_title(name)} {value(x)}" for name, x in expected.params.items())


def _name(pair: PairStrength) -> str:
    return f"{_title(pair.a)} and {_title(pair.b)}"


def _title(name: str) -> str:
    return "weight decay / (main + 2 aux)" if name == RELATIVE_DECAY else charts.COORDINATE_TITLES.get(name, name)


def _number(x: float) -> str:
    return f"{x:.2f}".replace("-", MINUS)


def _answer(dependence: Dependence) -> Answer:
    assert dependence.answer is not None  # callers leave out studies without an answer
    return dependence.answer
