"""The report's section on where comparing fails: by digits, by named digits, by single pairs."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from hpo.analysis.answers import Answers, ErrorGrid, error_grid, shown_label
from hpo.analysis.confusion import DigitConfusion
from hpo.analysis.hard_pairs import Gallery
from hpo.report.charts import errors, images
from hpo.report.contents import Contents
from hpo.report.formats import CONFIGURATIONS, NOTHING, percent
from hpo.report.html import Bullets, Callout, PageImages, PageTable, Part, drawn, numbers, texts
from hpo.results.records import StudyResult
from hpo.study.spec import MODELS

_COLOUR_NAMES = dict(zip(MODELS, ("blue", "orange", "green"), strict=True))  # of theme.COLOURS


def errors_parts(report: Contents) -> Iterable[Part]:
    """The whole section; nothing where no final round has stored its answers."""
    yield from _by_digits(list(_grids(report.results, report.answers)))
    refused = sum(one.refused for one in report.answers.values())
    if refused:
        yield Callout(text=f"{refused} rounds are left out here: their answers do not give the stored accuracy.")
    yield from _by_names(report.confusions)
    for gallery in report.galleries:
        yield from _by_pairs(gallery)
    if report.without_images:
        yield (
            f"Left out here: {', '.join(report.without_images)}. Their images are not at hand, so their test pairs "
            "are not known; `hpo --data FOLDER report` with the images they were tested on shows them."
        )


# --- By digits --------------------------------------------------------------------------------------------


def _grids(results: Sequence[StudyResult], answers: Mapping[int, Answers]) -> Iterable[ErrorGrid]:
    """Of each study's tuned configuration, or the paper's where that is all there is."""
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
        errors.errors_chart(grids),
    )


# --- By named digits --------------------------------------------------------------------------------------


def _by_names(confusions: Sequence[DigitConfusion]) -> Iterable[Part]:
    if not confusions:
        return
    yield Bullets(lines=tuple(line for one in confusions for line in naming_sentences(one)))
    yield drawn(
        "confusion",
        "Which digits are taken for which by models that are trained to name them: percent of the true digit's images, "
        "both images of every pair, over all final rounds. The diagonal is what was named right.",
        errors.confusion_chart(confusions),
    )


def naming_sentences(one: DigitConfusion) -> Iterable[str]:
    """How well one configuration names the digits, and whether its wrong answers come from there."""
    which = f"{one.study}, {CONFIGURATIONS.get(one.label, one.label)}"
    worst = ", ".join(f"{i} for {j} ({n} times, {100 * share:.1f}% of the {i}s)" for i, j, n, share in one.worst(5))
    yield (
        f"{which}: {percent(one.accuracy, 2)}% of {one.images:,} digits are named right"
        + (f"; most often it takes {worst}." if worst else ".")
    )
    if one.wrong:
        failed = one.wrong_though_named
        yield (
            f"{which}: of {one.wrong:,} wrong answers, {failed:,} ({percent(failed / one.wrong, 0)}%) came although "
            "both digits were named right, so comparing itself failed; in the others a digit was misnamed."
        )
    if one.misnamed:
        saved = one.right_though_misnamed
        yield (
            f"{which}: of {one.misnamed:,} pairs with a misnamed digit, {saved:,} "
            f"({percent(saved / one.misnamed, 0)}%) were answered right all the same. Comparing the named digits would "
            f"answer {percent(one.right_by_names / one.pairs, 2)}% right, the network's own answer is right in "
            f"{percent(one.right / one.pairs, 2)}%."
        )


# --- By pairs ---------------------------------------------------------------------------------------------


def _by_pairs(gallery: Gallery) -> Iterable[Part]:
    if gallery.still_tuned:
        yield (
            "The pairs most often got wrong are not shown yet: as long as a study is being tuned on these images "
            f"({', '.join(gallery.still_tuned)}), nobody looks at the test pool."
        )
        return
    if not gallery.pairs:
        return
    models = [model for model in MODELS if any(c.model == model for pair in gallery.pairs for c in pair.counts)]
    order = ", ".join(f"{model} ({_COLOUR_NAMES[model]})" for model in models)
    yield PageImages(
        caption=f"The {len(gallery.pairs)} test pairs that most trainings got wrong, as the networks see them. Above: "
        f"the question and its right answer. Below: how many trainings were wrong, {order}; a training is one final "
        f"round of one configuration ({', '.join(gallery.studies)}). Ranked by the share of trainings that were wrong, "
        "ties by how often the two images were part of wrong answers at all; of an image's pairs only the first is "
        f"shown. Of {gallery.met:,} pairs, {gallery.by_all:,} were answered wrongly by every training.",
        images=images.gallery_images(gallery),
    )
