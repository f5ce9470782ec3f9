"""The report's section on wrong answers: by digits, by how the digits are classified, by single pairs."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from hpo.analysis.answers import Answers, ErrorGrid, error_grid, shown_label
from hpo.analysis.confusion import DigitConfusion
from hpo.analysis.hard_pairs import Gallery
from hpo.report.charts import errors, images, theme
from hpo.report.contents import Contents
from hpo.report.formats import CONFIGURATIONS, NOTHING, percent
from hpo.report.html import Bullets, Callout, PageImages, PageTable, Part, numbers, plotly_figure, texts
from hpo.results.records import StudyResult
from hpo.study.spec import MODELS

TITLE = "Where the models go wrong"


def errors_parts(report: Contents) -> Iterable[Part]:
    """The whole section; nothing where no final round has stored its answers."""
    yield from _by_digits(list(_grids(report.results, report.answers)))
    refused = sum(answers.refused for answers in report.answers.values())
    if refused:
        yield Callout(text=f"{refused} rounds are left out here: their answers do not match the stored accuracy.")
    yield from _by_classification(report.confusions)
    for gallery in report.galleries:
        yield from _by_pairs(gallery)
    if report.without_images:
        yield (
            f"Left out here: {', '.join(report.without_images)}. Their images are not at hand, so their test pairs "
            "are unknown; `hpo --data FOLDER report` with the images they were tested on includes them."
        )


# --- By digits --------------------------------------------------------------------------------------------


def _grids(results: Sequence[StudyResult], answers: Mapping[int, Answers]) -> Iterable[ErrorGrid]:
    """Errors of each study's tuned configuration, or of the paper's where there is no other."""
    for result in results:
        label = shown_label(answers.get(result.id))
        if label is not None:
            rounds = list(answers[result.id].by_label[label].values())
            yield error_grid(result.name, result.model, label, rounds)


def _by_digits(grids: Sequence[ErrorGrid]) -> Iterable[Part]:
    if not grids:
        return
    kinds: tuple[tuple[str, Callable[[int, int], bool]], ...] = (
        ("equal digits", lambda i, j: i == j),
        ("1 apart", lambda i, j: abs(i - j) == 1),
        ("2 or 3 apart", lambda i, j: 2 <= abs(i - j) <= 3),
        ("4 or more apart", lambda i, j: abs(i - j) >= 4),
    )
    yield PageTable(
        caption="Wrong answers in percent, by the distance between the two digits",
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
    yield plotly_figure(
        "errors",
        "Share of wrong answers by the pair's digits, over all final rounds. The correct answer is yes where digit 1 "
        "is at most digit 2, that is, on the diagonal and above it.",
        errors.errors_chart(grids),
    )


# --- By classification ------------------------------------------------------------------------------------


def _by_classification(confusions: Sequence[DigitConfusion]) -> Iterable[Part]:
    if not confusions:
        return
    yield Bullets(lines=tuple(line for confusion in confusions for line in classification_sentences(confusion)))
    yield plotly_figure(
        "confusion",
        "Confusion matrix of the models that are trained to classify the digits: percent of the true digit's images, "
        "both images of every pair, over all final rounds. The diagonal holds the correct classifications.",
        errors.confusion_chart(confusions),
    )


def classification_sentences(confusion: DigitConfusion) -> Iterable[str]:
    """How well one configuration classifies the digits, and whether its wrong answers come from there."""
    which = f"{confusion.study}, {CONFIGURATIONS.get(confusion.label, confusion.label)}"
    worst = ", ".join(
        f"{i} as {j} ({n} {'time' if n == 1 else 'times'}, {100 * share:.1f}% of the {i}s)"
        for i, j, n, share in confusion.worst(5)
    )
    yield (
        f"{which}: {percent(confusion.accuracy, 2)}% of {confusion.images:,} digits are classified correctly"
        + (f"; the most frequent confusions are {worst}." if worst else ".")
    )
    if confusion.wrong:
        failed = confusion.wrong_though_named
        yield (
            f"{which}: of {confusion.wrong:,} wrong answers, {failed:,} ({percent(failed / confusion.wrong, 0)}%) came "
            "although both digits were classified correctly, so the comparison itself failed; in the others a digit "
            "was misclassified."
        )
    if confusion.misnamed:
        saved = confusion.right_though_misnamed
        yield (
            f"{which}: of {confusion.misnamed:,} pairs with a misclassified digit, {saved:,} "
            f"({percent(saved / confusion.misnamed, 0)}%) were still answered correctly. Comparing the predicted "
            f"digits would answer {percent(confusion.right_by_names / confusion.pairs, 2)}% of all pairs correctly; "
            f"the network itself answers {percent(confusion.right / confusion.pairs, 2)}%."
        )


# --- By pairs ---------------------------------------------------------------------------------------------


def _by_pairs(gallery: Gallery) -> Iterable[Part]:
    if gallery.still_tuned:
        yield (
            "The pairs most often answered wrongly are not shown yet: the test pool stays sealed as long as a study "
            f"is being tuned on these images ({', '.join(gallery.still_tuned)})."
        )
        return
    if not gallery.pairs:
        return
    models = [model for model in MODELS if any(c.model == model for pair in gallery.pairs for c in pair.counts)]
    order = ", ".join(f"{model} ({theme.colour_name(model, models)})" for model in models)
    yield PageImages(
        caption=f"The {len(gallery.pairs)} test pairs that the largest share of trainings answered wrongly, as the "
        "networks see them. "
        "Above: the question and its correct answer. Below: how many trainings were wrong, "
        f"{order}; a training is one final round of one configuration ({', '.join(gallery.studies)}). Ranked by the "
        "share of trainings that were wrong, ties by how often the two images were part of wrong answers at all; each "
        "image is shown only in its highest-ranked pair. "
        f"Of {gallery.met:,} pairs, {gallery.by_all:,} were answered wrongly by every training.",
        images=images.gallery_images(gallery),
    )
