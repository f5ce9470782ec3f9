"""The paired comparisons."""

from collections.abc import Iterable

from hpo.analysis.comparison import Comparison
from hpo.analysis.pairwise import Pair, PairSide
from hpo.report.formats import MINUS, NOTHING, interval_points, p_value, signed
from hpo.report.html import Bullets, PageTable, Part, numbers, texts
from hpo.report.sentences import images_note


def comparison_parts(comparison: Comparison) -> Iterable[Part]:
    """A table for each kind of pair in each setting, and what its columns mean."""
    if not comparison.pairs:
        return
    titles = (f"A {MINUS} B [95%]", "new images too", "d_z", "P(A > B)", "p", "Holm", "variance", "detectable")
    several = len(comparison.settings) > 1
    for kind, setting in dict.fromkeys((pair.kind, pair.setting) for pair in comparison.pairs):
        where = f" (setting {setting + 1})" if several else ""
        pairs = [pair for pair in comparison.pairs if (pair.kind, pair.setting) == (kind, setting)]
        yield PageTable(
            caption=f"{kind[0].upper()}{kind[1:]}{where}: difference in test accuracy, A {MINUS} B, in percentage "
            "points, paired by round",
            columns=texts("A", "B") + numbers("rounds", *titles),
            rows=tuple(_pair_cells(pair) for pair in pairs),
        )
        notes = tuple(f"{_side(pair.a)} and {_side(pair.b)}: {note}." for pair in pairs if (note := images_note(pair)))
        if notes:
            yield Bullets(lines=notes)
    yield _legend(comparison)


def _legend(comparison: Comparison) -> Bullets:
    fewest = min(len(pair.rounds) for pair in comparison.pairs)
    smallest = max(pair.test.smallest for pair in comparison.pairs)
    return Bullets(
        lines=(
            f"A {MINUS} B: the mean difference with Student's t interval over the rounds, that is, for new seeds on "
            "the same images.",
            "New images too: a bootstrap interval over the rounds crossed with the images of pool B.",
            "d_z: the mean of the differences divided by their standard deviation.",
            "P(A > B): the share of rounds that A wins, ties counting half, with its exact binomial interval.",
            "p: the exact two-sided sign-flip permutation test of the mean difference. "
            f"With {fewest} rounds the smallest possible p is {p_value(smallest)}.",
            "Holm: p with Holm's correction within each of two families, the pairs of models (both tables together) "
            "and the tuned against the paper's configurations.",
            "Variance: the variance of the differences relative to that of unpaired rounds; below 1, pairing helped.",
            "Detectable: the true difference that this many rounds would detect with a power of 80% (t test at the "
            "largest p that the sign-flip test can give and Holm's first step accepts, 0.05 divided by the number of "
            "pairs in the family); none where even the smallest possible p is larger than that.",
        )
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
