"""What it costs to look more than once, with the truth known: rounds are added until a result is clear.

    python -m bench.looks [--worlds 1000] [--rounds 8 16 24]

Made-up differences of paired rounds: normal, skewed, and counts of 500 pairs with ties. Without a difference every
verdict is an error; the rows with one say how often it is found, and after how many rounds on average.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import measure
from hpo.analysis import stats
from hpo.analysis.looks import Looks, sequential_test

ERROR = 1 - stats.LEVEL
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
NOISE: dict[str, Draw] = {  # differences with mean 0 and a standard deviation of 1
    "normal": lambda rng, n: rng.normal(0, 1, n),
    "skewed, on both sides alike": lambda rng, n: (rng.gamma(1, 1, n) - rng.gamma(1, 1, n)) / 2**0.5,
    "counts of 500 pairs": lambda rng, n: (rng.binomial(500, 0.97, n) - rng.binomial(500, 0.97, n)) / 29.1**0.5,
}


def first_clear(p_values: list[float], ends: tuple[int, ...]) -> tuple[bool, int]:
    """Whether any look is clear, and after how many rounds the measuring ends."""
    clear = [p <= ERROR for p in p_values]
    return any(clear), ends[clear.index(True)] if any(clear) else ends[-1]


def ways(differences: list[float], ends: tuple[int, ...]) -> dict[str, tuple[bool, int]]:
    """Each way of looking: whether it finds a difference, and after how many rounds it ends."""
    looks = [Looks(declared=ends, reached=k) for k in range(1, len(ends) + 1)]
    naive = [stats.sign_flip_test(differences[:end]).p for end in ends]
    paid = [sequential_test(differences[: look.now], range(look.now), look).p for look in looks]
    return {
        "one look": (naive[-1] <= ERROR, ends[-1]),
        "looks not paid for": first_clear(naive, ends),
        "declared looks": first_clear(paid, ends),
    }


def main() -> None:
    """Simulate, print, store."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--worlds", type=measure.two_or_more, default=1000)
    asked.add_argument("--rounds", type=int, nargs="+", default=[8, 16, 24])
    asked.add_argument("--json", type=Path, default=Path("bench/out/looks.json"))
    options = asked.parse_args()
    ends, rows = tuple(options.rounds), []
    for noise, draw in NOISE.items():
        for truth in (0.0, 0.6):
            rng = np.random.default_rng(1)
            outcomes = [ways((truth + draw(rng, ends[-1])).tolist(), ends) for _ in range(options.worlds)]
            cells = [
                f"{np.mean([o[way][0] for o in outcomes]):.1%} ({np.mean([o[way][1] for o in outcomes]):.1f})"
                for way in outcomes[0]
            ]
            rows.append([noise, f"{truth:g}", *cells])
    titles = ["differences", "truth", *(f"{way}: found (rounds)" for way in outcomes[0])]
    print(measure.table(titles, rows))
    measure.store(options.json, {"worlds": options.worlds, "rounds": ends, "rows": rows})


if __name__ == "__main__":
    main()
