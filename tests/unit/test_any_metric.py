"""Reports of users' experiments: values that are maximised or minimised, in their unit, in every sentence and table."""

import math
import re
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from hpo.analysis.search_history import search_data
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.page import PageFigure, PageTable
from hpo.report.charts.search import history_chart
from hpo.report.sections.comparison import comparison_parts
from hpo.report.sections.tuning import tuning_parts
from hpo.results.records import StudyResult
from hpo.server import notes
from tests.support.measured import MAE, PERPLEXITY, PRESSURE, contents, measured, scored, sections, texts_of

COURSE = [0.2 * math.sin(3 * r) for r in range(20)]  # that all configurations share
WORSE, BETTER = [12 + x for x in COURSE], [9 + x + 0.01 * math.sin(7 * r) for r, x in enumerate(COURSE)]
SEARCH = (12.5, 11.0, 9.1, 10.0, 8.9, 30.0)
GAIN = MetricInfo(name="gain", diverged=-10.0, unit="kg")
OF_THE_DIGITS = re.compile(
    r"\b(accura|digit|image|paper|pairs? correctly|ws\b|test_pairs|training pairs)", re.IGNORECASE
)
LEVELS = ("95%", "80%", "2.5%", "5%", "10%")  # of intervals, of a test's power, of errors


def studies(metric: MetricInfo, **more: object) -> list[StudyResult]:
    """The trees' values are the lower ones, tuned or not; the metric says whether that is good."""
    both = {"reference": WORSE, "tuned": BETTER}
    above = {
        label: [value + 2 + 0.01 * math.cos(r) for r, value in enumerate(values)] for label, values in both.items()
    }
    metrics = (metric, MAE)
    return [
        measured("ridge", above, metrics, search=SEARCH, **more),  # type: ignore[arg-type]
        measured("trees", both, metrics, search=SEARCH, id=2, **more),  # type: ignore[arg-type]
    ]


def tables(parts: Iterable[object]) -> list[PageTable]:
    return [part for part in parts if isinstance(part, PageTable)]


def test_of_an_error_the_lower_is_the_better() -> None:
    report = contents(studies(PRESSURE))
    first, second, third = report.conclusions.headlines
    assert first.startswith(
        "trees is better than ridge on these test items: both tuned by one search each, their test RMSE is 9.00"
    )
    assert "and 11.00 mmHg, 2.00 mmHg apart (95% interval 2.00 to 2.00; better in 20 of 20 rounds)" in first
    assert second.startswith(
        "Tuning improved ridge on these test items: test RMSE 11.00 mmHg tuned by one search, 14.00 mmHg with"
    )
    assert "\N{MINUS SIGN}3.00 mmHg (95% interval \N{MINUS SIGN}3." in second
    assert third.startswith("Tuning improved trees")
    row = tables(comparison_parts(report.comparison))[0].rows[0]
    assert row[:3] == ("trees tuned", "ridge tuned", "20")
    assert row[3] == "\N{MINUS SIGN}2.00 [\N{MINUS SIGN}2.00, \N{MINUS SIGN}2.00]"
    caption = tables(comparison_parts(report.comparison))[0].caption
    assert "test RMSE (mmHg), A \N{MINUS SIGN} B (lower is better: below 0, A is the better)" in caption


def test_the_same_values_maximised_are_judged_the_other_way_round() -> None:
    report = contents(studies(GAIN))
    first, second, third = report.conclusions.headlines
    assert first.startswith(
        "ridge is better than trees on these test items: both tuned by one search each, their test gain is 11.00 kg"
    )
    assert second.startswith(
        "Tuning harmed ridge on these test items: test gain 11.00 kg tuned by one search, 14.00 kg with"
    )
    assert "\N{MINUS SIGN}3.00 kg (95% interval" in second
    assert third.startswith("Tuning harmed trees")
    assert "higher is better: above 0, A is the better" in tables(comparison_parts(report.comparison))[0].caption


@pytest.mark.parametrize(
    ("metric", "best", "line", "edge"), [(PRESSURE, 8.9, (12.5, 11.0, 9.1), "up"), (GAIN, 30.0, (12.5,) * 3, "down")]
)
def test_searches_follow_the_direction(metric: MetricInfo, best: float, line: tuple[float, ...], edge: str) -> None:
    (result, _) = studies(metric)
    assert result.best is not None
    assert result.best.value == best
    history = search_data(result)
    assert history.incumbent[:3] == line
    assert history.incumbent[-1] == best
    figure = history_chart([history]).to_plotly_json()
    assert (
        figure["layout"]["yaxis"]["title"]["text"]
        == f"validation {'RMSE (mmHg)' if metric is PRESSURE else 'gain (kg)'}"
    )
    symbols = {trace["marker"]["symbol"] for trace in figure["data"] if "marker" in trace}
    assert {s for s in symbols if "triangle" in s} <= {f"triangle-{edge}-open"}


def test_every_form_of_the_report_is_in_the_experiments_own_words() -> None:
    """Nothing of the digits, no percent but that of intervals, no number that is none."""
    for form, text in texts_of(contents(studies(PRESSURE))).items():
        text = text.replace("spec_digest", "").replace("data_digest", "").replace("digest", "")
        assert not OF_THE_DIGITS.findall(text), form
        for level in LEVELS:
            text = text.replace(level, "")
        assert "%" not in re.sub(r"%\{[^}]*\}", "", text), form  # but where plotly puts a number
        assert not re.search(r"\b(nan|inf)\b", text, re.IGNORECASE), form


def test_figures_and_captions_name_the_metric() -> None:
    report = contents(studies(PRESSURE))
    figures = [part for section in sections(report) for part in section.parts if isinstance(part, PageFigure)]
    assert {f.name for f in figures} >= {"rounds", "history", "budget", "parallel-0", "slices-1", "timeline"}
    axes = {
        axis["title"]["text"]
        for f in figures
        for name, axis in f.spec["layout"].items()
        if name.startswith("yaxis") and "title" in axis
    }
    assert axes >= {"test RMSE (mmHg)", "validation RMSE (mmHg)", "best validation RMSE (mmHg)"}
    assert all("RMSE" in f.caption for f in figures if f.name in ("rounds", "history", "budget", "slices-1"))
    assert not any("(%)" in axis for axis in axes)


def test_perplexities_are_compared_by_their_ratio() -> None:
    """A factor below 1 is an improvement; intervals are those of the logarithms."""
    ratio = 9 / 11
    results = [
        measured("counts", {"tuned": [11 * math.exp(x) for x in COURSE]}, (PERPLEXITY,)),
        measured(
            "network",
            {"tuned": [9 * math.exp(x + 0.001 * math.sin(7 * r)) for r, x in enumerate(COURSE)]},
            (PERPLEXITY,),
            id=2,
        ),
    ]
    report = contents(results)
    (line,) = report.conclusions.headlines
    assert line.startswith(
        "network is better than counts on these test items: both with configurations given as tuned, their test "
        "perplexity is 9.119 and 11.15"
    )
    assert f"a factor of {1 / ratio:.3f} apart (95% interval 1.222 to 1.223; better in 20 of 20 rounds)" in line
    (table,) = tables(comparison_parts(report.comparison))
    assert table.rows[0][3] == f"{ratio:.3f} [0.818, 0.818]"
    assert "ratio of test perplexity, A / B (lower is better: below 1, A is the better)" in table.caption


@pytest.mark.parametrize(
    ("margin", "beginning"),
    [
        (1.0, "trees and ridge are equal in practice (a difference below 1.00 mmHg counts as none): "),
        (0.2, "trees is better than ridge: "),
        (0.301, "trees is better than ridge, by less than what matters (a difference below 0.301 mmHg counts as none"),
    ],
)
def test_a_margin_decides_whether_a_difference_matters(margin: float, beginning: str) -> None:
    """Within it as far as the intervals go, two models are equal in practice; a clear one below it is called small."""
    metric = MetricInfo(name="loss", maximize=False, diverged=1e9, unit="mmHg", margin=margin)
    spread = np.linspace(-0.05, 0.05, 40)
    results, scores = [], {}
    for number, (model, level) in enumerate((("ridge", 9.3), ("trees", 9.0)), start=1):
        rounds = [level + x + 0.001 * math.sin(number * r) + spread * (number == 1) for r, x in enumerate(COURSE)]
        results.append(measured(model, {"tuned": [float(i.mean()) for i in rounds]}, (metric,), id=number))
        scores[number] = scored(results[-1], {("tuned", r): {"loss": items} for r, items in enumerate(rounds)})
    (line,) = contents(results, scores).conclusions.headlines
    assert line.startswith(beginning)


def test_no_spread_is_said_in_words() -> None:
    """A method that gives the same in every round has no standard deviation of 0."""
    flat = [measured("flat", {"reference": [12.0] * 5}, (PRESSURE,), id=1)]
    report = contents(flat)
    note = notes.note_of(report.results[0], report.comparison.paired)
    assert "12.00 (no spread)" in note
    for text in (note, *texts_of(report).values()):
        assert "± 0" not in text


def test_notes_say_it_in_the_unit() -> None:
    report = contents(studies(PRESSURE))
    text = notes.note_of(report.results[1], report.comparison.paired)
    assert "| search, validation RMSE (mmHg) | 12.50 | 9.100 |" in text
    assert "| final, test RMSE (mmHg) | 12.00" in text
    assert "- trees is better than ridge on these test items" in text
    assert "%" not in text.replace("95%", "")
    assert "test RMSE (mmHg)" in notes.final_note_of(report.results[1])
    assert "validation RMSE" in notes.confirm_note_of(report.results[1])


def test_stages_and_cost_are_in_their_units() -> None:
    report = contents(studies(PRESSURE))
    parts = list(tuning_parts(report.tuning))
    by_caption = {table.caption.partition(":")[0]: table for table in tables(parts)}
    assert by_caption["From search to test"].rows[1][:3] == ("exp-ridge", "tuned", "9.100")
    assert "selected for being low" in "".join(part for part in parts if isinstance(part, str))
    cost = by_caption["What it cost"]
    assert [column.title for column in cost.columns][-2:] == ["CPU minutes", "minutes in all"]
    assert cost.rows[0][-2:] == ("1.92", "7.67")  # 46 trainings of 2.5 and 10 s


def test_items_are_drawn_anew_only_where_two_rounds_had_different_ones() -> None:
    """A round that diverged had none: that is no other draw."""
    (result,) = [measured("ridge", {"reference": [1.0, 2.0, 3.0]}, (PRESSURE,))]

    def drawn(*digests: str | None) -> bool:
        runs = [replace(run, units_digest=d) for run, d in zip(result.final_runs, digests, strict=True)]
        return replace(result, final_runs=tuple(runs)).redraws_test

    assert not drawn("a", None, "a")
    assert drawn("a", None, "b")
