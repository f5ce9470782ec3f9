"""The charts draw every point of their data."""

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
    many = charts.history_chart([search] * 7)
    assert len({trace.xaxis for trace in many.data}) == 7
