"""README's picture of the lab's overview, as Chromium shows it: docs/overview.png.

    python -m bench.pictures [--out docs/overview.png]

The lab has the digits' finished studies of bench/records, and the classifiers of examples/cancer.py in their search,
trained by two workers here; the picture is taken when half of that is done.
"""

import argparse
import gzip
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import Engine, func, select

from bench.examples import picture
from hpo.storage import migrate
from hpo.storage.engine import begin_read, open_engine
from hpo.storage.schema import slots, studies

ROOT = Path(__file__).parents[1]
CANCER = ROOT / "examples" / "cancer.py"
SIZE = (1240, 960)  # pixels
TRIALS = 40  # of each classifier
PORT = "8765"
HPO = (sys.executable, "-m", "hpo")


def trials_done(engine: Engine) -> int:
    """Of the classifiers' searches."""
    query = (
        select(func.count())
        .select_from(slots.join(studies, slots.c.study_id == studies.c.id))
        .where(studies.c.name.startswith("cancer-"), slots.c.kind == "search", slots.c.state == "done")
    )
    with begin_read(engine) as connection:
        return connection.scalar(query) or 0


def main() -> None:
    """Make the lab, train, take the picture."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--out", type=Path, default=ROOT / "docs" / "overview.png")
    options = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="hpo-lab-") as name, ExitStack() as processes:
        folder = Path(name)
        database = folder / "hpo.db"
        database.write_bytes(gzip.decompress((ROOT / "bench" / "records" / "40-epoch.db.gz").read_bytes()))
        url = f"sqlite:///{database}"
        environment = {**os.environ, "HPO_DATABASE_URL": url, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        engine = open_engine(url)
        migrate.upgrade(engine)

        def start(*words: str, stderr: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
            process = subprocess.Popen([*HPO, *words], cwd=folder, env=environment, stderr=stderr, text=True)
            processes.callback(process.wait)
            processes.callback(process.terminate)
            return process

        creating = ("study", "create", "--experiment", str(CANCER), "--trials", str(TRIALS), "--rounds", "20")
        subprocess.run([*HPO, *creating], cwd=folder, env=environment, check=True)
        for _ in range(2):
            start("worker", "--experiment", str(CANCER), "--device", "cpu")
        dashboard = start("dashboard", "--port", PORT, stderr=subprocess.PIPE)
        assert dashboard.stderr is not None
        said = (re.search(r"http://\S+token=(\S+)", line) for line in dashboard.stderr)
        address, token = next(match.group(0, 1) for match in said if match)
        asking = urllib.request.Request(address.partition("login")[0], headers={"Authorization": f"Bearer {token}"})
        while b"What the comparisons say" not in urllib.request.urlopen(asking).read():
            time.sleep(0.5)  # the site makes the headlines beside the page
        while trials_done(engine) < 2 * TRIALS:
            time.sleep(0.5)
        picture(address, options.out, SIZE)
        engine.dispose()


if __name__ == "__main__":
    main()
