"""The paired comparisons."""

from collections.abc import Iterable, Sequence

from hpo.analysis.comparison import Comparison
from hpo.analysis.pairwise import Pair, PairSide
from hpo.experiment.page import Bullets, PageTable, Part, numbers, texts
from hpo.report.formats import MINUS, NOTHING, Scale, as_percent, p_value, signed
from hpo.report.sentences import items_note, kind_title
from hpo.study.labels import PAPER, TUNED


def comparison_parts(comparison: Comparison) -> Iterable[Part]:
    """A table for each kind of pair in each setting, and what its columns mean."""
    if not comparison.pairs:
        return
    several = len(comparison.settings) > 1
    for kind, setting in dict.fromkeys((pair.kind, pair.setting) for pair in comparison.pairs):
        where = f" (setting {setting + 1})" if several else ""
        pairs = [pair for pair in comparison.pairs if (pair.kind, pair.setting) == (kind, setting)]
        title = kind_title(kind, pairs[0].b.label)
        scale, minus = Scale(pairs[0].metric), _minus(pairs[0])
        titles = (
            f"{minus} [95%]",
            f"new {pairs[0].items_name} too",
            "d_z",
            "P(A > B)" if scale.metric.maximize else "P(A better)",
            "p",
            "Holm",
            "variance",
            "detectable",
        )
        yield PageTable(
            caption=f"{title[0].upper()}{title[1:]}{where}: {_what(scale, minus)}, paired by round",
            columns=texts("A", "B") + numbers("rounds", *titles),
            rows=tuple(_pair_cells(pair) for pair in pairs),
        )
        notes = tuple(f"{_side(pair.a)} and {_side(pair.b)}: {note}." for pair in pairs if (note := items_note(pair)))
        if notes:
            yield Bullets(lines=notes)
    yield _legend(comparison)


def _what(scale: Scale, minus: str) -> str:
    """What the table's differences are."""
    if scale.metric.is_relative:
        return f"ratio of test {scale.name}, {minus} ({scale.better}: {_side_of_better(scale)} 1, A is the better)"
    if scale.is_percent:
        return f"difference in test {scale.name}, {minus}, in percentage points"
    direction = f"({scale.better}: {_side_of_better(scale)} 0, A is the better)"
    return f"difference in {scale.axis('test')}, {minus} {direction}"


def _side_of_better(scale: Scale) -> str:
    return "above" if scale.metric.maximize else "below"


def _minus(pair: Pair) -> str:
    return "A / B" if pair.metric.is_relative else f"A {MINUS} B"


def _legend(comparison: Comparison) -> Bullets:
    fewest = min(len(pair.rounds) for pair in comparison.pairs)
    smallest = max(pair.test.smallest for pair in comparison.pairs)
    lines = list(_item_lines(comparison.pairs))
    papers = any(PAPER in (pair.a.label, pair.b.label) for pair in comparison.pairs)
    of_reference = "the paper's configurations" if papers else "the reference configurations"
    wins = "P(A > B)" if all(pair.metric.maximize for pair in comparison.pairs) else "P(A better)"
    return Bullets(
        lines=(
            *lines,
            "d_z: the mean of the differences divided by their standard deviation"
            + ("." if all(pair.metric.maximize for pair in comparison.pairs) else "; above 0, A is the better."),
            f"{wins}: the share of rounds that A wins, ties counting half, with its exact binomial interval.",
            "p: the exact two-sided sign-flip permutation test of the mean difference. "
            f"With {fewest} rounds the smallest possible p is {p_value(smallest)}.",
            *_look_lines(comparison.pairs),
            *_error_lines(comparison, of_reference),
            "Variance: the variance of the differences relative to that of unpaired rounds; below 1, pairing helped.",
            "Detectable: the true difference that this many rounds would detect with a power of 80% (t test at the "
            "largest p that the sign-flip test can give and Holm's first step accepts, 0.05 divided by the number of "
            "pairs in the family); none where even the smallest possible p is larger than that.",
        )
    )


def _error_lines(comparison: Comparison, of_reference: str) -> Iterable[str]:
    """How often the whole report errs: each family of tests, all of them, and the claims that nothing differs."""
    over_repeats = (*comparison.repeats.models, *comparison.repeats.tuning)
    pairs = {(pair.setting, pair.family) for pair in comparison.pairs}
    families = len(pairs) + len({(pair.setting, pair.family) for pair in over_repeats})
    names = [
        words
        for family, words in (
            ("models", "the pairs of models (both tables together)"),
            ("tuning", f"the tuned against {of_reference}"),
        )
        if any(family == other for _, other in pairs)
    ]
    repeats = ", and the same over repeats of the search" if over_repeats else ""
    settings = len({setting for setting, _ in pairs})
    each = f" in each of {settings} settings" if settings > 1 else ""
    yield f"Holm: p with Holm's correction within a family of tests: {' and '.join(names)}{repeats}{each}. " + (
        "It errs in at most 5% of cases where nothing differs."
        if families == 1
        else f"That makes {families} families. Each errs in at most 5% of cases where nothing differs, all sentences "
        f"of the report together in at most {min(100, 5 * families)}%."
    )
    may_claim = [pair for pair in (*comparison.pairs, *over_repeats) if pair.items is not None]
    claims = sum(pair.metric.margin is not None for pair in may_claim)
    if claims:
        several = (
            f", and it is not corrected for their number: were all {claims} differences of this report that large, "
            f"about {0.025 * claims:.2g} claims would be wrong on average"
        )
        yield (
            "A claim that two are equal in practice, or that tuning made no practical difference, errs in about 2.5% "
            f"of cases where the difference is as large as the margin{several if claims > 1 else ''}."
        )


def _look_lines(pairs: Sequence[Pair]) -> Iterable[str]:
    """What it means that results are looked at more than once."""
    several = dict.fromkeys(pair.looks.declared for pair in pairs if len(pair.looks.declared) > 1)
    for declared in several:
        yield (
            f"Looks at {', '.join(map(str, declared))} rounds were declared: p is that of the group-sequential test, "
            "in which each look may err in proportion to its share of the rounds, and all of them together at most in "
            "as many cases as p says. Intervals are so wide that those of all looks hold together at 95%."
        )


def _item_lines(pairs: Sequence[Pair]) -> Iterable[str]:
    """What the two intervals of pairs hold for."""
    name = pairs[0].items_name if len({pair.items_name for pair in pairs}) == 1 else "test items"
    yield (
        f"{_minus(pairs[0])}: the mean difference with Student's t interval over the rounds, that is, for new seeds "
        f"and new training draws, on these {name}."
    )
    if any(pair.metric.is_relative for pair in pairs):
        yield "Ratios: geometric means over the rounds; intervals and tests are those of the logarithms."
    if not any(pair.items is not None for pair in pairs):
        return
    if any(pair.metric.margin is not None for pair in pairs):
        yield (
            "Equal in practice, or no practical difference: both intervals lie inside the margin, which is two "
            "one-sided tests (TOST) at 2.5% each. Where neither this nor a clear difference is shown, it is open."
        )
    same = any(pair.same_items for pair in pairs)
    yield (
        f"New {name} too: an interval from two components of variance, that between the rounds and that of what the "
        f"{name} were sampled from, which all rounds share. A difference is called clear only where it is clear over "
        f'the rounds and this interval agrees; where it does not, the sentence says "on these {name}".'
    )
    yield (
        f"Behind it in brackets: the share of that interval's variance that comes from which {name} there were; the "
        "rest comes from the rounds, that is, from seeds and training draws. More rounds narrow the second part alone."
    )
    if same:
        yield (
            "The test items are the same in every round, and no round was trained on them: neither interval says how "
            "another split into training and test data would come out."
        )
    if name == "test images":
        yield (
            "Training images are drawn anew in every round, but from one pool: neither interval says how other images "
            "to train on would come out."
        )


def _pair_cells(pair: Pair) -> tuple[str, ...]:
    d, out, ratio, scale = pair.difference, pair.outperforming, pair.pairing.variance_ratio, Scale(pair.metric)
    return (
        _side(pair.a),
        _side(pair.b),
        str(len(pair.rounds)),
        scale.difference(d.mean, d.interval),
        _items_cell(pair, scale),
        NOTHING if d.effect is None else signed(d.effect, 2),
        f"{out.probability:.2f} [{out.interval.low:.2f}, {out.interval.high:.2f}]",
        p_value(pair.test.p),
        p_value(pair.p_holm),
        NOTHING if ratio is None else f"{ratio:.2f}",
        "none" if pair.detectable is None else scale.size(pair.detectable),
    )


def _items_cell(pair: Pair, scale: Scale) -> str:
    """The interval for new test items, and which share of its variance comes from them."""
    share = "" if pair.from_items is None else f" ({as_percent(pair.from_items, 0)})"
    return scale.difference_interval(pair.items) + share


def _side(side: PairSide) -> str:
    which = f" ({side.study})" if side.is_repeat and side.label == TUNED else ""
    return f"{side.model} {side.label}{which}"
