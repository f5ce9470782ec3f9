"""The report's section on where comparing fails."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from hpo.analysis import charts
from hpo.analysis.answers import Answers, error_grid
from hpo.analysis.cells import CONFIGURATIONS, NOTHING, percent
from hpo.analysis.page import Callout, PageTable, Part, drawn, numbers, texts
from hpo.analysis.records import PAPER, TUNED, StudyResult


def errors_parts(results: Sequence[StudyResult], answers: Mapping[int, Answers]) -> Iterable[Part]:
    """Where comparing fails, of each study's tuned configuration, or the paper's where that is all there is."""
    grids = []
    for result in results:
        by_label = answers[result.id].by_label if result.id in answers else {}
        label = next((label for label in (TUNED, PAPER) if label in by_label), None)
        if label is not None:
            grids.append(error_grid(result.name, result.model, label, list(by_label[label].values())))
    if not grids:
        return
    kinds: tuple[tuple[str, Callable[[int, int], bool]], ...] = (
        ("equal digits", lambda i, j: i == j),
        ("1 apart", lambda i, j: abs(i - j) == 1),
        ("2 or 3 apart", lambda i, j: 2 <= abs(i - j) <= 3),
        ("4 or more", lambda i, j: abs(i - j) >= 4),
    )
    yield PageTable(
        caption="Wrong answers in percent, by how far the two digits lie apart",
        columns=texts("study", "configuration")
        + numbers(*(title for title, _ in kinds))
        + texts("most often wrong (digit 1, digit 2: percent)"),
        rows=tuple(
            (
                grid.study,
                CONFIGURATIONS.get(grid.label, grid.label),
                *(percent(grid.rate(keep), 1) for _, keep in kinds),
                "; ".join(f"{i}, {j}: {100 * rate:.0f}" for i, j, rate in grid.worst(5) if rate > 0) or NOTHING,
            )
            for grid in grids
        ),
    )
    yield drawn(
        "errors",
        "Share of wrong answers by the pair's digits, over all final rounds. Digit 1 is right when it is at most "
        "digit 2, so on the diagonal and above it the right answer is yes.",
        charts.errors_chart(grids),
    )
    refused = sum(one.refused for one in answers.values())
    if refused:
        yield Callout(text=f"{refused} rounds are left out here: their answers do not give the stored accuracy.")
