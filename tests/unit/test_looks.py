"""Looks: results that are seen more than once, and what that costs; where the truth is known, by counting."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hpo.analysis import stats
from hpo.analysis.comparison import compare
from hpo.analysis.looks import Looks, common_looks, error_unit, p_over_looks, sequential_test
from hpo.report.sentences import conclusions_of
from hpo.results.records import StudyResult
from hpo.storage.ledger import LedgerEntry
from hpo.study.spec import StudySpec, builtin_spec
from tests.support.measured import PRESSURE, measured_spec, trained
from tests.support.results import by_image, finals, study

DECLARED = (4, 7, 10)


def p_at_each_look(differences: list[float], declared: tuple[int, ...]) -> list[float]:
    looks = [Looks(declared=declared, reached=k) for k in range(1, len(declared) + 1)]
    return [sequential_test(differences[: look.now], range(look.now), look).p for look in looks]


def test_all_looks_together_err_as_often_as_p_says() -> None:
    """Truth: no difference. Every choice of signs of ten differences, whoever stops at the first p that is small."""
    sizes = np.random.default_rng(5).gamma(2, 1, 10)
    smallest = np.array([min(p_at_each_look(list(sizes * s), DECLARED)) for s in itertools.product((-1, 1), repeat=10)])
    for alpha in (0.01, 0.03, 0.05, 0.1, 0.2, 0.5):
        assert np.mean(smallest <= alpha) <= alpha
    assert np.mean(smallest <= 0.05) > 0.03  # and do not waste it


def test_looks_that_nobody_paid_for_err_more_often() -> None:
    """The attack: rounds are added until p is small. Twenty, forty and sixty rounds of normal noise, 400 worlds."""
    rng, ends = np.random.default_rng(7), (20, 40, 60)
    worlds = rng.normal(0, 1, (400, 60)).tolist()
    looked = np.mean([min(_normal_p(world[:end]) for end in ends) <= 0.05 for world in worlds])
    assert looked == pytest.approx(0.103, abs=0.045)
    paid = error_unit((1 / 3, 2 / 3, 1), 3, 0.05)
    kept = np.mean([any(_normal_p(w[:end]) <= paid * end / 60 for end in ends) for w in worlds])
    assert kept == pytest.approx(0.05, abs=0.033)


def _normal_p(values: list[float]) -> float:
    return math.erfc(abs(sum(values)) / math.sqrt(2 * len(values)))


def test_a_single_look_costs_nothing() -> None:
    d = np.random.default_rng(1).normal(0.3, 1, 10).tolist()
    looks = Looks(declared=(10,))
    assert sequential_test(d, range(10), looks) == stats.sign_flip_test(d)
    assert (looks.level, looks.alpha(0.02)) == (0.95, 0.02)


def test_intervals_of_all_looks_hold_together() -> None:
    """Truth: 0. Ten normal differences, seen at four, seven and ten; 2,000 worlds."""
    worlds = np.random.default_rng(2).normal(0, 1, (2000, 10))
    looks = [Looks(declared=DECLARED, reached=k) for k in (1, 2, 3)]
    held = [
        all(not _excludes_zero(stats.t_interval(world[: look.now].tolist(), look.level)) for look in looks)
        for world in worlds
    ]
    assert 0.95 - 0.015 <= np.mean(held) <= 0.99


def _excludes_zero(interval: stats.Interval | None) -> bool:
    assert interval is not None
    return interval.excludes_zero


def test_looks_that_both_have_declared_count() -> None:
    assert common_looks([(20, 40, 60), (20, 60)]) == (20, 60)
    assert common_looks([(20,), (40,)]) == (20,)


def test_what_undeclared_looks_are_worth() -> None:
    """At least what the smallest p says, at most as many times that as there are looks."""
    d = np.random.default_rng(3).normal(0.5, 1, 16).tolist()
    smallest = min(stats.sign_flip_test(d[:8]).p, stats.sign_flip_test(d).p)
    assert smallest < p_over_looks(d, [8, 16]) <= 2 * smallest
    assert p_over_looks(d, [16]) == pytest.approx(stats.sign_flip_test(d).p)


# --- In the report ----------------------------------------------------------------------------------------


def course(level: float, rounds: int) -> list[float]:
    """Accuracies whose differences from another level are small at first and grow."""
    return [level + 0.01 * math.sin(7 * r) + (level - 0.8) * r / rounds for r in range(rounds)]


def two_models(rounds: int, looks: tuple[int, ...] | None) -> list[StudyResult]:
    def spec(model: str) -> StudySpec:
        return builtin_spec(model).with_options(rounds=8, looks=looks)

    return [
        study("simple", finals("tuned", course(0.8, rounds)), spec=spec("simple"), id=1),
        study("ws", finals("tuned", course(0.82, rounds)), spec=spec("ws"), id=2),
    ]


def test_rounds_that_nobody_declared_are_told_and_do_not_count() -> None:
    results = two_models(16, None)
    comparison = compare(results, by_image(results))
    (pair,) = comparison.pairs
    assert pair.rounds == tuple(range(8))
    assert pair.test == stats.sign_flip_test(pair.difference.values)
    assert pair.undeclared is not None
    assert (pair.undeclared.added, pair.undeclared.rounds, pair.undeclared.looks) == (8, 16, (8, 16))
    assert pair.undeclared.p < pair.undeclared.p_over_looks
    (line,) = [line for line in conclusions_of(results, comparison).cautions if "nobody had declared" in line]
    assert line.startswith("8 rounds of ws and simple (both with configurations given as tuned at 40 ")
    assert "at 8 and 16 rounds" in line


def test_the_next_declared_look_counts_and_is_paid_for() -> None:
    results = two_models(16, (8, 16, 24))
    comparison = compare(results, by_image(results))
    (pair,) = comparison.pairs
    assert (len(pair.rounds), pair.looks.reached, pair.undeclared) == (16, 2, None)
    assert pair.test.p > stats.sign_flip_test(pair.difference.values).p
    assert pair.test.method == "group-sequential"
    conclusions = conclusions_of(results, comparison)
    assert "; look 2 of 3)" in conclusions.headlines[0]
    assert not any("nobody had declared" in line for line in conclusions.cautions)


# --- Over all studies -------------------------------------------------------------------------------------


def pair_of_studies(
    rounds: int,
    *,
    created: float,
    name: str = "",
    seed: int = 2019,
    looks: tuple[int, ...] | None = None,
    **changes: Any,
) -> list[StudyResult]:
    """Two models' studies that declare so many rounds or more, and have them; all have the same configuration."""
    made = []
    for place, model in enumerate(("simple", "ws")):
        values = course(0.8 + 0.02 * place, 32)[: (looks or (rounds,))[-1]]
        spec = builtin_spec(model).with_options(name=f"{model}{name}", rounds=rounds, looks=looks)
        tree = spec.model_dump(by_alias=True)
        tree["protocol"] |= {"seed": seed, **changes}
        spec = type(spec).model_validate(tree)
        made.append(study(model, finals("tuned", values), spec=spec, id=int(100 * created) + place, created_at=created))
    return made


def openings(results: Sequence[StudyResult], at: float) -> list[LedgerEntry]:
    """What the ledger has of these studies' final rounds, all opened at that time."""
    return [
        LedgerEntry(
            study_id=result.id,
            study=result.name,
            experiment=result.experiment,
            model=result.model,
            spec_digest=result.spec_digest,
            data_digest=result.data_digest,
            label=final.label,
            params=final.params,
            round=number,
            attempt=1,
            worker="w",
            opened_at=at,
            look=final.planned,
            spec=result.spec.canonical(),
            declared_at=result.created_at,
            code_digest=result.code_digest,
        )
        for result in results
        for final in result.final
        for number in final.round_numbers
    ]


@pytest.mark.parametrize("is_deleted", [False, True])
def test_more_rounds_by_another_study_do_not_count(is_deleted: bool) -> None:
    """The attack: the same configurations in studies of other names, which declare more rounds after a look.

    Nor do they where the first studies are deleted, or the others have another margin.
    """
    first, other = pair_of_studies(8, created=1), pair_of_studies(16, created=3, name="-2")
    ledger = [*openings(first, 2), *openings(other, 4)]
    results = other if is_deleted else [*first, *other]
    comparison = compare(results, by_image(results), ledger)
    (pair,) = comparison.pairs
    assert (pair.rounds, pair.seeds) == (tuple(range(8)), ((2019, 8),))
    assert pair.test == stats.sign_flip_test(pair.difference.values)
    assert pair.undeclared is not None
    assert (pair.undeclared.added, pair.undeclared.rounds, pair.undeclared.looks) == (8, 16, (8, 16))
    assert pair.undeclared.p < pair.undeclared.p_over_looks <= 2 * pair.undeclared.p
    (line,) = [line for line in conclusions_of(results, comparison).cautions if "nobody had declared" in line]
    assert line.endswith(f"at 8 and 16 rounds) that is p = {pair.undeclared.p_over_looks:.2g}.")
    coarse = pair_of_studies(16, created=3, name="-2", margin=0.4)
    by_margin = compare([*first, *coarse], {}, [*openings(first, 2), *openings(coarse, 4)]).pairs
    assert [len(pair.rounds) for pair in by_margin] == [8, 8]


def test_the_ledger_alone_says_what_was_seen_first() -> None:
    """Without it the second studies' word would count; and where they are of other epochs it does."""
    first, other = pair_of_studies(8, created=1), pair_of_studies(16, created=3, name="-2")
    assert len(compare(other, {}, openings(other, 4)).pairs[0].rounds) == 16
    longer = [
        study(r.model, list(r.final_runs), spec=r.spec.with_options(epochs=50), id=r.id, created_at=3.0) for r in other
    ]
    results = [*first, *longer]
    ledger = [*openings(first, 2), *openings(longer, 4)]
    assert [len(pair.rounds) for pair in compare(results, {}, ledger).pairs] == [8, 16]


def test_looks_that_several_studies_declared_beforehand_are_all_paid_for() -> None:
    """Three studies made in advance, of which one would have been shown: that is one comparison of three looks."""
    made = [pair_of_studies(n, created=1 + n / 100, name=f"-{n}") for n in (8, 16, 24)]
    ledger = [entry for place, results in enumerate(made) for entry in openings(results, 10 + place)]
    (pair,) = compare([result for results in made for result in results], {}, ledger).pairs
    assert (pair.looks, len(pair.rounds), pair.undeclared) == (Looks(declared=(8, 16, 24), reached=3), 24, None)
    assert pair.test.p > stats.sign_flip_test(pair.difference.values).p


def test_a_reference_that_was_tested_before_costs_a_new_configuration_nothing() -> None:
    """Its rounds are the same in every study; no difference from the new one was ever seen."""

    def spec(rounds: int, name: str) -> StudySpec:
        return builtin_spec("ws").with_options(name=name, rounds=rounds)

    reference = finals("paper", course(0.8, 16))
    earlier = study("ws", reference[:8], spec=spec(8, "earlier"), id=1, created_at=1.0)
    later = study("ws", [*finals("tuned", course(0.82, 16)), *reference], spec=spec(16, "later"), id=2, created_at=3.0)
    (pair,) = compare([earlier, later], {}, [*openings([earlier], 2), *openings([later], 4)]).pairs
    assert (len(pair.rounds), pair.looks, pair.undeclared) == (16, Looks(declared=(16,)), None)


# --- Rounds of several seeds ------------------------------------------------------------------------------


def test_rounds_of_another_seed_are_pooled() -> None:
    """Declared before the first of them was tested, they are the next look; the second setting adds no sentence."""
    results = [*pair_of_studies(8, created=1), *pair_of_studies(8, created=1.5, name="-2", seed=7)]
    ledger = [*openings(results[:2], 2), *openings(results[2:], 3)]
    comparison = compare(results, by_image(results), ledger)
    (pair,) = comparison.pairs
    assert (pair.seeds, pair.rounds) == (((2019, 8), (7, 8)), (*range(8), *range(8)))
    assert (pair.looks, pair.undeclared) == (Looks(declared=(8, 16), reached=2), None)
    assert pair.test.method == "group-sequential"
    assert pair.items is not None
    conclusions = conclusions_of(results, comparison)
    assert "of protocol seeds 2019 (8) and 7 (8); look 2 of 2)" in conclusions.headlines[0]
    assert conclusions.cautions[0].startswith("Settings 1 and 2 differ in nothing but the protocol seed (2019 and 7): ")
    reversed_time = [*openings(results[:2], 3), *openings(results[2:], 2)]
    assert compare(results, {}, reversed_time).pairs[0].seeds == ((7, 8), (2019, 8))


def test_another_seed_is_no_second_chance() -> None:
    """The attack: the same configurations with new seeds until p is small. They are shown, and judge nothing."""
    first, other = pair_of_studies(8, created=1), pair_of_studies(8, created=3, name="-2", seed=7)
    ledger = [*openings(first, 2), *openings(other, 4)]
    results = [*first, *other]
    comparison = compare(results, {}, ledger)
    (pair,) = comparison.pairs
    assert (pair.seeds, pair.looks) == (((2019, 8),), Looks(declared=(8,)))
    assert pair.undeclared is not None
    assert (pair.undeclared.seeds, pair.undeclared.looks) == (((7, 8),), (8, 16))
    (line,) = [line for line in conclusions_of(results, comparison).cautions if "nobody had declared" in line]
    assert ", of protocol seed 7, were added" in line
    without = compare(other, {}, ledger)
    (pair,) = without.pairs
    assert (pair.seeds, pair.gone) == (((7, 8),), (2019,))
    (line,) = [line for line in conclusions_of(other, without).cautions if "were compared before" in line]
    assert line.endswith(f"the best of 2 such comparisons p = {2 * pair.test.p:.2g}.")


def with_code(results: Sequence[StudyResult], digest: str) -> list[StudyResult]:
    return [replace(result, code_digest=digest) for result in results]


def test_edited_code_is_no_first_look_either() -> None:
    """The attack: a line of the code that changes nothing, a new seed or the same, and the first studies deleted."""
    first = with_code(pair_of_studies(8, created=1), "a")
    for seed in (7, 2019):
        edited = with_code(pair_of_studies(8, created=3, name="-2", seed=seed), "b")
        ledger = [*openings(first, 2), *openings(edited, 4)]
        (pair,) = compare(edited, {}, ledger).pairs
        assert (pair.seeds, pair.gone) == (((seed, 8),), (2019,))
        (line,) = [line for line in conclusions_of(edited, compare(edited, {}, ledger)).cautions if "before" in line]
        assert "were compared before, with protocol seed 2019, by studies that are not shown here" in line
    third = with_code(pair_of_studies(8, created=5, name="-3"), "c")
    ledger += openings(third, 6)
    (pair,) = compare(third, {}, ledger).pairs
    assert pair.gone == (2019, 2019)
    (line,) = [line for line in conclusions_of(third, compare(third, {}, ledger)).cautions if "before" in line]
    assert "with protocol seed 2019, by" in line
    assert "the best of 3 such comparisons" in line
    partly = [third[0], with_code(third[1:], "b")[0]]
    assert compare(partly, {}, openings(partly, 6) + ledger[:-16]).pairs[0].gone == (2019, 2019), "of one model"
    assert {pair.gone for pair in compare([*first, *edited, *third], {}, ledger).pairs} == {()}, "all of it is shown"


def test_settings_of_other_code_stand_apart() -> None:
    """Nothing is said to be pooled that is not: rounds of other code are another measurement."""
    first = with_code(pair_of_studies(8, created=1), "a")
    other = pair_of_studies(8, created=1.5, name="-2", seed=7)
    ledger = [*openings(first, 2), *openings(with_code(other, "b"), 3)]

    def caution(results: list[StudyResult]) -> tuple[int, str]:
        comparison = compare(results, {}, ledger)
        (line,) = [line for line in conclusions_of(results, comparison).cautions if "etting" in line]
        return len(comparison.pairs), line

    assert caution([*first, *with_code(other, "b")]) == (
        2,
        "Setting 2 is not compared with setting 1: they differ in protocol seed (2019 and 7), and in how simple and ws "
        "are trained (code, version, constants or epochs).",
    )
    pairs, line = caution([*first, *with_code(other[:1], "b"), *with_code(other[1:], "a")])
    assert pairs == 2
    assert line.endswith(
        "stand together in setting 1. Those of simple do not: how they were trained differs (code, version, constants "
        "or epochs)."
    )
    assert caution([*first, *with_code(other, "a")])[1].endswith("stand together in setting 1.")


def test_a_seed_that_is_not_used_adds_no_rounds() -> None:
    """Rounds equal in every test item count once, whatever their seeds are."""
    spec = measured_spec("a", [PRESSURE])
    tree = spec.model_dump(by_alias=True)
    tree["protocol"] |= {"seed": 7}
    other = type(spec).model_validate(tree | {"name": "other"})
    runs = [
        trained("final", 100 * place + r, [PRESSURE], value, label=label, round=r, params={"rate": value, "depth": 3})
        for place, (label, value) in enumerate({"tuned": 1.0, "reference": 2.0}.items())
        for r in range(4)
    ]
    results = [study("a", runs, spec=spec), study("a", runs, spec=other, id=2)]
    (pair,) = compare(results).pairs
    assert (len(pair.rounds), pair.undeclared) == (1, None)
