"""The page: one file, everything escaped, and templates that refuse what does not fit."""

import pytest
from jinja2 import UndefinedError

from hpo.experiment.page import (
    Bullets,
    Callout,
    Column,
    PageFigure,
    PageImage,
    PageImages,
    PageTable,
    Section,
    numbers,
    texts,
)
from hpo.report.html import render

BAD = '<script>alert("1")</script>'


def page_of(*parts: object) -> str:
    return render("Title", "Subtitle", [Section(title="Section", parts=parts)], "var plotly;")  # type: ignore[arg-type]  # wrong parts too


def test_the_page_escapes_everything() -> None:
    parts = (
        BAD,
        Callout(text=BAD),
        Bullets(lines=(BAD,)),
        PageTable(caption=BAD, columns=(Column(title=BAD),), rows=((BAD,),)),
        PageTable(caption=BAD, columns=(Column(title=BAD),), rows=(), folded=True),
        PageImages(caption=BAD, images=(PageImage(png=b"", above='" onload="x' + BAD, below=((BAD, BAD),)),)),
        PageFigure(name='f" onload="x', caption=BAD, spec={"data": [{"name": "</script><!--&" + BAD}]}),
    )
    page = render(BAD, BAD, [Section(title=BAD, parts=parts)], "var plotly;")
    assert page.count("&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;") == 19
    assert "<script>alert" not in page
    assert '" onload' not in page
    assert page.count("</script>") == 3  # data, plotly, drawing
    assert '{"data":[{"name":"\\u003c/script\\u003e\\u003c!--\\u0026\\u003cscript\\u003ealert' in page


def test_style_and_script_stand_in_the_file_as_written() -> None:
    page = page_of(PageFigure(name="f", caption="", spec={}))
    assert "body { font: 15px/1.5 system-ui, sans-serif;" in page
    assert "plots.forEach(function (plot) {" in page
    assert "<script>var plotly;</script>" in page
    assert 'style="height:400px"' in page
    assert "var plotly;" not in page_of("no figure")


def test_a_table_marks_numbers_and_where_a_group_begins() -> None:
    columns = (*texts("model"), *numbers("test %"), Column(title="note", long=True))
    rows = tuple((model, "90.0", "") for model in ("simple", "simple", "ws"))
    page = page_of(PageTable(caption="Accuracy", columns=columns, rows=rows, grouped=True))
    assert '<th>model</th><th class="number">test %</th><th class="long">note</th>' in page
    lines = [line for line in page.splitlines() if line.startswith("<tr")]
    assert [line.partition("<td")[0] for line in lines] == ["<tr>", "<tr>", '<tr class="first">']
    with pytest.raises(ValueError, match="table 'Accuracy' has 3 columns and a row with 2"):
        PageTable(caption="Accuracy", columns=columns, rows=(("simple", "90.0"),))


def test_an_unknown_part_is_an_error() -> None:
    """Not an empty place on the page."""
    with pytest.raises(UndefinedError):
        page_of(Column(title="no part"))
