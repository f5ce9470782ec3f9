"""The examples from end to end on small budgets: checked, run to their reports, their study files created."""

import json
from pathlib import Path

import pytest

import hpo as package
from bench.examples import kept_report
from hpo.experiment.prepare import prepared
from hpo.worker import check as checks
from tests.support.commandline import Hpo

FOLDER = Path(package.__file__).parents[1] / "examples"
FILES = sorted(FOLDER.glob("*.py"))
SMALL = {  # experiment: options of its run
    "cancer": ("--trials", "6", "--rounds", "4"),
    "diabetes": ("--trials", "6", "--rounds", "7"),
    "handwriting": ("--trials", "3", "--rounds", "2", "--epochs", "2"),
    "language": ("--trials", "3", "--rounds", "2", "--epochs", "1"),
    "pairs": ("--trials", "2", "--rounds", "2", "--epochs", "1"),
}
MOST_BYTES = 1_500_000  # of a finished report
METRICS = {
    "cancer": "accuracy",
    "diabetes": "rmse",
    "handwriting": "accuracy",
    "language": "perplexity",
    "pairs": "accuracy",
}
pytestmark = pytest.mark.long


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nothing_is_wrong_with_an_example(file: Path) -> None:
    """By `hpo experiment check`, of each of its models."""
    lines = list(checks.check(prepared(str(file)), [])[0])
    assert [line for line in lines if line.level == "BAD"] == []
    assert {line.model for line in lines if line.check == "test"} == set(prepared(str(file)).models)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_example_runs_to_its_report(hpo: Hpo, file: Path) -> None:
    """Every model is tested, and the report is of the experiment's metric."""
    for study in sorted(FOLDER.glob(f"{file.stem}*.toml")):
        hpo("study", "create", "--file", study, "--name", f"from-{study.stem}", "--dry-run")
    hpo("run", "--experiment", file, *SMALL[file.stem], "--workers", "2")
    report = json.loads((hpo.folder / "report" / "report.json").read_text())
    models = prepared(str(file)).models
    assert {study["model"] for study in report["studies"] if study["phase"] == "done"} == set(models)
    assert {row["metric"]["name"] for row in report["table"]} == {METRICS[file.stem]}
    assert {row["model"] for row in report["table"] if row["test"]["mean"] is not None} == set(models)
    page = (hpo.folder / "report" / "report.html").read_text()
    text = page[page.index("<main>") : page.index("<script>", page.index("<main>"))]
    assert ("accuracy" in text) == (METRICS[file.stem] == "accuracy")


def test_a_reference_that_is_hard_to_beat(hpo: Hpo) -> None:
    """Of ridge regression on the diabetes data the report says that tuning brought nothing that can be shown."""
    hpo("run", "--experiment", FOLDER / "diabetes.py", "--model", "ridge", "--trials", "12", "--rounds", "8")
    report = json.loads((hpo.folder / "report" / "report.json").read_text())
    (line,) = [line for line in report["headlines"] if "ridge" in line]
    assert (
        "What tuning brings ridge is open" in line
        or "Whether tuning changed ridge is not settled" in line
        or "no practical difference to ridge" in line
    )


@pytest.mark.parametrize("folder", sorted((FOLDER / "reports").glob("*/")), ids=lambda folder: folder.name)
def test_a_finished_report_is_of_the_database_beside_it(folder: Path, tmp_path: Path) -> None:
    """`python -m bench.examples --again` writes text and picture anew where words have changed."""
    assert str(kept_report(folder.name, tmp_path)) == (folder / "report.txt").read_text().rstrip("\n")
    assert prepared(str(FOLDER / f"{folder.name}.py")).name == folder.name
    assert sum(file.stat().st_size for file in folder.iterdir()) < MOST_BYTES
