"""Wording: what the comparison comes to in sentences, for somebody who reads no tables."""

import math
from collections.abc import Iterable, Sequence

from hpo.analysis import stats
from hpo.analysis.pairwise import (
    BETWEEN_PAPER,
    BETWEEN_TUNED,
    TUNING,
    Pair,
    Setting,
    representatives,
    setting_differences,
    setting_of,
)
from hpo.analysis.repeats import RepeatPair, Repeats
from hpo.results.records import StudyResult
from hpo.study.labels import PAPER, TUNED
from hpo.study.spec import StudySpec

DEFAULT_TRIALS, DEFAULT_EPOCHS, DEFAULT_ROUNDS = 100, 40, 20  # as shipped
TINY = 0.25  # a budget with less than this share of a default says little


def budget_label(specs: Iterable[StudySpec]) -> str | None:
    """Say that a budget is below the shipped defaults; None where none is."""
    small, tiny = [], False
    for spec in specs:
        asked = (spec.budget.trials, spec.budget.epochs, spec.protocol.final_rounds)
        defaults = (DEFAULT_TRIALS, DEFAULT_EPOCHS, DEFAULT_ROUNDS)
        # Without a search only what is measured counts.
        shares = [a / d for a, d in zip(asked, defaults, strict=True)][0 if asked[0] else 1 :]
        if min(shares) < 1:
            searched = f"{asked[0]} trials" if asked[0] else "no search"
            small.append(f"{searched}, {asked[1]} epochs, {asked[2]} rounds")
            tiny = tiny or min(shares) < TINY
    if not small:
        return None
    verdict = "it shows the way, its numbers mean little" if tiny else "a sketch of the full protocol"
    kinds = "; ".join(dict.fromkeys(small))
    return (
        f"Small budget ({kinds}; the defaults are {DEFAULT_TRIALS} trials, {DEFAULT_EPOCHS} epochs, "
        f"{DEFAULT_ROUNDS} rounds): {verdict}."
    )


def headlines(results: Sequence[StudyResult], pairs: Sequence[Pair], settings: Sequence[Setting]) -> list[str]:
    """One sentence for each pair of models (tuned where both are), and one for what tuning brought each."""
    lines = []
    for place, setting in enumerate(settings):
        after = f" [{setting.epochs} epochs]" if len(settings) > 1 else ""
        own = [pair for pair in pairs if pair.setting == place]
        by_kind = [p for kind in (BETWEEN_PAPER, BETWEEN_TUNED) for p in own if p.kind == kind]
        between = {(p.a.model, p.b.model): p for p in by_kind}  # the tuned ones replace the paper's
        lines += [between_sentence(pair) + after for pair in between.values()]
        lines += [tuning_sentence(pair) + after for pair in own if pair.kind == TUNING]
        for result in representatives(results, setting, TUNED):
            tuned = result.final_of(TUNED)
            if tuned is not None and tuned.same_as is not None:
                lines.append(
                    f"Tuning brought {result.model} nothing: the paper's configuration won the confirm phase.{after}"
                )
    return lines


def between_sentence(pair: Pair) -> str:
    """What one pair of models comes to, for somebody who reads no tables."""
    a, b = (pair.a, pair.b) if pair.difference.mean >= 0 else (pair.b, pair.a)
    how = "both tuned" if pair.kind == BETWEEN_TUNED else "both with the paper's configuration"
    if pair.clear:
        verdict = f"{a.model} is better than {b.model}"
    elif pair.difference.interval is not None and pair.difference.interval.excludes_zero:
        verdict = f"{a.model} did better than {b.model}, though {_too_few(pair)}"
    else:
        verdict = f"{a.model} and {b.model} cannot be told apart"
    return (
        f"{verdict}: {how}, they judge {percent(a.mean)} and {percent(b.mean)} of unseen pairs rightly, "
        f"{_difference(pair)}."
    )


def tuning_sentence(pair: Pair) -> str:
    """What tuning brought one model."""
    points = pair.difference.mean
    if pair.clear:
        verdict = f"Tuning {'improved' if points > 0 else 'harmed'} {pair.a.model}"
    else:
        verdict = f"Whether tuning changed {pair.a.model} is not settled"
    return (
        f"{verdict}: {percent(pair.a.mean)} tuned, {percent(pair.b.mean)} with the paper's configuration, "
        f"{_difference(pair)}."
    )


def repeat_headlines(repeats: Repeats) -> list[str]:
    """A sentence a pair of models over repeats, and one for what tuning brought each."""
    lines = []
    for pair in repeats.models:
        a, b, sign = (pair.a, pair.b, 1) if pair.difference.mean >= 0 else (pair.b, pair.a, -1)
        verdict = _repeat_verdict(
            pair, f"{a} is better than {b}", f"{a} did better than {b}", f"{a} and {b} cannot be told apart"
        )
        lines.append(f"Over {_searches(pair)}, {verdict}: {_over_repeats(pair, sign, ' apart')}.")
    for pair in repeats.tuning:
        model, up = pair.a.removesuffix(" tuned"), pair.difference.mean > 0
        verdict = _repeat_verdict(
            pair,
            f"tuning {'improved' if up else 'harmed'} {model}",
            f"{model} did {'better' if up else 'worse'} tuned",
            f"whether tuning changed {model} is not settled",
        )
        lines.append(f"Over {_searches(pair)}, {verdict}: {_over_repeats(pair, 1)}.")
    return lines


def _repeat_verdict(pair: RepeatPair, clear: str, leaning: str, open_: str) -> str:
    if pair.clear:
        return clear
    interval = pair.difference.interval
    if interval is None or not interval.excludes_zero:
        return open_
    if pair.test.smallest >= 1 - stats.LEVEL:
        return f"{leaning}, though so few are too few for a test (the smallest possible p is {pair.test.smallest:.2g})"
    return f"{leaning}, though the corrected test does not settle it (p = {pair.p_holm:.2g})"


def repeat_sentences(repeats: Repeats) -> list[str]:
    """What each group of repeats tells of the search's own luck."""
    lines = []
    for group in repeats.groups:
        line = f"{group.group}: the tuned configurations of {len(group.repeats)} searches reach {percent(group.mean)}"
        if group.interval is not None:
            low, high = percent(group.interval.low), percent(group.interval.high)
            line += f" on average (95% interval for such a search's expected result {low} to {high})"
        if group.components is not None:
            c = group.components
            size, least, most = (f"{100 * math.sqrt(v):.2f}" for v in (c.between, c.interval.low, c.interval.high))
            line += (
                f"; they differ by a standard deviation of {size} points beyond the luck of {c.rounds} rounds "
                f"(95% interval {least} to {most})"
            )
        lines.append(f"{line}.")
    return lines


def _searches(pair: RepeatPair) -> str:
    return f"{len(pair.seeds)} repeats of the search"


def _over_repeats(pair: RepeatPair, sign: int, apart: str = "") -> str:
    """The size with its interval over repeats; with a sign unless it is how far two are apart."""
    d, signed = pair.difference, not apart
    assert d.interval is not None  # two repeats at least
    low, high = (_points(end, signed) for end in sorted(sign * end for end in (d.interval.low, d.interval.high)))
    wins = sum(sign * x > 0 for x in d.values)
    size = f"{_points(sign * d.mean, signed)} points{apart}"
    return f"{size} (95% interval {low} to {high}; better in {wins} of {len(d.values)})"


def _too_few(pair: Pair) -> str:
    if pair.test.smallest >= 1 - stats.LEVEL:
        return f"{pair.test.n} rounds are too few for a test (the smallest possible p is {pair.test.smallest:.2g})"
    return f"the corrected test does not settle it (p = {pair.p_holm:.2g})"


def _difference(pair: Pair) -> str:
    """The size with its interval: of two models the better minus the worse, of tuning tuned minus paper."""
    tuning = pair.kind == TUNING
    sign = 1 if tuning or pair.difference.mean >= 0 else -1
    size = sign * pair.difference.mean
    words = f"{_points(size, tuning)} points" + ("" if tuning else " apart")
    if pair.difference.interval is None:
        return f"{words} in a single round, which says nothing about its uncertainty"
    ends = sorted(sign * end for end in (pair.difference.interval.low, pair.difference.interval.high))
    low, high = (_points(end, tuning) for end in ends)
    wins = pair.outperforming.wins if sign > 0 else pair.outperforming.losses
    return f"{words} (95% interval {low} to {high}; better in {wins} of {len(pair.rounds)} rounds)"


def percent(x: float, digits: int = 1) -> str:
    """A fraction as percent."""
    return f"{100 * x:.{digits}f}%"


def _points(x: float, signed: bool) -> str:
    return f"{100 * x:{'+' if signed else ''}.1f}".replace("-", "\N{MINUS SIGN}")


def cautions(results: Sequence[StudyResult], settings: Sequence[Setting]) -> list[str]:
    """What was not compared or compares unequal things, and why."""
    lines = []
    for place, setting in enumerate(settings[1:], start=1):
        points = ", ".join(setting_differences(settings[0], setting))
        lines.append(f"Setting {place + 1} is not compared with setting 1: they differ in {points}.")
    for setting in settings:
        for label in (TUNED, PAPER):
            used = representatives(results, setting, label)
            names = {result.name for result in used}
            groups = {result.repeat_group for result in used} - {None}  # of these there are sentences of their own
            left = [
                result.name
                for result in results
                if setting_of(result) == setting and result.name not in names and result.repeat_group not in groups
                if (final := result.final_of(label)) is not None and final.rounds
            ]
            if left:
                lines.append(f"In the table but not in the sentences, {label}: {', '.join(left)} (one study a model).")
    tuned = [r for s in settings for r in representatives(results, s, TUNED)]
    budgets = {(r.trials.total, r.spec.budget.epochs) for r in tuned}
    if len(budgets) > len({setting_of(r) for r in tuned}):
        each = ", ".join(f"{r.model} {r.trials.total} x {r.spec.budget.epochs} epochs" for r in tuned)
        lines.append(f"The searches had unequal budgets: {each}.")
    for result in results:
        lines += _foreign(result)
    return lines


def _foreign(result: StudyResult) -> list[str]:
    """Results inside a study that were made with another spec or other data than the study's."""
    lines = []
    for name, words in (("spec_digest", "spec"), ("data_digest", "data")):
        own = getattr(result, name)
        others = [run for run in result.runs if run.done and getattr(run, name) not in (None, own)]
        if others:
            digests = ", ".join(sorted({str(getattr(run, name))[:12] for run in others}))
            lines.append(
                f"Study {result.name}: {len(others)} results carry another {words} digest ({digests}) than "
                f"the study ({own[:12]}); they are not comparable with the rest."
            )
    return lines
