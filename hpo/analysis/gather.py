"""Gather: everything that the report says, read from the database once and worked out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from sqlalchemy import Engine

from hpo.analysis.answers import Answers, DrawPairs, answers_of, pair_draws
from hpo.analysis.comparison import Comparison, compare
from hpo.analysis.dependence import Dependence, dependence_of
from hpo.analysis.provenance import Provenance, provenance_of
from hpo.analysis.records import StudyResult
from hpo.analysis.results import all_results, final_outputs
from hpo.analysis.tuning import Tuning, tuning_of
from hpo.digits import BUNDLED_DIGEST, Digits, load
from hpo.storage.engine import display_url


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that the report says, before it is put into a form."""

    made_at: str  # UTC
    database: str  # its URL without a password
    results: tuple[StudyResult, ...]
    comparison: Comparison
    tuning: tuple[Tuning, ...]
    provenance: tuple[Provenance, ...]
    dependence: tuple[Dependence, ...]
    answers: Mapping[int, Answers]  # by study id, where the images were at hand


def gather(engine: Engine, digits: Digits | None = None) -> Report:
    """Read the database once and work everything out.

    `digits` are the images that --data gives; without them only studies on the bundled digits get what needs
    the single test pairs.
    """
    results = all_results(engine)
    answers = read_answers(engine, results, digits)
    return Report(
        made_at=datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC"),
        database=display_url(engine),
        results=tuple(results),
        comparison=compare(results, answers),
        tuning=tuple(tuning_of(result) for result in results),
        provenance=tuple(provenance_of(result) for result in results),
        dependence=tuple(dependence_of(result) for result in results),
        answers=answers,
    )


def read_answers(engine: Engine, results: Sequence[StudyResult], digits: Digits | None = None) -> dict[int, Answers]:
    """The final rounds' answers by study id, for the studies whose images are at hand."""
    found: dict[int, Answers] = {}
    draws: dict[str, DrawPairs] = {}
    for result in results:
        outputs = final_outputs(engine, result.id)
        if not outputs:
            continue
        digest = result.data_digest
        if digest not in draws:
            if digits is None or digits.digest != digest:
                if digest != BUNDLED_DIGEST:
                    continue
                digits = load()
            draws[digest] = pair_draws(digits.pool_b_labels().astype(np.int64))
        found[result.id] = answers_of(result, outputs, draws[digest])
    return found
