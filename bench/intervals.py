"""How often the interval for new test images covers the truth, and how wide it is beside Student's t over the rounds.

    python -m bench.intervals [--worlds 300] [--rounds 5 10 20]

Made-up worlds: a difference of 2 points between two configurations, tested in each round on 200 pairs of 200 images,
which with their effects and the rounds' are drawn anew in every world. Student's t holds for new seeds alone.
"""

import argparse
from pathlib import Path

import numpy as np

from bench import measure
from hpo.analysis import stats
from hpo.analysis.items import ScoredRound, for_new_items
from hpo.study.digits_spec import METRICS

IMAGES, PAIRS, TRUTH = 200, 200, 0.02
EFFECTS = {  # standard deviations by round and by image
    "not at all": (0.03, 0.0),
    "a little": (0.03, 0.02),
    "much": (0.01, 0.06),
    "more than all else": (0.0, 0.12),
}

Interval = stats.Interval


def world(
    rng: np.random.Generator,
    rounds: int,
    by_round: float,
    by_image: float,
    *,
    truth: float = TRUTH,
    rate: float = 0.68,
    apart: bool = False,
) -> tuple[Interval, Interval]:
    """The interval for new images, and that for new seeds alone; `apart`: the two err on pairs of their own."""
    image_effect, round_effect = rng.normal(0, by_image, IMAGES), rng.normal(0, by_round, rounds)
    a, b = {}, {}
    for r in range(rounds):
        units = np.array([rng.choice(IMAGES, 2, replace=False) for _ in range(PAIRS)])
        u, shift = rng.random(PAIRS), round_effect[r] + image_effect[units].sum(axis=1)
        a[r] = ScoredRound(scores=(u < np.clip(rate + truth + shift, 0, 1)).astype(float), units=units)
        b[r] = ScoredRound(scores=((rng.random(PAIRS) if apart else u) < rate).astype(float), units=units)
    (wider,) = for_new_items([(a, b)], METRICS[0])
    means_a, means_b = ([float(side[r].scores.mean()) for r in side] for side in (a, b))
    alone = stats.paired_difference(means_a, means_b).interval
    assert wider is not None
    assert alone is not None
    return wider.interval, alone


def main() -> None:
    """Simulate, print, store."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--worlds", type=measure.two_or_more, default=300)
    asked.add_argument("--rounds", type=int, nargs="+", default=[5, 10, 20])
    asked.add_argument("--json", type=Path, default=Path("bench/out/intervals.json"))
    options = asked.parse_args()
    rng, rows = np.random.default_rng(1), []
    for rounds in options.rounds:
        for how, effects in EFFECTS.items():
            both = [world(rng, rounds, *effects) for _ in range(options.worlds)]
            covered = [np.mean([side[i].low <= TRUTH <= side[i].high for side in both]) for i in (0, 1)]
            width = [np.mean([side[i].high - side[i].low for side in both]) for i in (0, 1)]
            cells = [f"{100 * c:.1f}% ({100 * w:.1f})" for c, w in zip(covered, width, strict=True)]
            rows.append([str(rounds), how, *cells])
    print(measure.table(["rounds", "images matter", "for new images: covers (width, points)", "Student's t"], rows))
    measure.store(options.json, {"worlds": options.worlds, "rows": rows})


if __name__ == "__main__":
    main()
