"""The finished reports in examples/reports: run the examples again and keep what came of it.

    python -m bench.examples [cancer diabetes ...] [--trials 40] [--rounds 20] [--epochs 10] [--workers 2]
    python -m bench.examples --again        # text and picture anew, from the databases that are kept

Of each experiment the terminal's text (report.txt), a picture of the page (report.png, where Chromium is installed)
and the database, packed (hpo.db.gz), from which `hpo report` makes the whole page.
"""

import argparse
import gzip
import shutil
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import hpo
from hpo.storage import migrate
from hpo.storage.engine import open_engine

FOLDER = Path(__file__).parents[1] / "examples"
SIZE = (1240, 3400)  # pixels of the picture: the page's beginning, to the first figures
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def run(name: str, options: argparse.Namespace) -> None:
    """Run an example in a folder of its own, and keep its database and its report."""
    with tempfile.TemporaryDirectory(prefix="hpo-example-") as place:
        database, whole = Path(place) / "hpo.db", Path(place) / "whole.db"
        hpo.run(
            FOLDER / f"{name}.py",
            trials=options.trials,
            rounds=options.rounds,
            epochs=options.epochs,
            workers=options.workers,
            out=Path(place) / "report",
            db=f"sqlite:///{database}",
        )
        with closing(connect(database)) as connection:
            connection.execute("VACUUM INTO ?", (str(whole),))
        kept = FOLDER / "reports" / name
        kept.mkdir(parents=True, exist_ok=True)
        (kept / "hpo.db.gz").write_bytes(gzip.compress(whole.read_bytes(), mtime=0))
    show(name)


def show(name: str) -> None:
    """Text and picture from the database that is kept."""
    kept = FOLDER / "reports" / name
    with tempfile.TemporaryDirectory(prefix="hpo-example-") as place:
        report = kept_report(name, Path(place))
        (kept / "report.txt").write_text(f"{report}\n", encoding="utf-8")
        if CHROMIUM is not None:
            picture(report.path.as_uri(), kept / "report.png")


def kept_report(name: str, place: Path) -> hpo.ComparisonReport:
    """The report of the database that is kept, made in a folder; an older schema is upgraded there."""
    database = place / "hpo.db"
    database.write_bytes(gzip.decompress((FOLDER / "reports" / name / "hpo.db.gz").read_bytes()))
    engine = open_engine(f"sqlite:///{database}")
    migrate.upgrade(engine)
    engine.dispose()
    return hpo.report(out=place / "report", db=f"sqlite:///{database}")


def picture(url: str, file: Path, size: tuple[int, int] = SIZE) -> None:
    """The page as Chromium shows it in a window of that size."""
    with tempfile.TemporaryDirectory(prefix="hpo-browser-", ignore_cleanup_errors=True) as profile:
        command = [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--virtual-time-budget=20000",
            f"--window-size={size[0]},{size[1]}",
            f"--user-data-dir={profile}",
            f"--screenshot={file}",
            url,
        ]
        subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    """The examples that are named, else all; with `--again` all that are kept."""
    there = sorted(path.stem for path in FOLDER.glob("*.py"))
    kept = sorted(path.parent.name for path in FOLDER.glob("reports/*/hpo.db.gz"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(there)}")
    for option in ("--trials", "--rounds", "--epochs", "--workers"):
        parser.add_argument(option, type=int)
    parser.add_argument("--again", action="store_true", help="train nothing")
    options = parser.parse_args()
    for name in options.names or (kept if options.again else there):
        if options.again:
            show(name)
        else:
            run(name, options)


if __name__ == "__main__":
    main()
