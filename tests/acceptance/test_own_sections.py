"""What an experiment keeps of its test items and shows of them, from the worker's child to the report."""

import csv
import json
from pathlib import Path

from tests.support.commandline import DRAIN, Hpo
from tests.support.dashboard import ask, dashboard

FILE = """
import numpy as np
import hpo

x = np.linspace(-1, 1, 300)[:, None]
y = 3 * x[:, 0] + np.random.default_rng(0).normal(0, 0.1, 300)

def slope(run):
    features, targets = run.training
    best = (features[:, 0] @ targets) / (features[:, 0] ** 2).sum()
    return lambda other: run.params["share"] * best * other[:, 0]

def columns(outputs, items):
    return {"residual": outputs - items.y}

def sections(view):
    rows = [{"label": label, "largest": max(float(abs(r.columns["residual"]).max()) for r in rounds)}
            for study in view.studies for label, rounds in study.rounds.items()]
    return [hpo.Section("Residuals", ["Kept of every test item.", hpo.table("The largest", rows)],
                        json={"largest": rows}, csv={"residuals": rows})]

line = hpo.Experiment(
    "line", data=hpo.rows(lambda: (x, y), test=0.3), metrics=[hpo.rmse], columns=columns, sections=sections,
    models={"slope": hpo.Model(slope, space={"share": hpo.Float(0.5, 1.5)}, reference={"share": 0.8})})
"""


def test_kept_columns_and_own_sections(hpo: Hpo) -> None:
    """They are in the page, the JSON and a CSV file; a report without the experiment has all but them."""
    file = hpo.folder / "line_of_sections.py"
    file.write_text(FILE)
    hpo("run", "--experiment", file, "--trials", "2", "--rounds", "2", "--workers", "1", "--out", "report")
    folder = hpo.folder / "report"
    told = json.loads((folder / "report.json").read_text())["largest"]
    assert {row["label"] for row in told} >= {"reference"}
    (reference,) = [row["largest"] for row in told if row["label"] == "reference"]
    assert 0.5 < reference < 1.0  # 0.2 of a slope of 3 at the ends, and the noise
    with open(folder / "residuals.csv", newline="") as stream:
        assert [float(row["largest"]) for row in csv.DictReader(stream)] == [row["largest"] for row in told]
    assert _titles(folder) >= {"Residuals"}
    hpo("report", "--out", "without")
    assert _titles(hpo.folder / "without") == _titles(folder) - {"Residuals"}
    hpo("report", "--out", "again", "--experiment", file)
    assert _titles(hpo.folder / "again") == _titles(folder)


def test_the_dashboard_has_them_in_its_report(hpo: Hpo) -> None:
    """Made when it is asked for, and anew where something has changed; a file that fails costs its sections alone."""
    file = hpo.folder / "line_on_page.py"
    file.write_text(FILE)
    hpo("study", "create", "--experiment", file, "--trials", "2", "--rounds", "2")
    with dashboard(hpo.url, "--experiment", str(file)) as (port, _):
        before = report_of(port)
        assert "Residuals" in titles_of(before)
        assert report_of(port) == before, "nothing has changed, so it is the same one"
        hpo(*DRAIN, "--experiment", file)
        after = report_of(port)
        assert titles_of(after) > titles_of(before)
        assert ask(port, "/report", Host="elsewhere")[0] == 403
        assert ask(port, "/report", "POST", Host="localhost")[0] == 403
        file.write_text(FILE.replace("    return [hpo.Section", "    1 / 0\n    return [hpo.Section"))
        hpo("study", "pause", "line-slope")
        without = report_of(port)
        assert "ZeroDivisionError" in without
        assert titles_of(without) - {"Sections of line"} == titles_of(after) - {"Residuals"}


def report_of(port: int) -> str:
    """The page that the dashboard gives."""
    status, page = ask(port, "/report", Host="localhost")
    assert status == 200
    return page


def _titles(folder: Path) -> set[str]:
    return titles_of((folder / "report.html").read_text())


def titles_of(page: str) -> set[str]:
    """The titles of a report's sections."""
    return {part.partition("</h2>")[0].rpartition(">")[2] for part in page.split("<h2")[1:]}
