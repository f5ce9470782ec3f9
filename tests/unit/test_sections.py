"""An experiment's own sections: made in a process of their own, checked when they arrive."""

from pathlib import Path

import numpy as np
import pytest

from hpo.errors import ExperimentError
from hpo.experiment.contribute import contributed
from hpo.experiment.page import PageFigure, PageTable, from_plain
from hpo.experiment.view import FinalRound, StudyView, View
from hpo.report.html import render

FILE = """
import os
import hpo

def sections(view):
    print("noise")
    assert "HPO_DATABASE_URL" not in os.environ
    (study,) = view.studies
    (tested,) = study.rounds["tuned"]
    mean = float(tested.columns["error"].mean())
    drawing = {"data": [{"y": tested.columns["error"]}], "layout": {"height": "tall", "images": [{"source": "http://x"}]}}
    return [hpo.Section("Errors", ["<b>mean</b>", hpo.table("Means", [{"study": study.name, "mean": mean}]),
                                   hpo.figure("All", drawing)], json={"mean": mean})]

mine = hpo.Experiment("mine", data=hpo.rows(lambda: ([[0.0]] * 9, [0] * 9), test=0.3), metrics=[hpo.mae],
                      models={"m": hpo.Model(lambda run: None)}, sections=SECTIONS)
"""


def view() -> View:
    tested = FinalRound(
        number=0,
        slot=1,
        seed=2,
        opened=True,
        metrics={"mae": 0.5},
        columns={"error": np.array([0.25, 0.75, np.nan])[:2]},
    )
    study = StudyView(
        name="mine-m",
        model="m",
        version=1,
        phase="done",
        data_digest="d",
        still_tuned=(),
        reference_label="reference",
        params={"tuned": {}},
        rounds={"tuned": (tested,)},
    )
    return View(studies=(study,))


def test_sections_come_from_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns go there, plain parts come back; what would load something from elsewhere does not."""
    monkeypatch.setenv("HPO_DATABASE_URL", "sqlite:///secret")
    file = tmp_path / "mine_sections.py"
    file.write_text(FILE.replace("SECTIONS", "sections"))
    (section,) = contributed(str(file), "mine", view())
    _, table, figure = section.parts
    assert isinstance(table, PageTable)
    assert isinstance(figure, PageFigure)
    assert table.rows == (("mine-m", "0.5"),)
    assert (figure.spec["data"], figure.spec["layout"]) == ([{"y": [0.25, 0.75]}], {"height": 400})
    assert section.json == {"mean": 0.5}
    assert "&lt;b&gt;mean" in render("t", "s", [section], "")


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("lambda view: 1 / 0", "ZeroDivisionError"),
        ("lambda view: [hpo.Section('t', [object()])]", "is no part of a page"),
        ("lambda view: os._exit(3)", "the process ended"),
    ],
)
def test_what_fails_is_told_in_a_line(tmp_path: Path, function: str, why: str) -> None:
    file = tmp_path / "failing_sections.py"
    file.write_text(FILE.replace("SECTIONS", function))
    with pytest.raises(ExperimentError, match=why) as error:
        contributed(str(file), "mine", view())
    assert "\n" not in str(error.value)


def test_what_is_no_section_is_refused() -> None:
    with pytest.raises(ExperimentError, match="not as"):
        from_plain({"title": "t", "parts": [{"kind": "script"}], "json": {}, "csv": {}}, "x")
