"""Comparison, wording, tuning and figures from hand-made records: no database."""

import math
from typing import Any

import pytest

from hpo.analysis import search_history
from hpo.analysis.comparison import compare
from hpo.analysis.dependence.interactions import dependence_of
from hpo.analysis.pairwise import BETWEEN_PAPER, BETWEEN_TUNED, TUNING
from hpo.analysis.provenance import last_line, provenance_of
from hpo.analysis.tuning import tuning_of
from hpo.digits.bundled import BUNDLED_DIGEST
from hpo.report import chart_data
from hpo.report.charts import search as charts
from hpo.report.charts.rounds import rounds_chart
from hpo.report.formats import NOTHING
from hpo.report.html import PageTable
from hpo.report.sections.tuning import AT_LEAST, tuning_parts
from hpo.report.sentences import budget_warning, conclusions_of, row_note, tuning_verdict
from hpo.results.records import StudyResult
from hpo.study.spec import StudySpec, builtin_spec
from tests.support.results import COURSE, PARAMS, finals, run, study

# Around a common course of the rounds, so that pairing helps.


def rounds(level: float, wobble: float = 0.0005) -> list[float]:
    return [level + c + wobble * (-1) ** (i // 2) for i, c in enumerate(COURSE)]


def test_rows_carry_their_epochs_and_stand_in_order() -> None:
    results = [study("ws", finals("tuned", rounds(0.9)) + finals("paper", rounds(0.87)))]
    found = compare(results)
    assert [(row.label, row.epochs, row.rounds) for row in found.rows] == [
        ("published", 40, 20),
        ("paper", 40, 20),
        ("tuned", 40, 20),
    ]
    assert found.rows[0].test.mean == 0.872
    conclusions = conclusions_of(results, found)
    assert conclusions.budget is None
    assert conclusions.cautions == ()


def test_a_clear_difference_is_said_with_its_uncertainty() -> None:
    results = [
        study("ws", finals("tuned", rounds(0.90)) + finals("paper", rounds(0.87, 0.001))),
        study("ws-aux", finals("tuned", rounds(0.98, 0.004)) + finals("paper", rounds(0.97)), id=2),
    ]
    found = compare(results)
    assert [pair.kind for pair in found.pairs] == [BETWEEN_TUNED, BETWEEN_PAPER, TUNING, TUNING]
    pair = found.pairs[0]
    assert pair.difference.mean == pytest.approx(0.08)
    assert pair.clear
    assert (pair.test.p, pair.p_holm) == (2 / 2**20, 2 * 2 / 2**20)  # two pairs of models in the family
    assert found.pairs[2].p_holm == pytest.approx(2 * 2 / 2**20)  # two tests in the family
    assert pair.pairing.variance_ratio is not None
    assert pair.pairing.variance_ratio < 0.5
    headlines = conclusions_of(results, found).headlines
    assert headlines[0].startswith("ws-aux is better than ws: both tuned, they answer 98.0% and 90.0% of")
    assert "8.0 points apart (95% interval 7.8 to 8.2; better in 20 of 20 rounds)" in headlines[0]
    assert headlines[1].startswith("Tuning improved ws: 90.0% tuned, 87.0% with the paper's")
    assert "+3.0 points (95% interval +3.0 to +3.0" in headlines[1]


def test_the_worse_one_is_never_called_better() -> None:
    """The pairs are ordered by model; the sentence by what was measured."""
    results = [
        study("simple", finals("tuned", rounds(0.93, 0.004)) + finals("paper", rounds(0.93))),
        study("ws", finals("tuned", rounds(0.90)) + finals("paper", rounds(0.92)), id=2),
    ]
    headlines = conclusions_of(results, compare(results)).headlines
    assert headlines[0].startswith("simple is better than ws: both tuned, they answer 93.0% and 90.0% of")
    assert "3.0 points apart (95% interval 2.8 to 3.2; better in 20 of 20 rounds)" in headlines[0]
    assert any(line.startswith("Tuning harmed ws: 90.0% tuned, 92.0%") for line in headlines)
    assert any(line.startswith("Whether tuning changed simple is not settled") for line in headlines)


def test_a_model_that_is_not_tuned_yet_is_compared_with_the_papers_values() -> None:
    """Each pair of models has its sentence, which says what is compared; a pair that is tuned has no second one."""
    results = [
        study("simple", finals("tuned", rounds(0.86)) + finals("paper", rounds(0.84, 0.001))),
        study("ws", finals("tuned", rounds(0.90, 0.002)) + finals("paper", rounds(0.87)), id=2),
        study("ws-aux", finals("paper", rounds(0.97, 0.003)), id=3),
    ]
    lines = conclusions_of(results, compare(results)).headlines
    assert [line.partition(", they answer")[0] for line in lines[:3]] == [
        "ws is better than simple: both tuned",
        "ws-aux is better than simple: both with the paper's configuration",
        "ws-aux is better than ws: both with the paper's configuration",
    ]
    assert all(line.startswith("Tuning improved") for line in lines[3:])


def test_few_rounds_are_called_few() -> None:
    three, other = [0.90, 0.91, 0.92], [0.80, 0.812, 0.82]
    results = [study("simple", finals("tuned", other)), study("ws", finals("tuned", three), id=2)]
    (line,) = conclusions_of(results, compare(results)).headlines
    assert "3 rounds are too few for a test (the smallest possible p is 0.25)" in line
    one = [study("simple", finals("tuned", other[:1])), study("ws", finals("tuned", three[:1]), id=2)]
    (line,) = conclusions_of(one, compare(one)).headlines
    assert "cannot be told apart" in line
    assert "10.0 points apart in a single round, which says nothing about its uncertainty" in line


@pytest.mark.parametrize(("n", "families", "detectable"), [(5, 1, False), (6, 1, True), (6, 2, False), (7, 2, True)])
def test_detectable_is_only_what_can_be_clear(n: int, families: int, detectable: bool) -> None:
    """So few rounds that no p survives Holm promise nothing, and what differs most is indeed not clear there."""
    labels = ("tuned", "paper")[:families]  # each a pair of models more
    results = [
        study(model, [r for label in labels for r in finals(label, rounds(level)[:n])], id=place)
        for place, (model, level) in enumerate((("simple", 0.7), ("ws", 0.9)))
    ]
    between = [pair for pair in compare(results).pairs if pair.family == "pairs of models"]
    assert [pair.clear for pair in between] == [detectable] * families
    assert [pair.detectable is not None for pair in between] == [detectable] * families


def test_only_common_rounds_are_paired() -> None:
    results = [
        study("simple", finals("tuned", [0.5, 0.8, 0.8], first=0)),
        study("ws", finals("tuned", [0.9, 0.9, 0.1], first=1), id=2),
    ]
    (pair,) = compare(results).pairs
    assert pair.rounds == (1, 2)
    assert pair.difference.values == (0.1, 0.1)


def test_where_the_papers_won_nothing_is_tested() -> None:
    tuned = {"params": PARAMS, "source": "paper", "confirm_mean": 0.9}
    results = [study("ws", finals("paper", rounds(0.9)), tuned=tuned)]
    found = compare(results)
    assert found.pairs == ()
    headlines = conclusions_of(results, found).headlines
    assert headlines == ("Tuning did not improve ws: the paper's configuration won the confirm phase.",)
    assert [row.label for row in found.rows] == ["published", "paper", "tuned"]
    assert "the same rounds" in row_note(found.rows[2])


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"epochs": 12}, "epochs (40 and 12)"), ({"data_digest": "e" * 64}, "images (d and eeeeeeeeeeee)")],
)
def test_other_settings_are_not_mixed(changes: dict[str, Any], words: str) -> None:
    digest = changes.pop("data_digest", "d")
    other = builtin_spec("ws").with_options(name="other", **changes)
    results = [
        study("simple", finals("tuned", rounds(0.84))),
        study("ws", finals("tuned", rounds(0.9)), spec=other, id=2, data_digest=digest),
    ]
    found = compare(results)
    assert found.pairs == ()
    assert len(found.settings) == 2
    assert (
        conclusions_of(results, found).cautions[0]
        == f"Setting 2 is not compared with setting 1: they differ in {words}."
    )


def test_what_compares_unequally_is_said() -> None:
    trials = [run("search", i) for i in range(3)]
    results = [
        study("simple", finals("tuned", rounds(0.84))),
        study("ws", trials + finals("tuned", rounds(0.9)), id=2),
        study("ws", finals("tuned", rounds(0.9)[:5]), spec=builtin_spec("ws").with_options(name="again"), id=3),
        study("ws-aux", [run("final", 0, label="x", round=0, data_digest="z")], id=4, tuned=None),
    ]
    cautions = "\n".join(conclusions_of(results, compare(results)).cautions)
    assert "In the table but not in the sentences, tuned: again" in cautions
    assert "The searches had unequal budgets: simple 0 x 40 epochs, ws 3 x 40 epochs." in cautions
    assert "Study ws-aux: 1 result has another data digest (z) than the study (d)" in cautions


@pytest.mark.parametrize(
    ("trials", "epochs", "verdict"),
    [(100, 40, None), (60, 12, "a rough"), (8, 4, "too small for"), (0, 40, None), (0, 4, "too small for")],
)
def test_budget_warning(trials: int, epochs: int, verdict: str | None) -> None:
    spec = builtin_spec("ws").with_options(trials=trials, epochs=epochs)
    warning = budget_warning([spec])
    assert warning is None if verdict is None else verdict in str(warning)


def test_tuning_shows_the_optimism() -> None:
    spec = builtin_spec("ws")
    runs = [run("search", 0, value=0.85, params=dict(spec.paper)), run("search", 7, value=0.93)]
    runs += [run("confirm", i, label="paper", round=i, value=0.86) for i in range(2)]
    runs += [run("confirm", 2 + i, label="trial 7", round=i, value=0.90) for i in range(2)]
    runs += finals("paper", [0.84]) + finals("tuned", [0.89])
    found = tuning_of(study("ws", runs))
    paper, tuned = found.stages
    assert (paper.search, paper.test) == (0.85, 0.84)
    assert paper.confirm == pytest.approx(0.86)
    assert (tuned.search, tuned.confirm, tuned.test) == (0.93, 0.9, 0.89)
    assert tuned.optimism == pytest.approx(0.03)
    assert next((p.name, p.paper, p.tuned) for p in found.parameters) == ("learning_rate", 3e-3, 1e-3)
    assert next((s.phase, s.runs, s.epochs, s.seconds) for s in found.spend) == ("search", 2, 6, 20.0)
    assert tuning_verdict(found) == "Trial 7 of the search won the confirm phase."


def test_what_it_cost_is_counted_by_the_device() -> None:
    """Four lanes of one core are its time once; what an earlier version has not measured is not taken for nothing."""
    aux = [run("search", i, device="cuda:0 NVIDIA H200", device_seconds=360.0) for i in range(5)]
    ws = [run("search", 0, device="cpu x86_64, 1 thread(s)", device_seconds=900.0, seconds=3600.0)]
    ws += [run("confirm", 1, label="paper", round=0, device="cuda:1 NVIDIA H200", device_seconds=36.0)]
    partly = [run("search", 0, device_seconds=1800.0), run("search", 1, device_seconds=None)]
    before = [run("search", 0, device_seconds=None)]

    def table(*studies: StudyResult) -> tuple[list[str], list[tuple[str, ...]]]:
        parts = tuning_parts([tuning_of(one) for one in studies], [], None)
        (found,) = [part for part in parts if isinstance(part, PageTable) and part.caption.startswith("What it cost")]
        return [column.title for column in found.columns][-3:], [row[-3:] for row in found.rows]

    titles, rows = table(study("ws-aux", aux), study("ws", ws), study("simple", partly), study("simple", before))
    assert titles == ["CPU hours", "GPU hours", "lane hours"]
    assert rows[0] == ("0.00", "0.50", "0.01")
    assert rows[1] == ("0.25", "0.01", "1.00")
    assert rows[2] == (f"{AT_LEAST} 0.50", NOTHING, "0.01")
    assert rows[3] == (NOTHING, NOTHING, "0.00")
    titles, rows = table(study("simple", before))
    assert (titles[1:], rows[0][1:]) == (["CPU or GPU hours", "lane hours"], (NOTHING, "0.00"))


def test_provenance_counts_what_went_wrong() -> None:
    runs = [
        run("search", 0, attempt=2, expiries=1),
        run("search", 1, state="failed", failures=2, error="Traceback\n  x\nValueError: no\n", value=None),
        run("search", 2, state="diverged", spec_digest="other"),
    ]
    found = provenance_of(study("ws", runs))
    assert found.failures == (("search: ValueError: no", 1),)
    assert (found.repeated, found.expiries, found.exceptions, found.diverged, found.foreign) == (1, 1, 2, 1, 1)
    assert found.versions == (("torch 2.13.0", 2),)
    assert last_line(None) == "no reason stored"


def test_the_commands_say_what_they_need() -> None:
    """Images that are not bundled, trials that were added, a line for each configuration; nothing where nothing is."""
    runs = [*(run("search", i) for i in range(102)), *finals("paper", rounds(0.9)), *finals("x", rounds(0.9)[:3])]
    own, bundled = (provenance_of(study("ws", runs, data_digest=d)).commands for d in ("d", BUNDLED_DIGEST))
    there = "hpo --db sqlite:///again.db --data FOLDER"
    assert own[1][0] == "a study like it elsewhere"  # the search is adaptive
    assert own[1][1] == (
        f"{there} study create --file ws.toml && {there} study extend ws --trials 2 && {there} worker --drain"
    )
    assert [line.count("--data FOLDER") for _, line in own] == [0, 3, 2, 2, 0]
    assert "ws-x.toml --label x --rounds 3" in own[3][1]
    assert not any("--data" in line for _, line in bundled)
    assert not any("extend" in line for _, line in provenance_of(study("ws", runs[:100])).commands)


# --- Figures ----------------------------------------------------------------------------------------------


def searched() -> StudyResult:
    spec = builtin_spec("ws")
    values = {0: 0.8, 1: 0.7, 2: 0.86, 3: 0.4, 4: 0.9, 5: 0.85}
    states = {3: "pruned", 5: "diverged"}
    runs = [
        run("search", i, value=v, state=states.get(i, "complete"), adaptive=i > 2, finished_at=float(10 - i))
        for i, v in values.items()
    ]
    runs[0] = run("search", 0, value=0.8, params=dict(spec.paper), finished_at=50.0)
    return study("ws", [*runs, run("search", 6, state="running", value=None)])


def test_search_data_is_in_the_order_of_finishing() -> None:
    found = search_history.search_data(searched())
    assert [trial.number for trial in found.trials] == [5, 4, 3, 2, 1, 0]
    assert [trial.order for trial in found.trials] == [1, 2, 3, 4, 5, 6]
    assert math.isnan(found.incumbent[0])  # a diverged trial is no incumbent
    assert found.incumbent[1:] == (0.9,) * 5
    assert [trial.random for trial in found.trials] == [False, False, False, True, True, False]
    assert found.trials[-1].paper


@pytest.mark.parametrize(("pruner", "sample"), [("median", (0.86, 0.87)), ("none", (0.86, 0.87, 0.91, 0.92))])
def test_what_pruning_chose_is_no_sample(pruner: str, sample: tuple[float, ...]) -> None:
    """With the random sampler no trial is adaptive, but after the start-up ones only the best may end."""
    tree = builtin_spec("ws").model_dump()
    tree["sampler"].update(name="random", startup_trials=3)
    tree["pruner"]["name"] = pruner
    values = (0.8, 0.86, 0.87, 0.91, 0.92)
    found = study("ws", [run("search", i, value=v) for i, v in enumerate(values)], StudySpec.model_validate(tree))
    search = search_history.search_data(found)
    assert [trial.random for trial in search.trials] == [False, True, True, True, True]
    assert tuple(trial.value for trial in search.trials if trial.unbiased) == sample
    budget = search_history.budget_data(search)
    assert budget is not None
    assert len(budget.random) == len(sample)
    assert budget.random[-1] == pytest.approx(max(sample))
    assert dependence_of(found).counts.random == len(sample)


def test_rounds_data_has_a_group_for_every_row() -> None:
    results = [study("ws", finals("tuned", rounds(0.9)) + finals("paper", [0.87]))]
    published, paper, tuned = chart_data.rounds_data(results, compare(results))
    assert published.values == ()
    assert published.low == pytest.approx(0.872 - 0.011)
    assert (paper.values, paper.low, paper.high) == ((0.87,), 0.87, 0.87)
    assert tuned.rounds == tuple(range(20))
    assert tuned.low < tuned.mean < tuned.high


def test_curves_are_means_with_their_range() -> None:
    runs = [run("confirm", i, label="trial 7", round=i, validation_accuracy=(0.5, 0.6 + 0.1 * i)) for i in range(2)]
    runs += [run("confirm", 5, label="trial 9", round=0)]  # not the winner's
    runs += [run("final", 8, label="tuned", round=0, train_loss=(0.5, None))]  # not finite: left out
    (curve,) = chart_data.curves_data(study("ws", runs))
    assert (curve.label, curve.what, curve.runs) == ("tuned", "validation accuracy", 2)
    assert curve.mean == pytest.approx((0.5, 0.65))
    assert curve.low == pytest.approx((0.5, 0.6))
    assert curve.high == pytest.approx((0.5, 0.7))


def test_charts_draw_every_point() -> None:
    result = searched()
    search = search_history.search_data(result)
    history = charts.history_chart([search])
    drawn = sum(len(trace.x) for trace in history.data if trace.mode == "markers")
    assert drawn == len(search.trials)
    slices = charts.slices_chart(search)
    complete = [trial for trial in search.trials if trial.state == "complete"]
    assert sum(len(trace.x) for trace in slices.data) == len(complete) * len(search.names)
    lines = charts.parallel_chart(search)
    assert sum(list(trace.x).count(None) for trace in lines.data) == len(complete)
    results = [study("ws", finals("tuned", rounds(0.9)) + finals("x<y", [0.87, 0.88]))]
    boxes = rounds_chart(chart_data.rounds_data(results, compare(results)))
    assert sum(len(trace.y) for trace in boxes.data if trace.type == "box") == 22
    assert "x&lt;y" in boxes.layout.xaxis.ticktext[2]
    many = charts.history_chart([search] * 7)
    assert len({trace.xaxis for trace in many.data}) == 7
