"""The paired comparisons."""

from collections.abc import Iterable

from hpo.analysis.comparison import Comparison
from hpo.analysis.pairwise import Pair, PairSide
from hpo.report.formats import (
    MINUS,
    NOTHING,
    interval_points,
    p_value,
    signed,
)
from hpo.report.html import Bullets, PageTable, Part, numbers, texts
from hpo.report.sentences import images_note


def comparison_parts(comparison: Comparison) -> Iterable[Part]:
    """A table for each kind of pair in each setting."""
    if not comparison.pairs:
        return
    titles = (f"A {MINUS} B [95%]", "new images too", "d_z", "P(A > B)", "p", "Holm", "variance", "detectable")
    several = len(comparison.settings) > 1
    for key in dict.fromkeys((pair.kind, pair.setting) for pair in comparison.pairs):
        kind, setting = key
        where = f" (setting {setting + 1})" if several else ""
        own = [pair for pair in comparison.pairs if (pair.kind, pair.setting) == key]
        yield PageTable(
            caption=f"{kind[0].upper()}{kind[1:]}{where}: test accuracy in points, A minus B, round by round",
            columns=texts("A", "B") + numbers("rounds", *titles),
            rows=tuple(_pair_cells(pair) for pair in own),
        )
        notes = tuple(f"{_side(pair.a)} and {_side(pair.b)}: {note}." for pair in own if (note := images_note(pair)))
        if notes:
            yield Bullets(lines=notes)
    fewest = min(len(pair.rounds) for pair in comparison.pairs)
    smallest = max(pair.test.smallest for pair in comparison.pairs)
    yield (
        "The interval beside the difference is Student's t over the rounds: new seeds, these images. New images too: "
        "bootstrap over the rounds and, crossed, over the images of pool B. d_z: mean over standard deviation of the "
        "differences. P(A > B): the share of rounds that A wins, ties half, with its exact binomial interval. p: exact "
        "sign-flip permutation test of the mean difference, two-sided; beside it with Holm's correction in two "
        "families, pairs of models (both tables together) and tuned against the paper's configuration. "
        f"With {fewest} rounds the smallest possible p is {p_value(smallest)}. Variance: that of the "
        "differences as a share of what unpaired rounds would give, so below 1 pairing helped. Detectable: the true "
        "difference in points that so many rounds find clear four times in five (the power of a t test at the largest "
        "p that the sign-flip test can give and Holm's first step takes, 0.05 over the number of pairs in the family); "
        "none where even the smallest possible p is above that."
    )


def _pair_cells(pair: Pair) -> tuple[str, ...]:
    d, out, ratio = pair.difference, pair.outperforming, pair.pairing.variance_ratio
    return (
        _side(pair.a),
        _side(pair.b),
        str(len(pair.rounds)),
        signed(100 * d.mean, 2) + ("" if d.interval is None else f" {interval_points(d.interval)}"),
        interval_points(pair.images),
        NOTHING if d.effect is None else signed(d.effect, 2),
        f"{out.probability:.2f} [{out.interval.low:.2f}, {out.interval.high:.2f}]",
        p_value(pair.test.p),
        p_value(pair.p_holm),
        NOTHING if ratio is None else f"{ratio:.2f}",
        "none" if pair.detectable is None else f"{100 * pair.detectable:.2f}",
    )


def _side(side: PairSide) -> str:
    return f"{side.model} {side.label}"
