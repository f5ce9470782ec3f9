"""How often test items were looked at, and what choosing by them would cost."""

from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from hpo.analysis.comparison import compare
from hpo.analysis.opened import expected_largest, opened_pools
from hpo.report.sections.record import record_parts
from hpo.report.sentences import conclusions_of
from hpo.results.records import StudyResult
from hpo.storage.ledger import LedgerEntry
from hpo.study.spec import StudySpec, builtin_spec
from tests.support.measured import PRESSURE, measured_spec
from tests.support.results import around, finals, run, study

ENTRY = LedgerEntry(
    study_id=1,
    study="ws",
    experiment="digits",
    model="ws",
    spec_digest="s",
    data_digest="d",
    label="tuned",
    params={"dropout": 0.1},
    round=0,
    attempt=1,
    worker="w",
    opened_at=100.0,
)


def results() -> list[StudyResult]:
    return [study("ws", finals("tuned", around(0.90)) + finals("paper", around(0.88, 0.002)))]


def entries(*params: float, study_id: int = 1, name: str = "ws", gone: bool = False) -> list[LedgerEntry]:
    return [
        replace(
            ENTRY, study_id=study_id, study=name, params={"dropout": value}, label=f"at {value}", round=r, deleted=gone
        )
        for value in params
        for r in range(3)
    ]


def lines(ledger: list[LedgerEntry]) -> tuple[str, ...]:
    comparison = compare(results())
    return conclusions_of(results(), comparison, opened_pools(ledger, results(), comparison)).tested


def test_nothing_is_said_before_a_pool_is_opened() -> None:
    assert lines([]) == ()
    assert lines([replace(ENTRY, data_digest="e")]) == (), "of other data"


def test_deleted_studies_count() -> None:
    """The attack: a search on the test pool, of which only the best is kept."""
    tried = [entry for k in range(2, 7) for entry in entries(k / 10, study_id=k, name=f"try-{k}", gone=True)]
    (line,) = lines([*entries(0.1, 0.2), *tried])
    names = ", ".join(f"try-{k}" for k in range(2, 7))
    assert line.startswith(
        "6 configurations have been tested on the test images so far, in 21 openings of pool B, 4 of them only by "
        f"studies that were deleted since ({names}): whoever takes the best of 6 equally good ones sees it "
    )
    assert line.endswith(" points better than it is, by chance alone.")


def cautions(studies: list[StudyResult], ledger: list[LedgerEntry]) -> list[str]:
    comparison = compare(studies)
    return [*conclusions_of(studies, comparison, opened_pools(ledger, studies, comparison)).cautions]


def test_a_search_that_goes_on_after_an_opening_is_said_on_top() -> None:
    """The attack: look, then search on. Those that were over before are not blamed."""
    runs = finals("tuned", around(0.90)) + finals("paper", around(0.88, 0.002))
    before, after = (
        [run("search", i, started_at=start + i) for i in range(4)]
        for start in (10.0, 98.5)  # opened at 100
    )
    studies = [study("simple", before + runs), study("ws", after + runs, id=2)]
    (line,) = cautions(studies, entries(0.1, study_id=2))
    assert line == (
        "Pool B was opened (first by ws) before these searches had ended, which could have profited from what the test "
        "said: ws (2 of 4 trials)."
    )
    assert cautions(studies[:1], entries(0.1)) == []


def begins_with_tested(spec: StudySpec, tested: list[LedgerEntry]) -> bool:
    later = study(spec.model, [run("search", 0, started_at=1.0)], spec, id=2, name="later", created_at=200.0)
    said = [line for line in cautions([later], tested) if "began with a configuration" in line]
    assert all("before: later." in line for line in said)
    return bool(said)


def test_a_search_that_begins_with_what_was_tested_is_said_on_top() -> None:
    """Its [tuned] or its own reference, whatever label they were tested under; the paper's may have been."""
    spec = builtin_spec("ws")
    tuned = {name: value * 0.5 for name, value in spec.reference.items()}
    seeded = spec.model_validate({**spec.model_dump(by_alias=True), "tuned": tuned})
    given = spec.model_validate({**spec.model_dump(by_alias=True), "paper": {**spec.reference, "dropout": 0.4}})
    tested = [replace(ENTRY, params=dict(params), label="paper") for params in (tuned, spec.reference, given.reference)]
    assert begins_with_tested(seeded, tested)
    assert begins_with_tested(given, tested)
    assert not begins_with_tested(spec, tested)


def test_the_reference_of_an_experiment_is_the_one_that_it_says() -> None:
    """The attack: candidates tested as [reference] of files, the best of them then searched from."""
    shipped = measured_spec("cancer", [PRESSURE], label="usual")
    tree = shipped.model_dump(by_alias=True)

    def spec(depth: int, **changes: Any) -> StudySpec:
        reference = {**shipped.reference, "depth": depth}
        return type(shipped).model_validate({**tree, "reference": reference, **changes})

    def tested(spec: StudySpec) -> LedgerEntry:
        entry = replace(ENTRY, experiment=spec.experiment, model=spec.model, spec=spec.canonical())
        return replace(entry, params=dict(spec.reference), label="reference")

    candidates = [spec(depth, chosen_reference=True) for depth in (7, 8)]
    best, old = candidates[1], [tested(candidate) for candidate in candidates]
    assert begins_with_tested(best, old)
    assert begins_with_tested(spec(1, tuned=best.reference), old)
    assert begins_with_tested(spec(8), old), "the experiment's file was changed since"
    assert begins_with_tested(spec(8), [tested(spec(7)), tested(spec(8))]), "or each time"
    assert not begins_with_tested(shipped, [tested(shipped), *old]), "what is given was not chosen"
    assert (best.shown_reference, shipped.shown_reference) == ("reference", "usual")
    assert best.digest == spec(8).digest, "digests of before hold"


def test_what_is_tested_again_is_no_further_configuration() -> None:
    (line,) = lines([*entries(0.1), *entries(0.1, study_id=9, name="gone", gone=True)])
    assert line == (
        "1 configuration has been tested on the test images so far, in 6 openings of pool B, some of these by a study "
        "that was deleted since (gone)."
    )


def test_the_table_of_openings_has_those_of_deleted_studies() -> None:
    for gone, name in ((True, "other (deleted)"), (False, "other")):
        *_, table = record_parts(results(), [], {}, entries(0.3, study_id=7, name="other", gone=gone))
        assert table.caption == "Every opening of pool B (3)"  # type: ignore[union-attr]
        assert [row[:2] for row in table.rows] == [(f"at 0.3, round {r}", name) for r in range(3)]  # type: ignore[union-attr]


def test_a_study_that_is_not_shown_is_not_called_deleted() -> None:
    """`hpo report --study ws` of a database with other studies: what these tested counts all the same."""
    (line,) = lines([*entries(0.1), *entries(0.2, study_id=2, name="other")])
    assert line.startswith("2 configurations have been tested on the test images so far, in 6 openings of pool B: ")


@pytest.mark.parametrize("k", [2, 3, 6, 20, 100])
def test_the_largest_of_some_normal_numbers(k: int) -> None:
    """Against simulation."""
    drawn = np.random.default_rng(k).standard_normal((20_000, k)).max(axis=1)
    assert expected_largest(k) == pytest.approx(drawn.mean(), abs=0.03)
    assert expected_largest(1) == 0


def test_choosing_the_best_of_equals_costs_what_is_said() -> None:
    """Configurations that differ by luck alone, on draws that they share: the best one's mean, simulated."""
    rng, k, rounds, spread = np.random.default_rng(1), 6, 20, 0.004
    shared = rng.normal(0, 0.01, (400, 1, rounds))
    means = (shared + rng.normal(0, spread, (400, k, rounds))).mean(axis=2)
    surplus = fmean(means.max(axis=1) - shared.mean(axis=(1, 2)))
    pair = [study("ws", finals("tuned", list(0.9 + rng.normal(0, spread, rounds))) + finals("paper", [0.9] * rounds))]
    comparison = compare(pair)
    (pool,) = opened_pools(entries(*(i / 10 for i in range(k))), pair, comparison)
    assert pool.luck is not None
    alone = pool.luck * 2**0.5  # the reference has no luck of its own here
    assert alone == pytest.approx(surplus, rel=0.35)
