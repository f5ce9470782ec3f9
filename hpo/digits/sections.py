"""The digits' own sections of the report: where the models go wrong (by digits, by how the digits are classified, by
single pairs), and what inference costs.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hpo.digits import charts, images
from hpo.digits.answers import ErrorGrid, answers_of, error_grid, shown_label
from hpo.digits.confusion import DigitConfusion, confusion_of, names_digits
from hpo.digits.hard_pairs import DigitsOf, Gallery, galleries_of, in_order
from hpo.digits.model_cost import BATCHES, Latencies, ModelCost, cost_of, latencies_of
from hpo.experiment.page import (
    Bullets,
    Callout,
    CsvRow,
    PageImages,
    PageTable,
    Part,
    Section,
    numbers,
    plotly_figure,
    texts,
)
from hpo.experiment.view import View
from hpo.report.charts import theme
from hpo.report.formats import CONFIGURATIONS, NOTHING, percent
from hpo.study.digits_spec import MODELS

ERRORS = "Where the models go wrong"
TUNING = "What tuning changed"  # a section of the report that the cost of inference is added to


def sections_of(
    view: View, digits_of: DigitsOf, *, refused: int = 0, without_images: Sequence[str] = ()
) -> list[Section]:
    """All of them.

    `refused` rounds have answers that do not match their accuracy; the studies `without_images` have answers whose
    images are not at hand.
    """
    grids, confusions = [], []
    for study in view.studies:
        answers = answers_of(study)
        label = shown_label(study, answers)
        if label is not None:
            rounds = list(answers[label].values())
            grids.append(error_grid(study.name, study.model, label, rounds))
            if names_digits(study, label):
                confusions.append(confusion_of(study.name, study.model, label, rounds))
    galleries = galleries_of(view, digits_of)
    errors = Section(
        ERRORS,
        tuple(_errors(grids, confusions, galleries, refused, without_images)),
        json={
            "naming": [{"sentences": list(classification_sentences(c)), **dataclasses.asdict(c)} for c in confusions],
            "hardest_pairs": [_without_pictures(gallery) for gallery in galleries],
        },
        csv={"confusion": _confusion_rows(confusions)},
    )
    return [errors, _inference([model for model in in_order(view.models) if model in MODELS])]


def _without_pictures(gallery: Gallery) -> dict[str, Any]:
    """A gallery without its pictures: its numbers identify them in the images."""
    plain = dataclasses.asdict(dataclasses.replace(gallery, pictures={}))
    del plain["pictures"]
    return plain


def _confusion_rows(confusions: Sequence[DigitConfusion]) -> list[CsvRow]:
    return [
        {
            "study": confusion.study,
            "model": confusion.model,
            "configuration": confusion.label,
            "digit": digit,
            "named": named,
            "images": images,
        }
        for confusion in confusions
        for digit, row in enumerate(confusion.said)
        for named, images in enumerate(row)
    ]


def _errors(
    grids: Sequence[ErrorGrid],
    confusions: Sequence[DigitConfusion],
    galleries: Sequence[Gallery],
    refused: int,
    without_images: Sequence[str],
) -> Iterable[Part]:
    yield from _by_digits(grids)
    if refused:
        yield Callout(text=f"{refused} rounds are left out here: their answers do not match the stored accuracy.")
    yield from _by_classification(confusions)
    for gallery in galleries:
        yield from _by_pairs(gallery)
    if without_images:
        yield (
            f"Left out here: {', '.join(without_images)}. Their images are not at hand, so their test pairs "
            "are unknown; `hpo --data FOLDER report` with the images they were tested on includes them."
        )


# --- By digits --------------------------------------------------------------------------------------------


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
        charts.errors_chart(grids),
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
        charts.confusion_chart(confusions),
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
    models = in_order(count.model for pair in gallery.pairs for count in pair.counts)
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


# --- What inference costs ---------------------------------------------------------------------------------


def _inference(models: Sequence[str]) -> Section:
    """What a forward pass costs; the latencies are this machine's, so they stand in no CSV file."""
    if not models:
        return Section(TUNING)
    costs, latencies = [cost_of(model) for model in models], latencies_of(models)
    note = (
        "Multiply-adds count the convolutions and linear layers. Latency is the median of a few forward passes of "
        f"the plain network ({latencies.device}), measured when this report was made, so it differs from report to "
        "report."
    )
    return Section(
        TUNING,
        (_models(costs, latencies), note),
        json={"models": [dataclasses.asdict(cost) for cost in costs], "latency": dataclasses.asdict(latencies)},
        csv={
            "models": [
                {"model": cost.model, "parameters": cost.parameters, "multiply_adds_a_pair": cost.multiply_adds}
                for cost in costs
            ]
        },
    )


def _models(costs: Sequence[ModelCost], latencies: Latencies) -> PageTable:
    single, many = BATCHES
    titles = (
        "parameters",
        "multiply-adds per pair",
        "latency of one pair, ms",
        f"per pair in a batch of {many:,}, \N{MICRO SIGN}s",
    )
    return PageTable(
        caption="Cost of inference",
        columns=texts("model") + numbers(*titles),
        rows=tuple(
            (
                cost.model,
                f"{cost.parameters:,}",
                f"{cost.multiply_adds:,}",
                f"{1e3 * latencies.of(cost.model, single).a_pair:.2f}",
                f"{1e6 * latencies.of(cost.model, many).a_pair:.0f}",
            )
            for cost in costs
        ),
    )
