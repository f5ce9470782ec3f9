"""Does the population learn as well as the plain loop? Rounds of both, paired by their draws.

    python -m bench.learning [--models ws] [--rounds 20] [--first 0] [--epochs 12] [--lanes 4]

A round is a final round in all but its images: the paper's configuration, training pairs drawn from pool A and test
pairs from the images of pool A left over, for a benchmark may not open pool B. The plain loop has PyTorch's own
initialisation, shuffling and dropout, the population our streams. Rounds that the JSON file has already are not run
again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from bench import measure
from bench.plain import PAPER, PlainLoop
from hpo.analysis import stats
from hpo.digits import draws, load, models
from hpo.digits.pools import to_network_images
from hpo.digits.recipes import METRICS, RECIPES, PairAnswers
from hpo.training.memory import keep_freed_memory
from hpo.training.population import Population, Task
from hpo.training.seeds import derive

PAIRS, BATCH, TEST = 1000, 100, 500
MARGIN = 0.015  # the population is taken for unharmed where the interval of the difference lies inside


def draw(pool: draws.ImagePool, round_: int) -> tuple[draws.PairTable, draws.PairTable]:
    """Training and test pairs of a round; no image is in both."""
    seed = derive(0, "bench learning", round_)
    training, left = draws.draw_training(pool, seed, PAIRS)
    return training, draws.draw_validation(pool, left, seed, TEST)


def plain(model: str, pool: draws.ImagePool, round_: int, epochs: int, device: str) -> float:
    """Test accuracy of a round of the plain loop."""
    training, test = draw(pool, round_)
    torch.manual_seed(round_)
    loop = PlainLoop(model, pool.images, training, batch=BATCH, device=device)
    for _ in range(epochs):
        loop.train_epoch()
    return loop.accuracy(pool.images, test)


def population(
    model: str, pool: draws.ImagePool, rounds: list[int], epochs: int, lanes: int, device: str
) -> dict[int, float]:
    """Test accuracies of rounds in a population."""
    made = Population(RECIPES[model], lanes, pool, samples=18 * PAIRS, batch=BATCH, metrics=METRICS, device=device)
    actual: dict[int, float] = {}
    waiting = list(rounds)
    while waiting or made.busy:
        while waiting and made.free:
            round_ = waiting.pop(0)
            task = Task(
                key=round_, params=PAPER, seed=round_, epochs=epochs, training=draw(pool, round_)[0], validation=None
            )
            made.start(made.free[0], task)
        for report in made.train_epoch():
            if report.last:
                tested = made.predict(made.parameters[report.lane], draw(pool, report.key)[1])
                actual[report.key] = PairAnswers.of(tested).accuracy
                made.stop(report.lane)
    return actual


def main() -> None:
    """Measure what is missing, print, store after every round."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--models", nargs="+", default=list(models.ARCHITECTURES))
    asked.add_argument("--rounds", type=measure.two_or_more, default=20)
    asked.add_argument("--first", type=int, default=0, help="the first round's number: fresh rounds for a replication")
    asked.add_argument("--epochs", type=int, default=12)
    asked.add_argument("--lanes", type=int, default=4)
    asked.add_argument("--device", default="cpu")
    asked.add_argument("--json", type=Path, default=Path("bench/out/learning.json"))
    options = asked.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    source = load.load(None)
    pool = draws.ImagePool.from_numpy("A", to_network_images(source.pool_a_images()), source.pool_a_labels())
    had = json.loads(options.json.read_text()) if options.json.exists() else {}
    actual: dict[str, Any] = had.get("accuracy", {}) if had.get("epochs", options.epochs) == options.epochs else {}

    def keep(model: str, way: str, accuracies: dict[int, float]) -> None:
        of = actual.setdefault(model, {}).setdefault(way, {})
        of |= {str(round_): accuracy for round_, accuracy in accuracies.items()}
        measure.store(options.json, {"epochs": options.epochs, "accuracy": actual})

    rounds = range(options.first, options.first + options.rounds)
    rows = []
    for model in options.models:
        done = {way: actual.get(model, {}).get(way, {}) for way in ("plain", "population")}
        missing = [r for r in rounds if str(r) not in done["population"]]
        if missing:
            keep(model, "population", population(model, pool, missing, options.epochs, options.lanes, options.device))
        for round_ in rounds:
            if str(round_) not in done["plain"]:
                keep(model, "plain", {round_: plain(model, pool, round_, options.epochs, options.device)})
        a, b = ([actual[model][way][str(r)] for r in rounds] for way in ("plain", "population"))
        interval = stats.t_interval([y - x for x, y in zip(a, b, strict=True)])
        assert interval is not None  # two rounds or more
        low, high = interval.low, interval.high
        verdict = "unharmed" if low > -MARGIN and high < MARGIN else "not shown to be unharmed"
        mean = [sum(x) / len(x) for x in (a, b)]
        rows.append(
            [
                f"`{model}`",
                f"{mean[0]:.2%}",
                f"{mean[1]:.2%}",
                f"{100 * (mean[1] - mean[0]):+.2f} ({100 * low:+.2f} to {100 * high:+.2f})",
                verdict,
            ]
        )
    print(f"\n{options.rounds} rounds of {options.epochs} epochs, {TEST} test pairs each, paired by draw\n")
    print(measure.table(["model", "plain loop", "population", "difference, points (95%)", ""], rows))


if __name__ == "__main__":
    main()
