"""The report as Python has it: what was compared as plain values, and the page itself in a notebook."""

import base64
import gzip
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.api.console import as_text
from hpo.api.report import WrittenReport
from hpo.experiment.spaces import Value

if TYPE_CHECKING:
    from hpo.analysis.comparison import TableRow
    from hpo.analysis.pairwise import Pair

Row = Mapping[str, str | int | float | bool | None]  # column -> value
HEIGHT = 700  # pixels of the page in a notebook

# The page in a frame of its own, so that neither it nor the notebook changes how the other one looks. It is packed, for
# plotly.js in it has 5 MB, and a notebook keeps what its cells display.
_UNPACK = """<script>(async () => {
const packed = Uint8Array.from(atob("%s"), (character) => character.charCodeAt(0));
const page = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
document.open(); document.write(page); document.close();
})()</script>"""


@dataclass(frozen=True, kw_only=True, repr=False)
class ComparisonReport:
    """What a comparison came to. In a notebook it shows itself as the report, elsewhere as the terminal's table."""

    path: Path  # of the page, report.html; the report's JSON and CSV files are beside it
    headlines: tuple[str, ...]  # what can be concluded
    cautions: tuple[str, ...]  # what cannot, and why
    tuned: Mapping[str, Mapping[str, Value]]  # by study: the configuration that was confirmed as its model's best
    table: tuple[Row, ...]  # a row for each tested configuration, in the unit of its metric
    comparisons: tuple[Row, ...]  # a row for each pair that may be compared; differences above 0: a is better
    problems: tuple[str, ...] = ()  # what is not done, which workers failed
    text: str = ""  # as the terminal shows it

    def __repr__(self) -> str:
        """The terminal's table."""
        return self.text

    def _repr_html_(self) -> str:
        """The page in a frame, below its sentences, which are seen too where a frame is not."""
        sentences = "".join(f"<li>{html.escape(line)}</li>" for line in (*self.headlines, *self.problems))
        try:
            page = self.path.read_bytes()
        except OSError:
            return f"<ul>{sentences}</ul><p>The report was in {html.escape(str(self.path))}.</p>"
        frame = html.escape(_UNPACK % base64.b64encode(gzip.compress(page, mtime=0)).decode())
        return (
            f"<ul>{sentences}</ul><p>{html.escape(str(self.path))}</p>"
            f'<iframe style="width:100%;height:{HEIGHT}px;border:1px solid #ccc" srcdoc="{frame}"></iframe>'
        )


def report_of(written: WrittenReport, problems: Sequence[str] = ()) -> ComparisonReport:
    """The plain values of a written report."""
    conclusions = written.conclusions
    return ComparisonReport(
        path=written.files.html.resolve(),
        headlines=conclusions.headlines,
        cautions=(*([conclusions.budget] if conclusions.budget else []), *conclusions.cautions),
        tuned={result.name: dict(result.tuned.params) for result in written.results if result.tuned is not None},
        table=tuple(_row(row) for row in written.comparison.rows),
        comparisons=tuple(_comparison(pair) for pair in written.comparison.pairs),
        problems=tuple(problems),
        text=as_text(written.table),
    )


def _row(row: "TableRow") -> Row:
    interval = row.test.interval
    return {
        "experiment": row.experiment,
        "model": row.model,
        "configuration": row.label,
        "study": row.study,  # None: published by others
        "metric": row.metric.name,
        "mean": row.test.mean,
        "std": row.test.std,
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
        "rounds": row.rounds,
        "trials": row.trials,
    }


def _comparison(pair: "Pair") -> Row:
    interval = pair.difference.interval
    return {
        "a": f"{pair.a.model} {pair.a.label}",
        "b": f"{pair.b.model} {pair.b.label}",
        "a_study": pair.a.study,
        "b_study": pair.b.study,
        "metric": pair.metric.name,
        "difference": pair.difference.mean,
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
        "new_items_low": None if pair.items is None else pair.items.low,  # the same for new test items too
        "new_items_high": None if pair.items is None else pair.items.high,
        "p": pair.p_holm,
        "clear": pair.clear,
        "rounds": len(pair.rounds),
    }
