"""Time of what the lab's overview, `hpo top` and /metrics read: studies, workers, what needs attention.

    python -m bench.overview [--sizes 50x300 3x1000] [--workers 20] [--repeats 10]

So many studies with so many search trials, all but one done and told, and so many workers, each with what it finished;
made by hand in a SQLite file and in PostgreSQL. Beside it, once, the reading of all results, as the report does it.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from optuna.storages._rdb import models
from sqlalchemy import Engine, bindparam, insert, select, update

from bench import databases, measure
from bench.outcomes import outcome
from hpo.results import queries
from hpo.results.progress import overview, study_progress
from hpo.server.metrics import exposition
from hpo.storage import migrate, studies
from hpo.storage.engine import begin_write, open_engine
from hpo.storage.schema import slots
from hpo.storage.studies import NewStudy
from hpo.storage.workers import Beat, beat_alone
from hpo.study.spec import builtin_spec

EPOCHS = 40
PAIRS = 2000  # validation pairs: values are multiples of 1/2000, so some are equal
TRAINING_SECONDS = 300.0
DATA_DIGEST = "d" * 64


def size(text: str) -> tuple[int, int]:
    """STUDIESxTRIALS."""
    of_studies, _, trials = text.partition("x")
    return int(of_studies), int(trials)


def fill(engine: Engine, count: int, trials: int, workers: int) -> None:
    """The studies, each with one trial that waits; the others ended one after the other until now."""
    migrate.create_or_check(engine)
    rng = np.random.default_rng(0)
    for index in range(count):
        spec = builtin_spec("ws").with_options(name=f"study-{index}", trials=trials, seed=index)
        new = NewStudy(
            name=spec.name,
            model=spec.model,
            spec=spec.canonical(),
            spec_digest=spec.digest,
            data_digest=DATA_DIGEST,
            seed=spec.seed,
            in_flight=spec.budget.in_flight,
            trial_seeds=range(trials),
            adaptive_from=30,
            reference=spec.reference,
        )
        _finish(engine, studies.create_study(engine, new), rng, [f"gpu-{n}:100:{n:06x}" for n in range(workers)])
    for n in range(workers):
        beat = Beat(
            name=f"gpu-{n}:100:{n:06x}",
            host=f"gpu-{n}",
            device="cuda:0",
            study_names=(),
            data_digest=DATA_DIGEST,
            version="0",
            lanes=8,
            completed=1,
            failed=0,
        )
        beat_alone(engine, beat, 3600)


def _finish(engine: Engine, row: studies.StudyRow, rng: np.random.Generator, workers: list[str]) -> None:
    """End all slots of a study but the first, as workers would, in bulk."""
    trials, values = models.TrialModel.__table__, models.TrialValueModel.__table__
    with begin_write(engine) as connection:
        ids = list(connection.scalars(select(slots.c.id).where(slots.c.study_id == row.id).order_by(slots.c.idx)))[1:]
        rows = [{"number": n, "study_id": row.search_study_id, "state": "COMPLETE"} for n in range(1, len(ids) + 1)]
        trial_ids = connection.scalars(insert(trials).returning(trials.c.trial_id, sort_by_parameter_order=True), rows)
        ended, stored = [], []
        for n, (slot_id, trial_id) in enumerate(zip(ids, list(trial_ids), strict=True)):
            value = round(float(min(1.0, rng.normal(0.95, 0.02))) * PAIRS) / PAIRS
            curve = [float(x) for x in rng.random(EPOCHS).round(4)]
            result = outcome([*curve[:-1], value], value=value, train_loss=[float(x) for x in rng.random(EPOCHS)])
            at = time.time() - TRAINING_SECONDS * (len(ids) - n) / 8
            stored.append({"trial_id": trial_id, "objective": 0, "value": value, "value_type": "FINITE"})
            ended.append(
                {
                    "slot": slot_id,
                    "result": "pruned" if n % 3 == 0 else "complete",
                    "outcome": result.to_json(),
                    "trial_id": trial_id,
                    "trial_number": n + 1,
                    "worker": workers[n % len(workers)],
                    "started_at": at - TRAINING_SECONDS,
                    "finished_at": at,
                }
            )
        connection.execute(insert(values), stored)
        fixed = {"state": "done", "told": True, "attempt": 1, "epoch": EPOCHS}
        changing: dict[str, Any] = {name: bindparam(name) for name in ended[0] if name != "slot"}
        connection.execute(update(slots).where(slots.c.id == bindparam("slot")).values(**fixed, **changing), ended)


def main() -> None:
    """Measure, print, store."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--sizes", type=size, nargs="+", default=[(50, 300), (3, 1000)], metavar="STUDIESxTRIALS")
    asked.add_argument("--workers", type=int, default=20)
    asked.add_argument("--repeats", type=measure.two_or_more, default=10)
    asked.add_argument("--json", type=Path, default=Path("bench/out/overview.json"))
    options = asked.parse_args()
    rows, results = [], []
    for kind in (databases.sqlite, databases.postgresql):
        with tempfile.TemporaryDirectory(prefix="hpo-bench-") as folder, kind(Path(folder)) as url:
            for number, (count, trials) in enumerate(options.sizes):
                engine = open_engine(databases.another(url, f"overview_{number}"))
                fill(engine, count, trials, options.workers)
                if engine.dialect.name == "postgresql":
                    databases.run_apart(engine.url.render_as_string(hide_password=False), "VACUUM ANALYZE")
                seconds = measure.in_turns(_cases(engine), options.repeats)
                begun = time.perf_counter()
                queries.all_results(engine)
                whole = time.perf_counter() - begun
                engine.dispose()
                for name, taken in seconds.items():
                    low, middle, high = statistics.quantiles(taken, n=4)
                    shown = f"{1000 * middle:.0f} ({1000 * low:.0f} to {1000 * high:.0f})"
                    rows.append([engine.dialect.name, f"{count} x {trials}", name, shown, f"{1000 * max(taken):.0f}"])
                rows.append([engine.dialect.name, f"{count} x {trials}", "all results", f"{1000 * whole:.0f}", ""])
                about = {"database": engine.dialect.name, "studies": count, "trials": trials}
                results.append({**about, "seconds": seconds, "all_results": whole})
    print(f"{options.workers} workers, {options.repeats} repeats; ms: median (quartiles), longest\n")
    print(measure.table(["database", "studies x trials", "what", "ms", "longest"], rows))
    measure.store(options.json, {"workers": options.workers, "results": results})


def _cases(engine: Engine) -> dict[str, Callable[[], object]]:
    return {
        "overview": lambda: overview(engine),
        "a study": lambda: study_progress(engine, "study-0"),
        "metrics": lambda: exposition(engine),
    }


if __name__ == "__main__":
    main()
