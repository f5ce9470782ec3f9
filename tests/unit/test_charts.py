"""The charts draw every point of their data."""

from dataclasses import replace

from hpo.analysis import search_history
from hpo.analysis.comparison import compare
from hpo.report import chart_data
from hpo.report.charts import search as charts
from hpo.report.charts.rounds import rounds_chart
from tests.support.results import around, finals, searched, study


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
    results = [study("ws", finals("tuned", around(0.9)) + finals("x<y", [0.87, 0.88]))]
    boxes = rounds_chart(chart_data.rounds_data(results, compare(results)))
    assert sum(len(trace.y) for trace in boxes.data if trace.type == "box") == 22
    assert "x&lt;y" in boxes.layout.xaxis.ticktext[2]
    assert boxes.layout.xaxis.tickangle == 0
    many = charts.history_chart([search] * 7)
    assert len({trace.xaxis for trace in many.data}) == 7


def test_the_names_of_many_groups_stand_upright_and_name_their_study() -> None:
    """Seven repeats of three models: side by side their names would lie upon each other."""
    results = [study("ws", finals("tuned", around(0.9)))]
    published, tuned = chart_data.rounds_data(results, compare(results))
    repeats = [replace(tuned, study=f"ws-{i}") for i in range(21)]
    figure, few = rounds_chart([published, *repeats]), rounds_chart([published, *repeats[:8]])
    names = figure.layout.xaxis.ticktext
    assert names[:2] == ("ws, as published, 40 epochs", "ws-0, tuned, 40 epochs")
    assert len(set(names)) == 22
    assert few.layout.xaxis.ticktext[1] == "ws-0<br>tuned<br>40 epochs"
    assert (figure.layout.xaxis.tickangle, few.layout.xaxis.tickangle) == (-90, 0)
    assert figure.layout.margin.b >= 6 * max(map(len, names))
    assert figure.layout.height - figure.layout.margin.b == few.layout.height - few.layout.margin.b, "drawn as high"
    long = rounds_chart([replace(tuned, study=f"the-search-of-last-week-{i}") for i in range(6)])
    assert long.layout.xaxis.tickangle == -90
    assert long.layout.xaxis.ticktext[0].startswith("the-search-of-last-week-0 (ws), ")
