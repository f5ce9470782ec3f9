"""Sentences: what the comparison comes to, for readers who skip the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpo.analysis import stats
from hpo.analysis.comparison import Comparison, TableRow
from hpo.analysis.opened import OpenedPool
from hpo.analysis.pairwise import (
    BETWEEN_REFERENCE,
    BETWEEN_TUNED,
    TUNING,
    Family,
    Pair,
    PairKind,
    PairSide,
    Setting,
    experiments_in,
    representatives,
)
from hpo.analysis.provenance import Provenance
from hpo.analysis.repeats import Repeats
from hpo.analysis.tuning import Tuning
from hpo.report.cautions import budget_warning, cautions
from hpo.report.formats import Scale, reference
from hpo.report.pool_sentences import opened_early, tested_sentence
from hpo.report.repeat_sentences import added_sentences, repeat_headlines
from hpo.report.verdicts import after_epochs, between_models, by_tuning, sizes, verdict_on
from hpo.results.records import StudyResult
from hpo.study.labels import TUNED


@dataclass(frozen=True, kw_only=True, slots=True)
class Conclusions:
    """The sentences that stand above the report's tables."""

    headlines: tuple[str, ...]  # what each comparison of models, and each tuning, came to
    budget: str | None  # a warning where budgets are below the defaults
    cautions: tuple[str, ...]  # what was not compared, or is not comparable, and why
    tested: tuple[str, ...] = ()  # how often the test items have been looked at


def conclusions_of(
    results: Sequence[StudyResult], comparison: Comparison, tested: Sequence[OpenedPool] = ()
) -> Conclusions:
    """All sentences about a comparison of these results, and about how often their test items were looked at."""
    return Conclusions(
        headlines=(
            *repeat_headlines(comparison.repeats, lambda place: _where(results, comparison.settings, place)),
            *headlines(results, comparison.pairs, comparison.settings, comparison.repeats),
        ),
        budget=budget_warning(results),
        cautions=(
            *cautions(results, comparison.settings),
            *(undeclared_sentence(pair) for pair in comparison.pairs if pair.undeclared is not None),
            *(gone_sentence(pair) for pair in comparison.pairs if pair.gone),
            *added_sentences(comparison.repeats),
            *(line for pool in tested for line in opened_early(pool)),
        ),
        tested=tuple(tested_sentence(pool, named=len(tested) > 1) for pool in tested),
    )


def _where(results: Sequence[StudyResult], settings: Sequence[Setting], place: int) -> str:
    """What a sentence on one of several settings ends with: experiment and epochs, as far as they differ."""
    names = [experiments_in(results, setting) for setting in settings]
    parts = []
    if len(set(names)) > 1:
        parts.append(", ".join(names[place]))
    alike = [other for other, of_other in zip(settings, names, strict=True) if of_other == names[place]]
    if len(alike) > 1 and settings[place].epochs is not None:
        parts.append(f"{settings[place].epochs} epochs")
    if sum(other.epochs == settings[place].epochs for other in alike) > 1:
        parts.append(f"setting {place + 1}")
    return f" [{', '.join(parts)}]" if parts else ""


def headlines(
    results: Sequence[StudyResult], pairs: Sequence[Pair], settings: Sequence[Setting], repeats: Repeats | None = None
) -> list[str]:
    """A sentence for each pair of models (tuned where both are), and one for the effect of tuning each model.

    Where repeats can decide, one search of several is left to the tables: it would say the same with less behind it, or
    seem to contradict.
    """
    lines = []
    inconclusive = {result.id for result in results if result.is_inconclusive}
    decided = {
        (pair.setting, pair.a, pair.b)
        for pair in (() if repeats is None else (*repeats.models, *repeats.tuning))
        if pair.difference.interval is not None and pair.test.smallest < 1 - stats.LEVEL
    }
    groups = set() if repeats is None else {group.group for group in repeats.groups}
    for index, setting in enumerate(settings):
        suffix = _where(results, settings, index)
        of_setting = [
            pair
            for pair in pairs
            if pair.setting == index and not inconclusive & _tuned_studies(pair) and not _repeated(pair) & decided
        ]
        by_kind = [pair for kind in (BETWEEN_REFERENCE, BETWEEN_TUNED) for pair in of_setting if pair.kind == kind]
        # Tuned pairs replace the reference's, here or over repeats.
        between = {
            (pair.a.model, pair.b.model): pair
            for pair in by_kind
            if pair.kind == BETWEEN_TUNED or (index, pair.a.model, pair.b.model) not in decided
        }
        lines += [between_sentence(pair) + suffix for pair in between.values()]
        lines += [tuning_sentence(pair) + suffix for pair in of_setting if pair.kind == TUNING]
        for result in representatives(results, setting, "tuned"):
            tuned = result.final_of(TUNED)
            if result.is_inconclusive:
                failed = f"{result.trials.failed} of {result.trials.total} trials of its search failed"
                lines.append(f"Nothing is concluded about tuning {result.model}: {failed}.{suffix}")
            elif tuned is not None and tuned.same_as is not None and result.repeat_group not in groups:
                won = f"{reference(result.reference_label)} won the confirm phase, and no other was tested"
                lines.append(f"What tuning brings {result.model} is open{_by(result)}: {won}.{suffix}")
    return lines


def _repeated(pair: Pair) -> set[tuple[int, str, str]]:
    """What a pair would be called among those over repeats; empty where it stands for itself."""
    if pair.kind == BETWEEN_TUNED and pair.a.is_repeat and pair.b.is_repeat:
        return {(pair.setting, pair.a.model, pair.b.model)}
    if pair.kind == TUNING and pair.a.is_repeat:
        return {(pair.setting, f"{pair.a.model} {pair.a.label}", f"{pair.b.model} {pair.b.label}")}
    return set()


def _by(result: StudyResult) -> str:
    """Which of several searches it was."""
    return "" if result.repeat_group is None else f" after the search {result.name}"


def _tuned_studies(pair: Pair) -> set[int]:
    """The studies, by id, whose tuned configuration is in the pair."""
    return {side.study_id for side in (pair.a, pair.b) if side.label == TUNED}


def between_sentence(pair: Pair) -> str:
    """How two models compare."""
    a, b = (pair.a, pair.b) if pair.difference.mean >= 0 else (pair.b, pair.a)
    verdict = verdict_on(pair, between_models(a.model, b.model))
    scale = Scale(pair.metric)
    means = f"their test {scale.name} is {scale.value(a.mean)} and {scale.value(b.mean)}"
    return f"{verdict}: {_how(pair)}, {means}, {_difference(pair)}."


def _how(pair: Pair) -> str:
    """Which configurations of the two models are compared, and after how many epochs."""
    after = after_epochs(pair)
    if pair.kind == BETWEEN_REFERENCE:
        return f"both with {reference(pair.a.label)}{after}"
    tuned = [side for side in (pair.a, pair.b) if side.label == TUNED]
    if len(tuned) == 2 and all(side.trials for side in tuned):
        searches = f" ({pair.a.study} and {pair.b.study})" if pair.a.is_repeat or pair.b.is_repeat else ""
        return f"both tuned by one search each{searches}{after}"
    if len(tuned) == 2 and not any(side.trials for side in tuned):
        return f"both with configurations given as tuned{after}"
    sides = (f"{side.model} {_origin(side)}" for side in (pair.a, pair.b))
    return f"{', '.join(sides)}{after}"


def _origin(side: PairSide) -> str:
    """Where a configuration comes from."""
    if side.label != TUNED:
        return "with nothing to tune"
    return _searched(side) if side.trials else "with a configuration given as tuned"


def _searched(side: PairSide) -> str:
    return f"tuned by one search{f' ({side.study})' if side.is_repeat else ''}"


def tuning_sentence(pair: Pair) -> str:
    """What tuning did to one model."""
    scale, model = Scale(pair.metric), pair.a.model
    tuning = "tuning" if pair.a.trials else "the configuration given as tuned"
    verdict = verdict_on(pair, by_tuning(tuning, model, up=pair.difference.mean > 0))
    after = after_epochs(pair)
    return (
        f"{verdict[0].upper()}{verdict[1:]}: test {scale.name} {scale.value(pair.a.mean)} "
        f"{_searched(pair.a) if pair.a.trials else 'with it'}, {scale.value(pair.b.mean)} with "
        f"{reference(pair.b.label)}{after}, {_difference(pair)}."
    )


def _difference(pair: Pair) -> str:
    """The size with its intervals: better minus worse model, or tuned minus the reference configuration."""
    tuning, scale = pair.kind == TUNING, Scale(pair.metric)
    sign = 1 if tuning or pair.difference.mean >= 0 else -1
    interval = pair.difference.interval
    size, *ends = sizes(scale, sign, pair.difference.mean, interval, signed=tuning)
    words = size + ("" if tuning else " apart")
    if interval is None and not pair.repeated:
        return f"{words} in a single round, which says nothing about its uncertainty"
    items = ""
    if pair.items is not None:
        _, low, high = sizes(scale, sign, pair.difference.mean, pair.items, signed=tuning)
        items = f"{low} to {high}"
    if interval is None:
        every = f"all {len(pair.rounds) + pair.repeated} rounds are equal in every test item, so they count once"
        return f"{words}; {every}" + (f" (95% interval for new {pair.items_name} {items})" if items else "")
    low, high = ends
    wins = pair.outperforming.wins if sign > 0 else pair.outperforming.losses
    also = f", {items} for new {pair.items_name} too" if items else ""
    look = f"; look {pair.looks.reached} of {len(pair.looks.declared)}" if len(pair.looks.declared) > 1 else ""
    seeds = f", of {seeds_in_words(pair.seeds)}" if len(pair.seeds) > 1 else ""
    return f"{words} (95% interval {low} to {high}{also}; better in {wins} of {len(pair.rounds)} rounds{seeds}{look})"


def seeds_in_words(seeds: Sequence[tuple[int, int]]) -> str:
    """The protocols' seeds of rounds, and how many each has."""
    if len(seeds) == 1:
        return f"protocol seed {seeds[0][0]}"
    return "protocol seeds " + " and ".join(f"{seed} ({count})" for seed, count in seeds)


def undeclared_sentence(pair: Pair) -> str:
    """What rounds say that were added after a result had been seen."""
    beyond, scale = pair.undeclared, Scale(pair.metric)
    assert beyond is not None
    tuning, sign = pair.kind == TUNING, 1 if beyond.mean >= 0 else -1
    size, *_ = sizes(scale, sign, beyond.mean, None, signed=tuning)
    ahead = "the difference is" if tuning else f"{(pair.a if sign > 0 else pair.b).model} is ahead by"
    looks = " and ".join(map(str, beyond.looks))
    others = {seed for seed, _ in beyond.seeds} != {pair.seeds[0][0]}
    seeds = f", of {seeds_in_words(beyond.seeds)}," if others else ""
    return (
        f"{beyond.added} rounds of {_both(pair)}{seeds} were added for looks that nobody had declared before the "
        f"first, and do not count above. With them {ahead} {size} over {beyond.rounds} rounds, p = {beyond.p:.2g}; for "
        f"whoever would have stopped at any of the looks (at {looks} rounds) that is p = {beyond.p_over_looks:.2g}."
    )


def gone_sentence(pair: Pair) -> str:
    """What a comparison is worth that was made before, with other seeds, and then deleted."""
    seeds, many = ", ".join(map(str, dict.fromkeys(pair.gone))), len(pair.gone) + 1
    p = min(1.0, many * pair.test.p)
    return (
        f"{_both(pair)} were compared before, with protocol seed {seeds}, by studies that are not shown here or were "
        f"deleted: for whoever would have kept the best of {many} such comparisons p = {p:.2g}."
    )


def _both(pair: Pair) -> str:
    """The two configurations of a pair."""
    if pair.kind == TUNING:
        return f"{pair.a.model} tuned and with {reference(pair.b.label)}"
    return f"{pair.a.model} and {pair.b.model} ({_how(pair)})"


# --- Notes on single rows, pairs and studies --------------------------------------------------------------


def row_note(row: TableRow) -> str:
    """What to know about one row of the comparison table; empty where there is nothing."""
    notes = []
    if row.is_given:
        notes.append("given as tuned: nothing was searched in its study")
    if row.same_as is not None:
        notes.append(f"{reference(row.same_as)} won the confirm phase: the same rounds")
    if row.also_of:
        repeats = "another repeat" if len(row.also_of) == 1 else f"{len(row.also_of)} other repeats"
        notes.append(f"the same rounds with the same results in {repeats}: one measurement")
    if row.rounds < row.planned:
        notes.append(f"{row.rounds} of {row.planned} rounds")
    if row.no_spread:
        notes.append("its rounds are equal in every test item: they count once, and such a method has no spread")
    if row.diverged:
        left_out = " in the test values and left out of the train ones" if row.train.n else ""
        notes.append(f"{row.diverged} diverged, counted as {Scale(row.metric).value(row.metric.diverged)}{left_out}")
    if row.failed:
        notes.append(f"{row.failed} failed")
    if row.collapsed:
        which = f"round {row.collapsed[0]} is" if len(row.collapsed) == 1 else f"{len(row.collapsed)} rounds are"
        notes.append(
            f"{which} far worse than the others: where rounds collapse, the mean's interval covers less than it says, "
            "and median and IQM tell more"
        )
    return "; ".join(notes)


def items_note(pair: Pair) -> str:
    """What to know about the rounds and test items of a pair; empty where there is nothing."""
    notes = []
    if pair.unanswered:
        lacking = f"{pair.unanswered} of {len(pair.rounds)} rounds have no stored scores (a diverged round has none)"
        notes.append(f"no interval for new {pair.items_name}: {lacking}")
    elif pair.items is None:
        why = (
            "a single round"
            if len(pair.rounds) < 2 and not pair.repeated
            else f"{Scale(pair.metric).name} has no scores of single items here"
        )
        notes.append(f"no interval for new {pair.items_name}: {why}")
    if len(pair.seeds) > 1:
        notes.append(f"rounds of {seeds_in_words(pair.seeds)}, one measurement")
    if pair.repeated:
        total = len(pair.rounds) + pair.repeated
        notes.append(
            f"{pair.repeated} of {total} rounds are equal to others in every test item on both sides and do not count"
        )
    return "; ".join(notes)


def family_title(family: Family, label: str) -> str:
    """A family of tests; `label` is that of the reference configuration."""
    return "pairs of models" if family == "models" else f"tuned against {reference(label)}"


def kind_title(kind: PairKind, label: str) -> str:
    """A kind of pair; `label` is that of the reference configuration."""
    if kind == BETWEEN_TUNED:
        return "pairs of models, tuned"
    return f"pairs of models, {reference(label)}" if kind == BETWEEN_REFERENCE else f"tuned against {reference(label)}"


def tuning_verdict(tuning: Tuning) -> str:
    """Who won the confirm phase of one study."""
    it = reference(tuning.reference_label)
    if tuning.source is None:
        if not tuning.parameters:
            return "There is nothing to tune: it is measured as it is."
        if tuning.trials == 0:
            return (
                f"Nothing was searched: only {it.removesuffix(' configuration')} or a given configuration is measured."
            )
        return "No configuration is confirmed yet."
    if tuning.is_inconclusive:
        return f"{tuning.failed} of {tuning.trials} trials of the search failed: nothing is concluded from it."
    if tuning.source == tuning.reference_label:
        return f"{it[0].upper()}{it[1:]} won the confirm phase."
    return f"Trial {tuning.source} of the search won the confirm phase."


def overtuning_sentence(tuning: Tuning) -> str | None:
    """Whether the search went on to something worse; None where that is not known."""
    over, scale = tuning.overtuning, Scale(tuning.metric)
    if over is None or over.confirmed < 2:
        return None
    it = reference(tuning.reference_label)
    best, last = (it if name == tuning.reference_label else name for name in (over.best, over.last))
    known = f"{over.confirmed} of the {over.incumbents} configurations that were its best so far were confirmed"
    if over.best == over.last:
        return f"No overtuning seen: {known}, and none of them better than the last, {last}."
    size = f"{'a factor of ' if tuning.metric.is_relative else ''}{scale.size(over.lost)}"
    error = "" if over.lost_error is None or tuning.metric.is_relative else f" ± {scale.size(over.lost_error)}"
    chosen = f" as the best of {over.confirmed - 1}" if over.confirmed > 2 else ""
    ahead = (
        f"{best} is {size}{error}{scale.apart} better in confirm than {last}, which the search took for "
        f"better later on (over the rounds that both have, p = {over.p:.2g}{chosen})"
    )
    if over.is_clear:
        return f"Overtuning: {known}; {ahead}."
    return f"Whether the search overtuned is not settled: {known}; {ahead}."


def data_in_words(record: Provenance, about: Mapping[str, str]) -> str:
    """Which data these are, as far as is known; `about` has sentences by digest."""
    if record.data_digest in about:
        return about[record.data_digest]
    parts = [f"of experiment {record.experiment}"]
    if record.test_items:
        parts.append(f"{record.test_items} test items in a final round")
    if record.options:
        parts.append("options " + ", ".join(f"{name} = {value}" for name, value in record.options))
    return "; ".join(parts)
