"""How often verdicts are wrong, and how often a difference is found, with the truth known.

    python -m bench.verdicts [--worlds 1000] [--repeats 7 10 20]

Four tables from made-up worlds. Over repeats of a search: what tuning against a reference (trained once for all
repeats) or two models come to where nothing differs, where a point does, and how often their interval covers. Equal in
practice: how often that is claimed at the margin, where it is wrong, and of models that are equal. Rounds that are
copies of each other. And what it is worth to keep the best of several searches and delete the others.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import intervals, measure
from hpo.analysis import stats
from hpo.analysis.crossed import METHOD, crossed_test, variance_of_mean
from hpo.analysis.looks import Looks
from hpo.analysis.pairwise import Contrast
from hpo.study.digits_spec import METRICS

ERROR, ROUNDS, POINT = 1 - stats.LEVEL, 20, 0.01
LOOKS = Looks(declared=(ROUNDS,))
Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]


def normal(spread: float) -> Draw:
    """Searches that differ by chance, with this standard deviation in points."""
    return lambda rng, shape: rng.normal(0, spread, shape)


SPREADS: dict[
    str, tuple[Draw, float, float]
] = {  # searches; standard deviation of what a round does to all, of the rest
    "searches alike: 0, 1.3, 1.3": (normal(0), 1.3, 1.3),
    "searches a little: 0.3, 1.3, 1.3": (normal(0.3), 1.3, 1.3),
    "searches and rounds: 1, 1.3, 1.3": (normal(1), 1.3, 1.3),
    "searches most: 1, 0.3, 1.3": (normal(1), 0.3, 1.3),
    "nothing but the rest: 0, 0, 1.3": (normal(0), 0.0, 1.3),
    "sharp, as ws-aux: 0.1, 0.3, 0.3": (normal(0.1), 0.3, 0.3),
    "one search in ten 3 above, 1.3, 1.3": (lambda rng, shape: np.where(rng.random(shape) < 0.1, 2.7, -0.3), 1.3, 1.3),
}
SEARCHES = 5  # of which the best is kept
Rows = Iterable[list[str]]


def tables(
    rng: np.random.Generator, worlds: int, repeats: int, spreads: tuple[Draw, float, float]
) -> NDArray[np.float64]:
    """Differences of repeats in rounds whose true mean is 0, (worlds, K, R)."""
    searches, shared, rest = spreads
    return 0.01 * (
        searches(rng, (worlds, repeats, 1))
        + rng.normal(0, shared, (worlds, 1, ROUNDS))
        + rng.normal(0, rest, (worlds, repeats, ROUNDS))
    )


def over_repeats(worlds: int, repeats: Iterable[int]) -> Rows:
    """Level, power and coverage of what is said over repeats."""
    rng = np.random.default_rng(1)
    for number in repeats:
        for name, spreads in SPREADS.items():
            made = tables(rng, worlds, number, spreads)
            null, of_a_point = ([repeat_outcome(table) for table in (made + truth).tolist()] for truth in (0.0, POINT))
            level, power = np.mean(null, axis=0), np.mean(of_a_point, axis=0)
            yield [str(number), name, *(f"{share:.1%}" for share in (*level[:3], power[2], *level[3:]))]


def repeat_outcome(table: list[list[float]]) -> list[bool]:
    """Clear by searches alone, with the rounds' signs too, and as reported; whether both intervals cover 0."""
    test, means = crossed_test(table, range(ROUNDS), LOOKS), [stats.mean(row) for row in table]
    alone, variance = stats.t_interval(means), variance_of_mean(table)
    assert alone is not None
    assert variance is not None
    wider = stats.student_interval(stats.mean(means), [variance], stats.LEVEL, METHOD)
    by_searches = test.over_searches.p < ERROR and alone.excludes_zero
    return [
        by_searches,
        by_searches and test.over_rounds.p < ERROR,
        test.p < ERROR and wider.excludes_zero,
        not alone.excludes_zero,
        not wider.excludes_zero,
    ]


def equal_in_practice(worlds: int) -> Rows:
    """How often that is claimed: at the margin, and where the truth is half of it and none."""
    rng, margin = np.random.default_rng(1), intervals.TRUTH
    for apart, rate in ((True, 0.9), (False, 0.68)):
        errors = "of each model, apart" if apart else "of the worse model alone"
        for name, effects in intervals.EFFECTS.items():
            by_round, by_image = (0.3 * size for size in effects)
            shares = []
            for truth in (margin, margin / 2, 0.0):
                claims = [
                    claimed(
                        *intervals.world(rng, ROUNDS, by_round, by_image, truth=truth, rate=rate, apart=apart),
                        margin,
                    )
                    for _ in range(worlds)
                ]
                shares.append(np.mean(claims))
            yield [errors, name, *(f"{share:.1%}" for share in shares)]


def claimed(items: stats.Interval, alone: stats.Interval, margin: float) -> bool:
    """Whether the report would call the two equal in practice."""
    centre = (alone.low + alone.high) / 2
    difference = stats.PairedDifference(values=(centre,), mean=centre, std=None, interval=alone, effect=None)
    metric = replace(METRICS[0], margin=margin)
    return Contrast(
        family="models", setting=0, metric=metric, epochs=None, difference=difference, p_holm=1.0, items=items
    ).is_immaterial


def copied_rounds(worlds: int) -> Rows:
    """Clear although nothing differs, where rounds are copies: each counted, and equal ones once as in the report."""
    rng = np.random.default_rng(1)
    for distinct in (ROUNDS, 10, 5, 1):
        made = rng.normal(0, 1, (worlds, distinct))
        counted = [stats.sign_flip_test(np.repeat(d, ROUNDS // distinct).tolist()).p < ERROR for d in made]
        once = [stats.sign_flip_test(d.tolist()).p < ERROR for d in made]
        yield [str(distinct), f"{np.mean(counted):.1%}", f"{np.mean(once):.1%}"]


def best_of_searches(worlds: int) -> Rows:
    """Tuning that brings nothing, of which the best of several searches is kept: how often that "improved"."""
    rng = np.random.default_rng(1)
    first, best = [], []
    for _ in range(worlds):
        reference = rng.normal(0, 1, ROUNDS)
        searches = [(rng.normal(0, 1, ROUNDS) - reference).tolist() for _ in range(SEARCHES)]
        p = [stats.sign_flip_test(d).p if sum(d) > 0 else 1.0 for d in searches]
        first.append(p[0])
        best.append(p[int(np.argmax([sum(d) for d in searches]))])
    yield ["the only search", f"{np.mean(np.array(first) < ERROR):.1%}"]
    yield [f"the best of {SEARCHES}, the others deleted", f"{np.mean(np.array(best) < ERROR):.1%}"]
    corrected = np.minimum(1, SEARCHES * np.array(best))
    yield [f"its p times the {SEARCHES} that the report's first page counts", f"{np.mean(corrected < ERROR):.1%}"]


def main() -> None:
    """Simulate, print, store."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--worlds", type=measure.two_or_more, default=1000)
    asked.add_argument("--repeats", type=measure.two_or_more, nargs="+", default=[7, 10, 20])
    asked.add_argument("--json", type=Path, default=Path("bench/out/verdicts.json"))
    options = asked.parse_args()
    of_repeats = ["searches alone", "and rounds' signs", "as reported", "finds a point", "t over searches", "both"]
    simulated = {
        "over repeats": (
            ["repeats", "spreads", *of_repeats[:4], *(f"covers: {name}" for name in of_repeats[4:])],
            list(over_repeats(options.worlds, options.repeats)),
        ),
        "equal in practice": (
            ["errors", "images matter", "claimed at the margin", "at half of it", "at no difference"],
            list(equal_in_practice(max(2, options.worlds // 2))),
        ),
        "copied rounds": (
            [f"distinct of {ROUNDS} rounds", "each counted: clear", "equal ones once: clear"],
            list(copied_rounds(options.worlds)),
        ),
        "best of several searches": (
            ["tuning that brings nothing", '"improved"'],
            list(best_of_searches(options.worlds)),
        ),
    }
    for titles, rows in simulated.values():
        print(measure.table(titles, rows), end="\n\n")
    measure.store(options.json, {"worlds": options.worlds, **{name: [*rows] for name, (_, rows) in simulated.items()}})


if __name__ == "__main__":
    main()
