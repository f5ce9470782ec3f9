"""The report's section on dependence between hyperparameters: sentences, tables and figures."""

from collections.abc import Iterable, Sequence

from hpo.analysis.dependence.encoding import RELATIVE_DECAY
from hpo.analysis.dependence.interactions import LEAST_R2, LEAST_TRIALS, Answer, Dependence, PairStrength, SampleCounts
from hpo.analysis.dependence.one_at_a_time import SAME, CoordinateSearch, Place
from hpo.report.charts import dependence as charts
from hpo.report.formats import NOTHING, p_value, percent, signed, value
from hpo.report.html import Bullets, Column, PageTable, Part, drawn, numbers, texts

TITLE = "Do the hyperparameters depend on each other?"


def dependence_parts(found: Sequence[Dependence]) -> Iterable[Part]:
    """The whole section; nothing where no study has a search."""
    found = [one for one in found if one.counts.random]
    if not found:
        return
    yield (
        "The paper tuned one hyperparameter after the other, which is right only if the best value of one does not "
        "depend on the others. This is asked of the random start-up trials, which are unpruned and learnt from nobody."
    )
    yield Bullets(lines=tuple(line for one in found for line in sentences(one)))
    answered = [one for one in found if one.answer is not None]
    if not answered:
        return
    yield from _quality_parts(answered)
    yield from _effect_parts(answered)
    yield from _interaction_parts(answered)
    good = [one for one in answered if _answer(one).quality.good]
    if good:
        yield from _surface_parts(good)
        yield from _walk_table(good)


def _quality_parts(answered: Sequence[Dependence]) -> Iterable[Part]:
    yield PageTable(
        caption="How well a surrogate (Gaussian process) tells trials that it has not seen",
        columns=texts("study", "trials fitted")
        + numbers("n", "R\N{SUPERSCRIPT TWO}")
        + texts("strongest interaction there (H)"),
        rows=tuple(row for one in answered for row in _quality_rows(one)),
        groups=tuple(one.study for one in answered for _ in _quality_rows(one)),
    )
    yield (
        "R\N{SUPERSCRIPT TWO}: 5-fold cross-validation, mean ± standard deviation over its repeats (10; 2 in the "
        "checks); 0 is no better than the mean, below it worse. The rows called check are of other trials, without a "
        "verdict: adaptive trials crowd where it is good, and trials that learned nothing make a cliff that every fit "
        "finds, so that a high R\N{SUPERSCRIPT TWO} there says nothing about the region where training works."
    )


def _effect_parts(answered: Sequence[Dependence]) -> Iterable[Part]:
    """What each hyperparameter does by itself."""
    yield drawn(
        "importance",
        "Which hyperparameters matter. Surrogate: share of its variance over the fitted trials' range, alone and with "
        "interactions. PED-ANOVA (Optuna): how much the best trials (a tenth, at least five) differ from all; the "
        "upright mark is what permuted values reach in 95 of 100 cases, so a shorter bar says nothing.",
        charts.importance_chart(answered),
    )
    for index, one in enumerate(answered):
        yield drawn(
            f"effects-{index}",
            f"{one.study}: what each does by itself, through the fitted trials."
            + ("" if _answer(one).quality.good else " The fit is poor: the dashed line is a guess."),
            charts.effects_chart(one),
        )


def _interaction_parts(answered: Sequence[Dependence]) -> Iterable[Part]:
    yield PageTable(
        caption="Interactions",
        columns=texts("study", "pair") + numbers("H", "share of variance %", "p", "Holm") + texts("verdict"),
        rows=tuple(_pair_cells(one, pair) for one in answered for pair in _answer(one).pairs),
        groups=tuple(one.study for one in answered for _ in _answer(one).pairs),
    )
    yield (
        "H (Friedman and Popescu, 2008): the part of two hyperparameters' joint effect that is not the sum of their "
        "own, from 0 to 1. It is never below 0 and grows with noise, so p compares it with data in which nothing "
        "interacts, or no pair but those found already: an additive fit with its residuals permuted, fitted anew up "
        "to 199 times; beside it with Holm's correction over the model's pairs. Fits are made on the log-odds of the "
        "accuracy: near 100% a point is worth more, else every model close to the ceiling would seem to have "
        "interactions."
    )


def _surface_parts(good: Sequence[Dependence]) -> Iterable[Part]:
    """Pictures of interactions, of the models whose fit is good."""
    yield drawn(
        "interactions",
        "H of every pair, with its corrected p below; a star where it is more than chance gives. Models whose fit is "
        "too poor are left out.",
        charts.interactions_chart(good),
    )
    yield drawn(
        "contours",
        "The strongest pair: validation accuracy (%) as the surrogate expects it, the other hyperparameters averaged. "
        "The marked configurations differ in those too, so their heights stand in the table below, not here.",
        charts.contours_chart(good),
    )


# --- Sentences --------------------------------------------------------------------------------------------


def sentences(one: Dependence) -> list[str]:
    """What one study's trials say, in plain words; first the verdict."""
    lines = [_verdict(one)]
    if one.answer is not None and one.answer.coordinate_search is not None:
        lines.append(f"{one.study}: {_walk(one.answer.coordinate_search)}")
    lines += [f"{one.study}: {line}" for line in _left_out(one.counts)]
    if one.answer is not None and one.answer.redundant:
        lines.append(
            f"{one.study}: the loss weights' common scale is redundant, not an interaction that was found: under Adam, "
            "both weights and the weight decay times any number is the same training. So the weights enter as their "
            "ratio main : aux, and the decay relative to main + 2 aux."
        )
    return lines


def _verdict(one: Dependence) -> str:
    answer = one.answer
    if answer is None:
        return (
            f"{one.study}: no answer, too few trials to fit anything: {one.counts.learned} random ones learned "
            f"something, {LEAST_TRIALS} are needed."
        )
    quality = answer.quality
    fit = f"R\N{SUPERSCRIPT TWO} {_number(quality.r2)} from {quality.n} trials"
    if not quality.good:
        return (
            f"{one.study}: the fit is too poor to say ({fit}, {LEAST_R2} is needed): neither that the hyperparameters "
            "depend on each other nor that they do not."
        )
    clear = [pair for pair in answer.pairs if pair.clear]
    if clear:
        pairs = ", ".join(f"{_name(pair)} (H {pair.h:.2f}, p = {p_value(pair.p_holm or 0)})" for pair in clear)
        return f"{one.study}: yes, hyperparameters depend on each other: {pairs}; {fit}."
    first = answer.pairs[0]
    return (
        f"{one.study}: no dependence is shown; the strongest pair, {_name(first)}, has H {first.h:.2f}, which chance "
        f"gives too (corrected p = {p_value(first.p_holm or 0)}; {fit}). So few trials would miss a weak one."
    )


def _walk(walk: CoordinateSearch) -> str:
    once, repeated = 100 * walk.lost_once, 100 * walk.lost_repeated
    joint = f"the joint optimum ({percent(walk.joint.accuracy, 1)}% expected)"
    if walk.lost_once <= SAME:
        said = f"on the surrogate, one-at-a-time tuning from the paper's values finds {joint} in one pass"
    elif walk.lost_repeated <= SAME:
        said = (
            f"on the surrogate, one-at-a-time tuning from the paper's values stops {once:.1f} points below {joint} "
            f"after one pass, and finds it after {walk.passes}"
        )
    else:
        said = (
            f"on the surrogate, one-at-a-time tuning from the paper's values does not find {joint}: one pass stops "
            f"{once:.1f} points below it, repeated passes {repeated:.1f}"
        )
    if walk.lost_once > SAME:
        said += f" (the surrogate is unsure of the first by ± {100 * walk.unsure:.1f}, one standard deviation)"
    if walk.edges:
        where = ", ".join(_title(name) for name in walk.edges)
        said += f"; that optimum lies at the edge of the fitted trials' range ({where}), where a fit knows least"
    return said + "."


def _left_out(counts: SampleCounts) -> Iterable[str]:
    if counts.diverged:
        yield f"{counts.diverged} of {counts.random} random trials diverged and are left out."
    if counts.blank and counts.blank_rates is not None:
        low, high = (value(x) for x in counts.blank_rates)
        line = (
            f"{counts.blank} of {counts.random} random trials learned nothing (no better than always giving one "
            f"answer) and are left out of the fit; their learning rates are {low} to {high}"
        )
        if counts.learned_rates is not None:
            line += f", those of the {counts.learned} others {' to '.join(value(x) for x in counts.learned_rates)}"
        yield line + "."


# --- Cells ------------------------------------------------------------------------------------------------


def _quality_rows(one: Dependence) -> list[tuple[str, ...]]:
    answer = _answer(one)
    top = max(answer.pairs, key=lambda pair: pair.h)
    rows = [("random start-up trials that learned", answer.quality, f"{_name(top)} {top.h:.2f}")]
    for check in answer.sensitivity:
        a, b, h = max(check.h, key=lambda pair: pair[2])
        rows.append((f"check: {check.what}", check.quality, f"{_title(a)} and {_title(b)} {h:.2f}"))
    return [(one.study, what, str(q.n), f"{_number(q.r2)} ± {q.r2_std:.2f}", strongest) for what, q, strongest in rows]


def _pair_cells(one: Dependence, pair: PairStrength) -> tuple[str, ...]:
    if pair.p is None or pair.p_holm is None:
        p, holm, verdict = NOTHING, NOTHING, "no verdict: poor fit"
    else:
        p, holm = p_value(pair.p), p_value(pair.p_holm)
        verdict = "they depend on each other" if pair.clear else "not shown"
    return (one.study, _name(pair), f"{pair.h:.2f}", f"{100 * pair.share:.1f}", p, holm, verdict)


def _walk_table(good: Sequence[Dependence]) -> Iterable[Part]:
    rows, groups = [], []
    for one in good:
        walk = _answer(one).coordinate_search
        assert walk is not None
        for label, place, lost in (
            ("the paper's values" + (" (moved into the range)" if walk.moved else ""), walk.paper, None),
            ("one at a time, one pass", walk.once, walk.lost_once),
            (f"one at a time, {walk.passes} passes", walk.repeated, walk.lost_repeated),
            ("joint optimum", walk.joint, None),
        ):
            below = NOTHING if lost is None else signed(-100 * lost, 2)
            rows.append((one.study, label, percent(place.accuracy, 1), below, _values(place)))
            groups.append(one.study)
    yield PageTable(
        caption="One at a time against all at once, on the surrogate: expected validation accuracy in percent",
        columns=(*texts("study", "way"), *numbers("expected", "against joint"), Column(title="values", long=True)),
        rows=tuple(rows),
        groups=tuple(groups),
    )
    yield (
        "One pass goes through the hyperparameters in the order of the values, each over a grid of 33 points with the "
        "others held, as the paper did; repeated passes go on until nothing changes. Both and the joint optimum stay "
        "inside the fitted trials' range. These are expectations of a fit, whose highest point is optimistic: what "
        "tuning really brought stands in the headline."
    )


def _values(place: Place) -> str:
    return ", ".join(f"{_title(name)} {value(x)}" for name, x in place.params.items())


def _name(pair: PairStrength) -> str:
    return f"{_title(pair.a)} and {_title(pair.b)}"


def _title(name: str) -> str:
    return "weight decay / (main + 2 aux)" if name == RELATIVE_DECAY else charts.TITLES.get(name, name)


def _number(x: float) -> str:
    return f"{x:.2f}".replace("-", "\N{MINUS SIGN}")


def _answer(one: Dependence) -> Answer:
    assert one.answer is not None
    return one.answer
