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
from hpo.analysis.dependence.one_at_a_time import CoordinateSearch, Expectation
from hpo.analysis.dependence.surrogate import GRID
from hpo.experiment.page import Bullets, Column, PageTable, Part, numbers, plotly_figure, texts
from hpo.report.charts import dependence as charts
from hpo.report.formats import MINUS, NOTHING, Scale, by_metric, p_value, signed, value, values_of
from hpo.study.labels import PAPER

TITLE = "Do the hyperparameters depend on each other?"
R2 = "R\N{SUPERSCRIPT TWO}"


def dependence_parts(dependences: Sequence[Dependence], models: Sequence[str] = ()) -> Iterable[Part]:
    """The whole section; nothing where no study has a search."""
    searched = [dependence for dependence in dependences if dependence.counts.random]
    if not searched:
        return
    tuned = "The paper tuned one hyperparameter at a time, which" if _of_paper(searched) else _TUNING_IN_TURN
    yield (
        f"{tuned} is right only if the best value of each does not depend "
        "on the others. This is tested on the random start-up trials, which were neither pruned nor chosen by the "
        "results of other trials."
    )
    yield Bullets(lines=tuple(line for dependence in searched for line in sentences(dependence)))
    answered = [dependence for dependence in searched if dependence.answer is not None]
    if not answered:
        return
    yield from _quality_parts(answered)
    yield from _effect_parts(answered, models)
    yield from _interaction_parts(answered)
    good = [dependence for dependence in answered if _answer(dependence).quality.good]
    if good:
        yield from _surface_parts(good, models)
        for of_metric in by_metric(good):
            yield _coordinate_searches(of_metric)
        yield _coordinate_search_note(good)


_TUNING_IN_TURN = "Tuning one hyperparameter at a time"


def _of_paper(dependences: Sequence[Dependence]) -> bool:
    """Whether all of them have a paper as their reference."""
    return all(dependence.reference_label == PAPER for dependence in dependences)


def _quality_parts(answered: Sequence[Dependence]) -> Iterable[Part]:
    yield PageTable(
        caption="How well a surrogate (Gaussian process) predicts trials that it has not seen",
        columns=texts("study", "trials fitted") + numbers("n", R2) + texts("strongest interaction (H)"),
        rows=tuple(row for dependence in answered for row in _quality_rows(dependence)),
        grouped=True,
    )
    crowd = "where accuracy is high" if all(Scale(d.metric).is_percent for d in answered) else "where values are good"
    cliff = (
        ", and trials that learned nothing form a cliff that every fit reproduces, so a high "
        f"{R2} there says nothing about the region where training works."
    )
    yield (
        f"{R2}: from 5-fold cross-validation, mean ± standard deviation over {CV_REPEATS} repeats ({CHECK_REPEATS} in "
        "the checks); at 0 the surrogate is no better than the mean of the trials, below 0 it is worse. The rows "
        f"called check fit other sets of trials and give no verdict: adaptive trials crowd {crowd}"
        + (cliff if any(dependence.counts.blank is not None for dependence in answered) else ".")
    )


def _effect_parts(answered: Sequence[Dependence], models: Sequence[str]) -> Iterable[Part]:
    """The effect of each hyperparameter alone."""
    yield plotly_figure(
        "importance",
        "Which hyperparameters matter. Surrogate: the share of its variance over the range of the fitted trials, alone "
        "and with interactions. PED-ANOVA (Optuna): how strongly the best trials (a tenth, at least five) differ from "
        "all trials; the vertical mark is the 95th percentile with permuted values, so a bar that ends before it is no "
        "evidence.",
        charts.importance_chart(answered, models),
    )
    for index, dependence in enumerate(answered):
        yield plotly_figure(
            f"effects-{index}",
            f"{dependence.study}: the effect of each hyperparameter alone, with the fitted trials."
            + ("" if _answer(dependence).quality.good else " The fit is poor: the dashed line is a guess."),
            charts.effects_chart(dependence, models),
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
        f"{NULL_REPEATS} times. Holm: p with Holm's correction over the model's pairs. {_fitted_to(answered)}"
    )


def _fitted_to(answered: Sequence[Dependence]) -> str:
    """On what scale the fits are."""
    links = dict.fromkeys((d.link.items is not None, d.link.metric.is_relative) for d in answered)
    log_odds = (
        "All fits are to the log-odds of "
        "the accuracy: near 100% a percentage point is worth more, and every model close to the ceiling would "
        "otherwise seem to have interactions."
    )
    if all(is_log_odds for is_log_odds, _ in links):
        return log_odds
    lines = [log_odds.replace("All fits", "Fits of accuracies")] if any(is_log_odds for is_log_odds, _ in links) else []
    others = [d for d in answered if d.link.items is None]
    for is_relative, what in ((False, "to the values themselves"), (True, "to the logarithms of the values")):
        names = dict.fromkeys(Scale(d.metric).name for d in others if d.metric.is_relative == is_relative)
        if names:
            lines.append(f"Fits of {' and '.join(names)} are {what}: whether effects add up depends on that scale.")
    return " ".join(lines)


def _surface_parts(good: Sequence[Dependence], models: Sequence[str]) -> Iterable[Part]:
    """Figures of the interactions, for models with a good fit."""
    yield plotly_figure(
        "interactions",
        "H of every pair, with its corrected p below it; a star marks pairs that interact more than by chance. Models "
        "whose fit is too poor are left out.",
        charts.interactions_chart(good),
    )
    groups = by_metric(good)
    for index, of_metric in enumerate(groups):
        scale = Scale(of_metric[0].metric)
        accuracies = "accuracies" if scale.is_percent else "values"
        yield plotly_figure(
            "contours" if len(groups) == 1 else f"contours-{index}",
            f"The strongest pair: {scale.axis('validation')} predicted by the surrogate, averaged over the other "
            f"hyperparameters. The marked configurations differ in those too, so their predicted {accuracies} are in "
            "the table below, not here.",
            charts.contours_chart(of_metric, models),
        )


def _coordinate_searches(good: Sequence[Dependence]) -> PageTable:
    scale = Scale(good[0].metric)
    what = "accuracy in percent" if scale.is_percent else scale.axis("").strip()
    return PageTable(
        caption=f"Tuning one at a time against all at once, on the surrogate: predicted validation {what}",
        columns=(*texts("study", "tuning"), *numbers("predicted", "against joint"), Column(title="values", long=True)),
        rows=tuple(row for dependence in good for row in _coordinate_search_rows(dependence)),
        grouped=True,
    )


def _coordinate_search_note(good: Sequence[Dependence]) -> str:
    number = f"a grid of {GRID} points"
    if any(c.choices for dependence in good for c in _answer(dependence).coordinates):
        number += " (a choice over its values)"
    ratio = " Against joint: the ratio to it." if any(d.metric.is_relative for d in good) else ""
    return (
        f"One pass tunes the hyperparameters in the order of the values, each over {number} with the "
        f"others fixed{', as the paper did' if _of_paper(good) else ''}; repeated passes go on until nothing changes. "
        "Both, and the joint optimum, stay inside the range of the fitted trials. These are predictions of a fit, "
        f"whose maximum is optimistic; what tuning really gained is in the headline.{ratio}"
    )


# --- Sentences --------------------------------------------------------------------------------------------


def sentences(dependence: Dependence) -> list[str]:
    """What one study's trials show: first the verdict."""
    lines, answer = [_verdict(dependence)], dependence.answer
    if answer is not None and answer.coordinate_search is not None:
        lines.append(_coordinate_search_sentence(answer.coordinate_search, dependence))
    lines += _conditional(dependence)
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
    if len(dependence.fitted) < 2:
        always = dependence.fitted[0] if dependence.fitted else "none"
        alone = f"there is one hyperparameter, {always}, and no other that it could depend on."
        return f"only {always} is part of every configuration: no fit." if dependence.conditional else alone
    if answer is None:
        counts = dependence.counts
        if counts.learned >= LEAST_TRIALS:
            return "no answer: all random trials have the same value."
        completed = "completed" if counts.blank is None else "learned something"
        return (
            f"no answer, too few trials to fit a surrogate: {counts.learned} random trials {completed}, "
            f"{LEAST_TRIALS} are needed."
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


def _coordinate_search_sentence(search: CoordinateSearch, dependence: Dependence) -> str:
    scale = Scale(dependence.metric)
    joint = f"the joint optimum ({scale.value(search.joint.value, 1)} predicted)"
    tuning = f"on the surrogate, one-at-a-time tuning from {values_of(dependence.reference_label)}"
    once, repeated = (_short_of(scale, lost) for lost in (search.lost_once, search.lost_repeated))
    if search.lost_once <= search.same:
        outcome = f"{tuning} finds {joint} in one pass"
    elif search.lost_repeated <= search.same:
        outcome = f"{tuning} stops {once} {joint} after one pass and finds it in {search.passes}"
    else:
        left = repeated.split(" ")[0] if scale.is_percent else f"{repeated} it"
        outcome = f"{tuning} does not find {joint}: one pass stops {once} it, repeated passes {left}"
    if search.lost_once > search.same:
        outcome += f" (the standard deviation of the first difference is {_deviation(scale, search.unsure)})"
    if search.edges:
        where = ", ".join(_title(name) for name in search.edges)
        outcome += (
            f"; that optimum lies at the edge of the fitted trials' range ({where}), where a fit is least certain"
        )
    return outcome + "."


def _short_of(scale: Scale, lost: float) -> str:
    """By how much something is worse than what follows."""
    if scale.is_percent:
        return f"{100 * lost:.1f} points below"
    amount = scale.in_words([lost], signed=False)[0]
    return f"a factor of {amount} short of" if scale.metric.is_relative else f"{amount}{scale.apart} short of"


def _deviation(scale: Scale, unsure: float) -> str:
    if scale.is_percent:
        return f"{100 * unsure:.1f} points"
    amount = scale.in_words([unsure], signed=False)[0]
    return f"a factor of {amount}" if scale.metric.is_relative else f"{amount}{scale.apart}"


def _conditional(dependence: Dependence) -> Iterable[str]:
    """Hyperparameters that not every configuration has."""
    by_parents: dict[tuple[str, ...], list[str]] = {}
    for name, parents in dependence.conditional:
        by_parents.setdefault(parents, []).append(name)
    for parents, names in by_parents.items():
        verb, noun = ("depend", "are") if len(names) > 1 else ("depends", "is")
        yield (
            f"{' and '.join(names)} {verb} on {' and '.join(parents)} by definition, being active under some of its "
            f"values only, and {noun} left out of the fit."
        )


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
    learned = "" if dependence.counts.blank is None else " that learned"
    fits = [(f"random start-up trials{learned}", answer.quality, f"{_name(top)} {top.h:.2f}")]
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
    scale, moved = Scale(dependence.metric), " (moved into the range)" if search.moved else ""
    for label, expected, lost in (
        (f"{values_of(dependence.reference_label)}{moved}", search.reference, None),
        ("one at a time, one pass", search.once, search.lost_once),
        (f"one at a time, {search.passes} passes", search.repeated, search.lost_repeated),
        ("joint optimum", search.joint, None),
    ):
        below = NOTHING if lost is None else signed(-100 * lost, 2) if scale.is_percent else scale.difference(-lost)
        yield dependence.study, label, scale.number(expected.value, 1), below, _values(expected)


def _values(expected: Expectation) -> str:
    return ", ".join(f"{_title(name)} {value(x)}" for name, x in expected.params.items())


def _name(pair: PairStrength) -> str:
    return f"{_title(pair.a)} and {_title(pair.b)}"


def _title(name: str) -> str:
    return "weight decay / (main + 2 aux)" if name == RELATIVE_DECAY else charts.coordinate_title(name)


def _number(x: float) -> str:
    return f"{x:.2f}".replace("-", MINUS)


def _answer(dependence: Dependence) -> Answer:
    assert dependence.answer is not None  # callers leave out studies without an answer
    return dependence.answer
