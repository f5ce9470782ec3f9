"""What tuning changed, and what it cost."""

from dataclasses import replace

import numpy as np
import pytest

from hpo.analysis.tuning import tuning_of
from hpo.experiment.page import PageTable
from hpo.report.formats import NOTHING
from hpo.report.sections.tuning import AT_LEAST, tuning_parts
from hpo.report.sentences import overtuning_sentence, tuning_verdict
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


def test_every_confirmed_configuration_shows_what_its_lead_was_worth() -> None:
    """The search's best is among them; what its one draw gave to all of them cancels against the reference."""
    spec = builtin_spec("ws")
    shared = 0.02  # that the search's draw of validation pairs gives to everything
    runs = [run("search", 0, value=0.85 + shared, params=dict(spec.paper))]
    runs += [run("search", n, value=value + shared) for n, value in ((3, 0.91), (7, 0.93))]
    of_label = {"paper": (0.85, 0.87), "trial 3": (0.90, 0.92), "trial 7": (0.88, 0.92)}
    runs += [
        run("confirm", 2 * place + i, label=label, round=i, value=value)
        for place, (label, values) in enumerate(of_label.items())
        for i, value in enumerate(values)
    ]
    tuning = tuning_of(study("ws", runs))
    third, best, paper = tuning.confirmed
    assert [(c.label, c.is_best, c.rounds) for c in tuning.confirmed] == [
        ("trial 3", False, 2),
        ("trial 7", True, 2),
        ("paper", False, 2),
    ]
    assert best.search_lead == pytest.approx(0.08)
    assert best.confirm_lead == pytest.approx(0.04)
    assert best.confirm_lead_error == pytest.approx(0.01)
    assert best.lost == pytest.approx(0.04)
    assert third.confirm_lead_error == pytest.approx(0.0)  # rounds share what they have in common
    assert third.confirm_error == pytest.approx(0.01)
    assert (paper.search_lead, paper.confirm_lead, paper.lost) == (None, None, None)
    over = tuning.overtuning
    assert over is not None
    assert (over.incumbents, over.confirmed, over.last, over.best) == (3, 3, "trial 7", "trial 3")
    assert over.lost == pytest.approx(0.01)
    assert over.lost_error == pytest.approx(0.01)
    assert not over.is_clear
    assert overtuning_sentence(tuning) == (
        "Whether the search overtuned is not settled: 3 of the 3 configurations that were its best so far were "
        "confirmed; trial 3 is 1.00 ± 1.00 points better in confirm than trial 7, which the search took for better "
        "later on (over the rounds that both have, p = 1 as the best of 2)."
    )
    by_reference = replace(tuning, overtuning=replace(over, best=tuning.reference_label, confirmed=2))
    assert overtuning_sentence(by_reference) == (
        "Whether the search overtuned is not settled: 2 of the 3 configurations that were its best so far were "
        "confirmed; the paper's configuration is 1.00 ± 1.00 points better in confirm than trial 7, which the search "
        "took for better later on (over the rounds that both have, p = 1)."
    )
    parts = tuning_parts([tuning])
    (table,) = [part for part in parts if isinstance(part, PageTable) and part.caption.startswith("Every confirmed")]
    assert table.rows[1][1:] == (
        "trial 7, the search's best",
        "95.00",
        "2",
        "90.00 ± 2.00",
        "+8.00",
        "+4.00 ± 1.00",
        "+4.00",
    )
    assert table.rows[2][1:] == ("paper", "87.00", "2", "86.00 ± 1.00", NOTHING, NOTHING, NOTHING)


def overtuned(lead: float, spread: float, rounds: int = 10) -> str:
    """What is said of a search whose last incumbent is so much worse in confirm than the one before."""
    runs = [run("search", n, value=value) for n, value in ((0, 0.85), (3, 0.91), (7, 0.93))]
    course = [0.02 * (-1) ** (i // 2) for i in range(rounds)]  # shared: pairing takes it away
    runs += [
        run("confirm", rounds * place + i, label=label, round=i, value=value + course[i] + spread * (-1) ** i * sign)
        for place, (label, value, sign) in enumerate((("trial 3", 0.9 + lead, 1), ("trial 7", 0.9, -1)))
        for i in range(rounds)
    ]
    return str(overtuning_sentence(tuning_of(study("ws", runs))))


def test_overtuning_is_claimed_only_where_it_is_clear() -> None:
    """A maximum of noisy means is always ahead of something."""
    assert overtuned(0.004, 0.001).startswith("Overtuning: 2 of the 3 configurations that were its best so far were ")
    assert "trial 3 is 0.40 ± 0.07 points better in confirm than trial 7" in overtuned(0.004, 0.001)
    assert overtuned(0.0013, 0.004).startswith("Whether the search overtuned is not settled: ")
    assert overtuned(0.004, 0.001, rounds=3).startswith("Whether"), "three rounds settle nothing"
    assert overtuned(-0.001, 0.004).startswith("No overtuning seen: ")


def test_noise_is_seldom_taken_for_overtuning() -> None:
    """Equally good incumbents, of which the best by confirm is picked: about one search in twenty at most."""
    rng = np.random.default_rng(0)
    clear = 0
    for _ in range(200):
        values = 0.9 + 0.01 * rng.standard_normal((5, 10))
        runs = [run("search", n, value=0.8 + n / 100) for n in range(1, 6)]
        runs += [
            run("confirm", 10 * n + i, label=f"trial {n + 1}", round=i, value=float(values[n, i]))
            for n in range(5)
            for i in range(10)
        ]
        over = tuning_of(study("ws", runs)).overtuning
        assert over is not None
        clear += over.is_clear
    assert clear <= 14


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
