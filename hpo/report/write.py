"""The report: one self-contained HTML page, the same as JSON, and its tables as CSV."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine

from hpo.analysis.dependence.interactions import Dependence
from hpo.analysis.pairwise import Pair, Setting
from hpo.errors import HpoError
from hpo.experiment.page import Cell, CsvRow
from hpo.files import write_atomically
from hpo.report import csv_tables, outline
from hpo.report.contents import Contents, gather
from hpo.report.html import render
from hpo.report.sections.dependence import sentences
from hpo.report.sentences import data_in_words, family_title, items_note, kind_title, row_note, tuning_verdict
from hpo.results.summary import summary

T = TypeVar("T")
HTML, JSON = "report.html", "report.json"


class ReportNotWritable(HpoError):
    """The report's folder or a file in it cannot be written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFiles:
    """What was written."""

    html: Path
    json: Path
    csv: tuple[Path, ...]


def write_report(engine: Engine, out: Path) -> ReportFiles:
    """Gather and write: see both."""
    return write(gather(engine), out)


def write(report: Contents, out: Path) -> ReportFiles:
    """Write the report into the folder `out`, which is made; files are replaced atomically.

    Raises ReportNotWritable where that is not possible.
    """
    texts = {
        HTML: page(report),
        JSON: json.dumps(as_json(report), indent=2, sort_keys=False, allow_nan=False) + "\n",
        **{f"{name}.csv": _csv(lines) for name, lines in _tables(report).items()},
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomically(out / name, text)
    except OSError as error:
        raise ReportNotWritable(
            f"the report cannot be written to {out}: {error.strerror or error}; name another folder with --out"
        ) from error
    csv_files = tuple(out / name for name in texts if name.endswith(".csv"))
    return ReportFiles(html=out / HTML, json=out / JSON, csv=csv_files)


def page(report: Contents) -> str:
    """The report as one HTML page with all that it needs."""
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]  # 5 MB: read when needed

    subtitle = f"Made {report.made_at} from {report.database}"
    if report.chosen:
        subtitle += f"; only of the studies that its reader chose: {', '.join(report.chosen)}"
    return render("Fair comparison of models", subtitle, outline.sections_of(report), get_plotlyjs())


def as_json(report: Contents) -> dict[str, Any]:
    """The report as plain types: values in the unit of their metric, accuracies as fractions; differences above 0 are
    those in which A is better."""
    plain = {
        "made_at": report.made_at,
        "database": report.database,
        "headlines": list(report.conclusions.headlines),
        "budget": report.conclusions.budget,
        "cautions": list(report.conclusions.cautions),
        "tested": list(report.conclusions.tested),
        "table": [{**_plain(row), "note": row_note(row)} for row in report.comparison.rows],
        "settings": [_setting(setting) for setting in report.comparison.settings],
        "pairs": [_pair(pair) for pair in report.comparison.pairs],
        "repeats": _plain(report.comparison.repeats),
        "studies": [
            {
                **summary(result),
                "tuning": {**_plain(tuning), "verdict": tuning_verdict(tuning)},
                "dependence": _dependence(dependence),
                "record": {**_plain(provenance), "data": data_in_words(provenance, report.about_data)},
            }
            for result, tuning, dependence, provenance in zip(
                report.results, report.tuning, report.dependence, report.provenance, strict=True
            )
        ],
    }
    for experiment, sections in report.contributed.items():
        for section in sections:
            _add(plain, experiment, _plain(section.json))
    return plain


def _add(ours: dict[str, T], experiment: str, added: Mapping[str, T]) -> None:
    """Add what an experiment gives by name; a name that is taken gets the experiment's before it."""
    for name, value in added.items():
        ours[name if name not in ours else f"{experiment}_{name}"] = value


def _setting(setting: Setting) -> dict[str, Any]:
    """A setting, with the sizes of its draws by name."""
    return {**_plain(setting), "draws": dict(setting.draws)}


def _pair(pair: Pair) -> dict[str, Any]:
    """A pair with its kind and family in words."""
    label = pair.b.label
    words = {"kind": kind_title(pair.kind, label), "family": family_title(pair.family, label)}
    return {**_plain(pair), **words, "note": items_note(pair)}


def _dependence(dependence: Dependence) -> dict[str, Any]:
    return {"sentences": sentences(dependence), **_plain(dependence)}


def _tables(report: Contents) -> dict[str, list[CsvRow]]:
    tables = csv_tables.tables_of(report)
    for experiment, sections in report.contributed.items():
        for section in sections:
            _add(tables, experiment, {name: list(rows) for name, rows in section.csv.items()})
    return tables


def _plain(thing: Any) -> Any:
    """Nested records as dictionaries; numbers that are not finite become None."""
    if is_dataclass(thing) and not isinstance(thing, type):
        return _plain(asdict(thing))
    if isinstance(thing, dict):
        return {str(key): _plain(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [_plain(value) for value in thing]
    if isinstance(thing, float) and not math.isfinite(thing):  # JSON has neither NaN nor infinity
        return None
    return thing


def _csv(lines: Sequence[Mapping[str, Cell]]) -> str:
    """Lines with the same keys, as CSV; unknown values are empty."""
    text = io.StringIO()
    if lines:
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return text.getvalue()
