"""`hpo study plan` on the terminal (rich): what each comparison takes."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from hpo.analysis.planning import Need
from hpo.report.formats import NOTHING, Scale, figures
from hpo.report.terminal import add_numbers, add_words, plain_table
from hpo.study import limits
from hpo.study.repeats import comparisons_of, fewest_repeats


def needs_table(needs: Sequence[Need], difference: float, power: float, *, models: int) -> RenderableType:
    """A line for each comparison of so many models, and what to know about them."""
    metric = needs[0].metric
    unit = "" if metric is None else Scale(metric).apart
    table = plain_table(f"To find a difference of {difference:g}{unit} in {100 * power:g}% of cases")
    looked = any(need.looks for need in needs)
    add_words(table, "comparison")
    add_numbers(table, "spread", "measured\non", "tests", "needed", *(("looks at", "on\naverage") if looked else ()))
    for need in needs:
        looks = need.looks
        table.add_row(
            escape(need.what),
            _size(need, need.spread),
            NOTHING if need.measured is None else f"{need.measured} {need.unit}",
            str(need.comparisons),
            f"above {limits.ROUNDS}" if need.number is None else f"{need.number} {need.unit}",
            *((", ".join(map(str, looks.declared)), f"{looks.expected:.0f}") if looks else (NOTHING,) * 2 * looked),
        )
    return Group(table, *(Text(line, style="dim") for line in _notes(needs, models)))


def _notes(needs: Sequence[Need], models: int) -> list[str]:
    lines = [
        "Spread: standard deviation of the paired difference. Needed: at the level that Holm's correction for so many "
        "tests asks of the first one."
    ]
    for unit, first, last in (
        (
            "rounds",
            "For new test items too, however many rounds",
            "which items there were; only more test items show it",
        ),
        ("repeats", "However many repeats", "what their rounds have in common; only more final rounds show it"),
    ):
        floors = [need for need in needs if need.floor and need.unit == unit]
        if floors:
            worst = max(floors, key=lambda need: need.floor or 0.0)
            size = _size(worst, worst.floor or 0.0)
            lines.append(f"{first}: a difference below {size} ({worst.what}) stays hidden behind {last}.")
    if not any(need.unit == "repeats" for need in needs):
        lines.append(
            "How far another search would lead is not measured here (`hpo study create --repeat` does, --search-spread "
            f"assumes it); with fewer than {fewest_repeats(comparisons_of(models))} repeats no test could decide."
        )
    if any(need.looks for need in needs):
        lines.append("Looks: `hpo study create --looks` declares them, `hpo evaluate --rounds` adds the next one's.")
    return lines


def _size(need: Need, x: float) -> str:
    return figures(x, 3) if need.metric is None else Scale(need.metric).size(x)
