"""What racing would save in the confirm phase: configurations that are clearly worse than the leader drop out early.

    python -m bench.racing [--worlds 4000] [--errors 0.01 0.05 0.2]

Simulated with the variance components of a kept study's confirm phases: between configurations, between the rounds'
draws, which all share, and the rest. After each round from the third on a configuration leaves whose paired differences
from the leader's are below 0 by Student's t, one-sided, at the stated error shared among all such tests. Said are the
share of the rounds that are not trained, how often the truly best one leaves, and what the winner's true value loses.
"""

import argparse
import gzip
import tempfile
from pathlib import Path

import numpy as np
from scipy import stats as scipy_stats  # type: ignore[import-untyped]  # ships no types

from bench import measure
from hpo.analysis.crossed import Components, variance_components
from hpo.results.queries import all_results
from hpo.storage import migrate
from hpo.storage.engine import open_engine

CONFIGURATIONS, ROUNDS, FIRST = 6, 10, 3


def components(record: Path) -> dict[str, Components]:
    """The variance components of each study's confirm phase."""
    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as folder:
        path = Path(folder) / "hpo.db"
        path.write_bytes(gzip.decompress(record.read_bytes()))
        engine = open_engine(f"sqlite:///{path}")
        migrate.upgrade(engine)
        by_study = {}
        for result in all_results(engine):
            table = variance_components([ranked.values for ranked in result.ranking if ranked.whole])
            if table is not None:
                by_study[result.name] = table
        engine.dispose()
    return by_study


def race(rng: np.random.Generator, worlds: int, of: Components, error: float) -> list[float]:
    """Share of the rounds saved; how often the best leaves; the winner's loss with racing and without."""
    tests = (CONFIGURATIONS - 1) * (ROUNDS - FIRST)
    saved, left, with_racing, without = [], [], [], []
    for _ in range(worlds):
        true = rng.normal(0, of.between**0.5, CONFIGURATIONS)
        values = true[:, None] + rng.normal(0, of.residual**0.5, (CONFIGURATIONS, ROUNDS))
        there = np.ones(CONFIGURATIONS, dtype=bool)
        trained = 0
        for r in range(1, ROUNDS + 1):
            trained += int(there.sum())
            if r < FIRST or r == ROUNDS:
                continue
            means = np.where(there, values[:, :r].mean(axis=1), -np.inf)
            behind = values[means.argmax(), :r] - values[:, :r]
            spread = behind.std(axis=1, ddof=1)
            t = behind.mean(axis=1) / np.where(spread > 0, spread, np.inf) * r**0.5
            there &= scipy_stats.t.sf(t, r - 1) > error / tests
        saved.append(1 - trained / (CONFIGURATIONS * ROUNDS))
        left.append(not there[true.argmax()])
        with_racing.append(true.max() - true[np.where(there, values.mean(axis=1), -np.inf).argmax()])
        without.append(true.max() - true[values.mean(axis=1).argmax()])
    return [float(np.mean(x)) for x in (saved, left, with_racing, without)]


def main() -> None:
    """Simulate, print, store."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--worlds", type=measure.two_or_more, default=4000)
    asked.add_argument("--errors", type=float, nargs="+", default=[0.01, 0.05, 0.2])
    asked.add_argument("--record", type=Path, default=Path("bench/records/40-epoch.db.gz"))
    asked.add_argument("--json", type=Path, default=Path("bench/out/racing.json"))
    options = asked.parse_args()
    rng, rows = np.random.default_rng(1), []
    for name, of in components(options.record).items():
        for error in options.errors:
            saved, left, racing, without = race(rng, options.worlds, of, error)
            spreads = f"{100 * of.between**0.5:.2f}, {100 * of.residual**0.5:.2f}"
            rows.append(
                [
                    f"`{name}`",
                    spreads,
                    f"{error:.0%}",
                    f"{saved:.0%}",
                    f"{left:.1%}",
                    f"{100 * racing:.3f}, {100 * without:.3f}",
                ]
            )
    titles = ["study", "std between, rest", "error", "saved", "best leaves", "points lost: racing, all rounds"]
    print(measure.table(titles, rows))
    measure.store(options.json, {"worlds": options.worlds, "rows": rows})


if __name__ == "__main__":
    main()
