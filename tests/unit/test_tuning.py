"""What tuning changed, and what it cost."""

import pytest

from hpo.analysis.tuning import tuning_of
from hpo.experiment.page import PageTable
from hpo.report.formats import NOTHING
from hpo.report.sections.tuning import AT_LEAST, tuning_parts
from hpo.report.sentences import tuning_verdict
from hpo.results.records import StudyResult
from hpo.study.spec import builtin_spec
from tests.support.results import finals, run, study


def test_tuning_shows_the_optimism() -> None:
    spec = builtin_spec("ws")
    runs = [run("search", 0, value=0.85, params=dict(spec.paper)), run("search", 7, value=0.93)]
    runs += [run("confirm", i, label="paper", round=i, value=0.86) for i in range(2)]
    runs += [run("confirm", 2 + i, label="trial 7", round=i, value=0.90) for i in range(2)]
    runs += finals("paper", [0.84]) + finals("tuned", [0.89])
    tuning = tuning_of(study("ws", runs))
    paper, tuned = tuning.stages
    assert (paper.search, paper.test) == (0.85, 0.84)
    assert paper.confirm == pytest.approx(0.86)
    assert (tuned.search, tuned.confirm, tuned.test) == (0.93, 0.9, 0.89)
    assert tuned.optimism == pytest.approx(0.03)
    assert next((p.name, p.reference, p.tuned) for p in tuning.parameters) == ("learning_rate", 3e-3, 1e-3)
    assert next((s.phase, s.runs, s.epochs, s.seconds) for s in tuning.spend) == ("search", 2, 6, 20.0)
    assert tuning_verdict(tuning) == "Trial 7 of the search won the confirm phase."


def test_cost_is_counted_by_the_device() -> None:
    """Four lanes of one core are its time once; what an earlier version has not measured is not taken for nothing."""
    aux = [run("search", i, device="cuda:0 NVIDIA H200", device_seconds=360.0) for i in range(5)]
    ws = [run("search", 0, device="cpu x86_64, 1 thread(s)", device_seconds=900.0, seconds=3600.0)]
    ws += [run("confirm", 1, label="paper", round=0, device="cuda:1 NVIDIA H200", device_seconds=36.0)]
    partly = [run("search", 0, device_seconds=1800.0), run("search", 1, device_seconds=None)]
    before = [run("search", 0, device_seconds=None)]

    def table(*studies: StudyResult) -> tuple[list[str], list[tuple[str, ...]]]:
        parts = tuning_parts([tuning_of(one) for one in studies])
        (costs,) = [part for part in parts if isinstance(part, PageTable) and part.caption.startswith("What it cost")]
        return [column.title for column in costs.columns][-3:], [row[-3:] for row in costs.rows]

    titles, rows = table(study("ws-aux", aux), study("ws", ws), study("simple", partly), study("simple", before))
    assert titles == ["CPU hours", "GPU hours", "lane hours"]
    assert rows[0] == ("0.00", "0.50", "0.01")
    assert rows[1] == ("0.25", "0.01", "1.00")
    assert rows[2] == (f"{AT_LEAST} 0.50", NOTHING, "0.01")
    assert rows[3] == (NOTHING, NOTHING, "0.00")
    titles, rows = table(study("simple", before))
    assert (titles[1:], rows[0][1:]) == (["CPU or GPU hours", "lane hours"], (NOTHING, "0.00"))
