"""Sentences: what the comparison comes to, for readers who skip the tables."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpo.analysis import stats
from hpo.analysis.comparison import Comparison, TableRow
from hpo.analysis.pairwise import (
    BETWEEN_PAPER,
    BETWEEN_TUNED,
    TUNING,
    Pair,
    Setting,
    representatives,
    setting_of,
)
from hpo.analysis.repeats import RepeatPair, Repeats
from hpo.analysis.tuning import Tuning
from hpo.digits.bundled import BUNDLED_DIGEST
from hpo.report.formats import MINUS, as_percent
from hpo.results.records import StudyResult
from hpo.study.labels import PAPER, TUNED
from hpo.study.spec import Budget, Protocol, StudySpec

TINY = 0.25  # a budget below this share of a default allows no conclusions


@dataclass(frozen=True, kw_only=True, slots=True)
class Conclusions:
    """The sentences that stand above the report's tables."""

    headlines: tuple[str, ...]  # what each comparison of models, and each tuning, came to
    budget: str | None  # a warning where budgets are below the defaults
    cautions: tuple[str, ...]  # what was not compared, or is not comparable, and why


def conclusions_of(results: Sequence[StudyResult], comparison: Comparison) -> Conclusions:
    """All sentences about a comparison of these results."""
    return Conclusions(
        headlines=(
            *headlines(results, comparison.pairs, comparison.settings),
            *repeat_headlines(comparison.repeats),
        ),
        budget=budget_warning(result.spec for result in results),
        cautions=tuple(cautions(results, comparison.settings)),
    )


def budget_warning(specs: Iterable[StudySpec]) -> str | None:
    """A warning that budgets are below the shipped defaults; None where none is."""
    defaults = (Budget().trials, Budget().epochs, Protocol().final_rounds)
    small, tiny = [], False
    for spec in specs:
        asked = (spec.budget.trials, spec.budget.epochs, spec.protocol.final_rounds)
        # Without a search only what is measured counts.
        shares = [a / d for a, d in zip(asked, defaults, strict=True)][0 if asked[0] else 1 :]
        if min(shares) < 1:
            search = f"{asked[0]} trials" if asked[0] else "no search"
            small.append(f"{search}, {asked[1]} epochs, {asked[2]} rounds")
            tiny = tiny or min(shares) < TINY
    if not small:
        return None
    verdict = (
        "enough to see how it works, too small for conclusions" if tiny else "a rough version of the full protocol"
    )
    budgets = "; ".join(dict.fromkeys(small))
    trials, epochs, rounds = defaults
    return f"Small budget ({budgets}; the defaults are {trials} trials, {epochs} epochs, {rounds} rounds): {verdict}."


def headlines(results: Sequence[StudyResult], pairs: Sequence[Pair], settings: Sequence[Setting]) -> list[str]:
    """A sentence for each pair of models (tuned where both are), and one for the effect of tuning each model."""
    lines = []
    inconclusive = {result.id for result in results if result.is_inconclusive}
    for index, setting in enumerate(settings):
        suffix = f" [{setting.epochs} epochs]" if len(settings) > 1 else ""
        of_setting = [pair for pair in pairs if pair.setting == index and not inconclusive & _tuned_studies(pair)]
        by_kind = [pair for kind in (BETWEEN_PAPER, BETWEEN_TUNED) for pair in of_setting if pair.kind == kind]
        between = {(pair.a.model, pair.b.model): pair for pair in by_kind}  # tuned pairs replace the paper's
        lines += [between_sentence(pair) + suffix for pair in between.values()]
        lines += [tuning_sentence(pair) + suffix for pair in of_setting if pair.kind == TUNING]
        for result in representatives(results, setting, TUNED):
            tuned = result.final_of(TUNED)
            if result.is_inconclusive:
                failed = f"{result.trials.failed} of {result.trials.total} trials of its search failed"
                lines.append(f"Nothing is concluded about tuning {result.model}: {failed}.{suffix}")
            elif tuned is not None and tuned.same_as is not None:
                won = "the paper's configuration won the confirm phase"
                lines.append(f"Tuning did not improve {result.model}: {won}.{suffix}")
    return lines


def _tuned_studies(pair: Pair) -> set[int]:
    """The studies, by id, whose tuned configuration is in the pair."""
    return {side.study_id for side in (pair.a, pair.b) if side.label == TUNED}


def between_sentence(pair: Pair) -> str:
    """How two models compare."""
    a, b = (pair.a, pair.b) if pair.difference.mean >= 0 else (pair.b, pair.a)
    how = "both tuned" if pair.kind == BETWEEN_TUNED else "both with the paper's configuration"
    if pair.clear:
        verdict = f"{a.model} is better than {b.model}"
    elif pair.difference.interval is not None and pair.difference.interval.excludes_zero:
        verdict = f"{a.model} did better than {b.model}, though {_why_open(pair, 'rounds')}"
    else:
        verdict = f"{a.model} and {b.model} cannot be told apart"
    return (
        f"{verdict}: {how}, they answer {as_percent(a.mean)} and {as_percent(b.mean)} of unseen pairs "
        f"correctly, {_difference(pair)}."
    )


def tuning_sentence(pair: Pair) -> str:
    """What tuning did to one model."""
    points = pair.difference.mean
    if pair.clear:
        verdict = f"Tuning {'improved' if points > 0 else 'harmed'} {pair.a.model}"
    else:
        verdict = f"Whether tuning changed {pair.a.model} is not settled"
    return (
        f"{verdict}: {as_percent(pair.a.mean)} tuned, {as_percent(pair.b.mean)} with the paper's configuration, "
        f"{_difference(pair)}."
    )


def repeat_headlines(repeats: Repeats) -> list[str]:
    """A sentence for each pair of models over repeats, and one for the effect of tuning each model."""
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


def _repeat_verdict(pair: RepeatPair, clear: str, leaning: str, unsettled: str) -> str:
    if pair.clear:
        return clear
    interval = pair.difference.interval
    if interval is None or not interval.excludes_zero:
        return unsettled
    return f"{leaning}, though {_why_open(pair, 'repeats')}"


def repeat_sentences(repeats: Repeats) -> list[str]:
    """How much the outcome of each repeated search depends on chance."""
    lines = []
    for group in repeats.groups:
        line = (
            f"{group.group}: the tuned configurations of {len(group.repeats)} searches reach {as_percent(group.mean)}"
        )
        if group.interval is not None:
            low, high = as_percent(group.interval.low), as_percent(group.interval.high)
            line += f" on average (95% interval for such a search's expected result {low} to {high})"
        if group.components is not None:
            c = group.components
            size, least, most = (f"{100 * math.sqrt(v):.2f}" for v in (c.between, c.interval.low, c.interval.high))
            line += (
                f"; they differ by a standard deviation of {size} points beyond the noise of {c.rounds} rounds "
                f"(95% interval {least} to {most})"
            )
        lines.append(f"{line}.")
    return lines


def _searches(pair: RepeatPair) -> str:
    return f"{len(pair.seeds)} repeats of the search"


def _over_repeats(pair: RepeatPair, sign: int, apart: str = "") -> str:
    """The size with its interval over repeats; `apart` follows a distance, which has no sign."""
    d, signed = pair.difference, not apart
    assert d.interval is not None  # there are at least two repeats
    low, high = (_points(end, signed) for end in sorted(sign * end for end in (d.interval.low, d.interval.high)))
    wins = sum(sign * x > 0 for x in d.values)
    size = f"{_points(sign * d.mean, signed)} points{apart}"
    return f"{size} (95% interval {low} to {high}; better in {wins} of {len(d.values)})"


def _why_open(pair: Pair | RepeatPair, unit: str) -> str:
    """Why an interval without 0 is not enough; `unit` is what the test counts, in the plural."""
    if pair.test.smallest >= 1 - stats.LEVEL:
        return f"{pair.test.n} {unit} are too few for a test (the smallest possible p is {pair.test.smallest:.2g})"
    return f"the corrected test does not settle it (p = {pair.p_holm:.2g})"


def _difference(pair: Pair) -> str:
    """The size with its interval: better minus worse model, or tuned minus the paper's configuration."""
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


def _points(x: float, signed: bool) -> str:
    return f"{100 * x:{'+' if signed else ''}.1f}".replace("-", MINUS)


# --- Cautions ---------------------------------------------------------------------------------------------


def cautions(results: Sequence[StudyResult], settings: Sequence[Setting]) -> list[str]:
    """What was not compared, or was compared on unequal terms, and why."""
    lines = []
    for number, setting in enumerate(settings[1:], start=2):
        points = ", ".join(setting_differences(settings[0], setting))
        lines.append(f"Setting {number} is not compared with setting 1: they differ in {points}.")
    for setting in settings:
        for label in (TUNED, PAPER):
            omitted = _omitted(results, setting, label)
            if omitted:
                names = ", ".join(omitted)
                lines.append(f"In the table but not in the sentences, {label}: {names} (one study per model).")
    tuned = [r for setting in settings for r in representatives(results, setting, TUNED)]
    budgets = {(r.trials.total, r.spec.budget.epochs) for r in tuned}
    if len(budgets) > len({setting_of(r) for r in tuned}):
        each = ", ".join(f"{r.model} {r.trials.total} x {r.spec.budget.epochs} epochs" for r in tuned)
        lines.append(f"The searches had unequal budgets: {each}.")
    for result in results:
        lines += _foreign(result)
    return lines


def _omitted(results: Sequence[StudyResult], setting: Setting, label: str) -> list[str]:
    """Studies with final rounds under a label that another study of their model stands for in the sentences."""
    shown = representatives(results, setting, label)
    names = {result.name for result in shown}
    groups = {result.repeat_group for result in shown} - {None}  # repeats have their own sentences
    return [
        result.name
        for result in results
        if setting_of(result) == setting and result.name not in names and result.repeat_group not in groups
        if (final := result.final_of(label)) is not None and final.rounds
    ]


def _foreign(result: StudyResult) -> list[str]:
    """Results inside a study that were made with another spec or other data than the study's."""
    lines = []
    for name, words in (("spec_digest", "spec"), ("data_digest", "data")):
        expected = getattr(result, name)
        others = [run for run in result.runs if run.done and getattr(run, name) not in (None, expected)]
        if others:
            digests = ", ".join(sorted({str(getattr(run, name))[:12] for run in others}))
            which = "1 result has" if len(others) == 1 else f"{len(others)} results have"
            lines.append(
                f"Study {result.name}: {which} another {words} digest ({digests}) than the study "
                f"({expected[:12]}) and cannot be compared with the rest."
            )
    return lines


_SETTING_FIELDS = {  # of Setting
    "data_digest": "images",
    "protocol_seed": "protocol seed",
    "epochs": "epochs",
    "batch_size": "batch size",
    "training_pairs": "training pairs",
    "test_pairs": "test pairs",
}


def setting_differences(a: Setting, b: Setting) -> list[str]:
    """In which points two settings differ."""
    return [
        f"{words} ({_short(getattr(a, name))} and {_short(getattr(b, name))})"
        for name, words in _SETTING_FIELDS.items()
        if getattr(a, name) != getattr(b, name)
    ]


def _short(value: object) -> str:
    return str(value)[:12]  # the beginning of a digest is enough


# --- Notes on single rows, pairs and studies --------------------------------------------------------------


def row_note(row: TableRow) -> str:
    """What to know about one row of the comparison table; empty where there is nothing."""
    notes = []
    if row.same_as is not None:
        notes.append("the paper's configuration won the confirm phase: the same rounds")
    if row.rounds < row.planned:
        notes.append(f"{row.rounds} of {row.planned} rounds")
    if row.diverged:
        notes.append(
            f"{row.diverged} diverged, counted at chance accuracy in the test values and left out of the train ones"
        )
    if row.failed:
        notes.append(f"{row.failed} failed")
    return "; ".join(notes)


def images_note(pair: Pair) -> str:
    """Why a pair has no interval for new images; empty where it has one or the images are not at hand."""
    if not pair.unanswered:
        return ""
    return (
        f"no interval for new images: {pair.unanswered} of {len(pair.rounds)} rounds have no stored answers "
        "(a diverged round has none)"
    )


def tuning_verdict(tuning: Tuning) -> str:
    """Who won the confirm phase of one study."""
    if tuning.source is None:
        if tuning.trials == 0:
            return "Nothing was searched: only the paper's or a given configuration is measured."
        return "No configuration is confirmed yet."
    if tuning.is_inconclusive:
        return f"{tuning.failed} of {tuning.trials} trials of the search failed: nothing is concluded from it."
    if tuning.source == PAPER:
        return "The paper's configuration won the confirm phase: tuning did not improve on it."
    return f"Trial {tuning.source} of the search won the confirm phase."


def data_in_words(digest: str) -> str:
    """Which images these are, as far as the digest says."""
    if digest == BUNDLED_DIGEST:
        return (
            "the bundled 5,000 MNIST digits (pool A 3,000, pool B 2,000): every test draw uses all of B, "
            "re-paired, and training draws share two thirds of their images, so all intervals are "
            "conditional on these pools"
        )
    return "images given with --data"
