"""Contents: all that the report shows, read from the database once and computed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from sqlalchemy import Engine

from hpo.analysis.answers import Answers, DrawPairs, answers_of, pair_draws, shown_label
from hpo.analysis.comparison import Comparison, compare
from hpo.analysis.confusion import DigitConfusion, confusion_of, names_digits
from hpo.analysis.dependence.interactions import Dependence, dependence_of
from hpo.analysis.hard_pairs import Gallery, galleries_of
from hpo.analysis.items import ItemScores
from hpo.analysis.model_cost import Latencies, ModelCost, cost_of, latencies_of
from hpo.analysis.provenance import Provenance, provenance_of
from hpo.analysis.timeline import Timeline, timeline_of
from hpo.analysis.tuning import Tuning, tuning_of
from hpo.digits.bundled import BUNDLED_DIGEST
from hpo.digits.load import load
from hpo.digits.pools import Digits
from hpo.report.scores import read_scores
from hpo.report.sentences import Conclusions, conclusions_of
from hpo.results.queries import all_results, final_outputs
from hpo.results.records import DIGITS, StudyResult, models_of
from hpo.storage.engine import display_url


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """All that the report shows, whatever its form: page, terminal, JSON, CSV."""

    made_at: str  # UTC
    database: str  # its URL without a password
    results: tuple[StudyResult, ...]
    comparison: Comparison
    conclusions: Conclusions
    tuning: tuple[Tuning, ...]
    provenance: tuple[Provenance, ...]
    dependence: tuple[Dependence, ...]
    scores: Mapping[int, ItemScores]  # of single test items, by study id
    answers: Mapping[int, Answers]  # of the digits, by study id, where the images are at hand
    without_images: tuple[str, ...]  # studies with answers whose images are not
    confusions: tuple[DigitConfusion, ...]  # of the configurations that name digits
    galleries: tuple[Gallery, ...]  # one per set of images
    timeline: Timeline | None  # None where nothing has ended
    costs: tuple[ModelCost, ...]  # of the digits' models
    latencies: Latencies | None  # None where there are none of these

    @property
    def has_digits(self) -> bool:
        """Whether any of the studies is of the digits; a report without studies keeps their tables, empty."""
        return not self.results or any(result.is_digits for result in self.results)


def gather(engine: Engine, digits: Digits | None = None) -> Contents:
    """Read the database once and compute everything.

    `digits` are the images given with --data; without them, results that need the single test pairs exist for studies
    on the bundled digits alone.
    """
    results = all_results(engine)
    images = Images(digits)
    answers, without = read_answers(engine, results, images)
    models = [model for experiment, model in models_of(results) if experiment == DIGITS]
    scores = read_scores(engine, results)
    comparison = compare(results, answers, scores)
    return Contents(
        made_at=datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC"),
        database=display_url(engine),
        results=tuple(results),
        comparison=comparison,
        conclusions=conclusions_of(results, comparison),
        tuning=tuple(tuning_of(result) for result in results),
        provenance=tuple(provenance_of(result) for result in results),
        dependence=tuple(dependence_of(result) for result in results),
        scores=scores,
        answers=answers,
        without_images=without,
        confusions=tuple(_confusions(results, answers)),
        galleries=galleries_of(results, answers, images.of),
        timeline=timeline_of(results),
        costs=tuple(cost_of(model) for model in models),
        latencies=latencies_of(models) if models else None,
    )


class Images:
    """The images at hand: those given with --data, and the bundled ones, read when first needed."""

    def __init__(self, given: Digits | None) -> None:
        self._by_digest = {} if given is None else {given.digest: given}

    def of(self, digest: str) -> Digits | None:
        """The images of that digest, None where they are not at hand."""
        if digest == BUNDLED_DIGEST and digest not in self._by_digest:
            self._by_digest[digest] = load()
        return self._by_digest.get(digest)


def read_answers(
    engine: Engine, results: Sequence[StudyResult], images: Images
) -> tuple[dict[int, Answers], tuple[str, ...]]:
    """The final rounds' answers by study id, and the names of the studies whose images are not at hand."""
    answers: dict[int, Answers] = {}
    without: list[str] = []
    draws: dict[str, DrawPairs] = {}
    for result in results:
        outputs = final_outputs(engine, result.id) if result.is_digits else {}
        if not outputs:
            continue
        digest = result.data_digest
        if digest not in draws:
            digits = images.of(digest)
            if digits is None:
                without.append(result.name)
                continue
            draws[digest] = pair_draws(digits.pool_b_labels().astype(np.int64))
        answers[result.id] = answers_of(result, outputs, draws[digest])
    return answers, tuple(without)


def _confusions(results: Sequence[StudyResult], answers: Mapping[int, Answers]) -> Iterable[DigitConfusion]:
    for result in results:
        label = shown_label(answers.get(result.id))
        if label is not None and names_digits(result, label):
            rounds = list(answers[result.id].by_label[label].values())
            yield confusion_of(result.name, result.model, label, rounds)
