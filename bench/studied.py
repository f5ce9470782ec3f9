"""The default study by real workers on one device, for `bench.gpu study`: how many trainings an hour, as it goes."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HPO = [sys.executable, "-c", "from hpo.cli.main import main; main()"]
MODELS = ("simple", "ws", "ws-aux")
EVERY = 10  # seconds
PREDICTED_HOURLY = 9_350  # trainings by three workers on an H100 on 2026-11-27 (BENCHMARKS.md)
PHASES = {  # pool B is opened when all have searched and confirmed: 100 trials and 60 rounds each
    "search and confirm": ["--max-trials", "160"],
    "final": ["--drain"],
}


def study_by_workers(folder: Path, device: str, tell: Callable[..., None]) -> None:
    """A worker a model, phase by phase; `tell` is told at once what has ended so far."""
    folder.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{folder / 'gpu.db'}"
    hpo = [*HPO, "--db", url]
    subprocess.run([*hpo, "study", "create", "--model", "all"], check=True, capture_output=True)
    whole, trained = time.monotonic(), 0
    for phase, until in PHASES.items():
        begun, before = time.monotonic(), trained
        with (folder / "workers.log").open("a") as log:
            workers = [
                subprocess.Popen([*hpo, "worker", "--device", device, "--study", model, *until], stdout=log, stderr=log)
                for model in MODELS
            ]
        while True:
            running = [worker for worker in workers if worker.poll() is None]
            trained, seconds = finished(url), time.monotonic() - begun
            hourly = 3600 * (trained - before) / seconds
            tell("study", phase=phase, seconds=seconds, trained=trained, workers=len(running), trainings_an_hour=hourly)
            if not running:
                break
            time.sleep(EVERY)
        if codes := [worker.returncode for worker in workers if worker.returncode]:
            tell("study", phase=phase, failed=codes, log=(folder / "workers.log").read_text()[-2000:])
            return
    seconds = time.monotonic() - whole
    hourly = 3600 * trained / seconds
    over = hourly / PREDICTED_HOURLY
    tell("study", phase="whole", seconds=seconds, trained=trained, trainings_an_hour=hourly,
        predicted=PREDICTED_HOURLY, over_predicted=over)  # fmt: skip


def finished(url: str) -> int:
    """How many trainings have an outcome."""
    from sqlalchemy import func, select

    from hpo.storage.engine import begin_read, open_engine
    from hpo.storage.schema import slots

    engine = open_engine(url)
    with begin_read(engine) as connection:
        count = connection.scalar(select(func.count()).where(slots.c.finished_at.is_not(None)))
    engine.dispose()
    return int(count or 0)
