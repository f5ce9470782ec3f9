"""Who goes on to confirm, who wins it, and the seeds that pair the rounds: pure functions of slots."""

import math
import random
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.storage.slots import Slot
from hpo.study.labels import PAPER
from hpo.study.phases import _confirm_round, candidates, confirmed, round_seed, search_seeds
from hpo.study.ranking import ConfirmResult, ranking
from hpo.study.repeats import LEVEL, comparisons_of, fewest_repeats, repeat_number, repeat_spec, smallest_p
from hpo.study.spec import MODELS, StudySpec, builtin_spec
from tests.support.described import described_spec
from tests.support.outcomes import outcome as outcome_of

FEW = settings(deadline=None, max_examples=60)
_ids = count(1)


def slot(**given: Any) -> Slot:
    """A slot as it was read; what a test does not say is as for a finished one."""
    values: dict[str, Any] = dict.fromkeys(Slot.__slots__)
    values |= {"id": next(_ids), "study_id": 1, "model": "ws", "kind": "search", "idx": 1, "adaptive": False}
    values |= {"seed": 1, "state": "done", "attempt": 1, "expiries": 0, "failures": 0, "epoch": 4, "told": False}
    return Slot(**(values | given))


def searched(idx: int, value: float = 0.9, loss: float | None = 0.3, state: str = "complete") -> Slot:
    ended = outcome_of(state, value, loss=loss)
    return slot(idx=idx, trial_number=idx, params={"learning_rate": 10.0**-idx}, outcome=ended)


def rounds(label: str, *results: tuple[float, float] | str, **more: Any) -> list[Slot]:
    """Confirm rounds of one configuration: (accuracy, loss), "diverged" or "failed"."""
    actual = []
    for number, result in enumerate(results):
        given: dict[str, Any] = {"kind": "confirm", "label": label, "round": number, "params": {"dropout": 0.1}} | more
        if result == "failed":
            given |= {"state": "failed", "error": "out of memory"}
        elif result == "diverged":
            given["outcome"] = outcome_of("diverged", 0.5)
        elif not isinstance(result, str):
            value, loss = result
            given["outcome"] = outcome_of(value=value, loss=loss)
        actual.append(slot(**given))
    return actual


SPEC = builtin_spec("ws")


def best_of(search_slots: list[Slot], k: int) -> list[Slot]:
    """The candidates for confirm, where accuracy judges and the lower cross entropy breaks ties."""
    return candidates(search_slots, k, SPEC)


def winners(confirm_slots: list[Slot]) -> list[ConfirmResult]:
    """Those that may win, by the same metrics."""
    return confirmed(confirm_slots, SPEC)


# --- Candidates ---------------------------------------------------------------------------------------------


def test_the_best_go_first() -> None:
    """Highest validation accuracy first, and no more than k."""
    actual = [searched(1, 0.80), searched(2, 0.95), searched(3, 0.90), searched(4, 0.85)]
    assert [s.idx for s in best_of(actual, 3)] == [2, 3, 4]


def test_ties_go_to_the_lower_loss_then_to_the_earlier_slot() -> None:
    """Accuracies of 2,000 pairs tie often: the loss decides, and then the index, never the order of reading."""
    actual = [searched(4, 0.9, 0.30), searched(3, 0.9, 0.30), searched(1, 0.9, 0.31), searched(2, 0.9, 0.29)]
    assert [s.idx for s in best_of(actual, 4)] == [2, 3, 4, 1]


def test_the_papers_slot_is_no_candidate() -> None:
    """It goes to confirm anyway: as the best trial it must not take a second place."""
    assert [s.idx for s in best_of([searched(0, 1.0, 0.0), searched(1, 0.6)], 5)] == [1]


@pytest.mark.parametrize("state", ["pruned", "diverged"])
def test_only_complete_trials_are_best_of(state: str) -> None:
    """A pruned trial has the accuracy of an earlier epoch, a diverged one none: neither competes."""
    assert best_of([searched(1, 0.99, 0.1, state), searched(2, 0.6)], 5)[0].idx == 2
    assert best_of([searched(1, 0.99, None if state == "diverged" else 0.1, state)], 5) == []


def test_failed_and_unfinished_slots_are_no_best_of() -> None:
    """They have no outcome."""
    actual = [slot(idx=1, state="failed"), slot(idx=2, state="running"), slot(idx=3, state="waiting")]
    assert best_of(actual, 5) == []


def test_fewer_candidates_than_asked_for() -> None:
    """All of them, and none twice."""
    assert [s.idx for s in best_of([searched(1, 0.7), searched(2, 0.8)], 5)] == [2, 1]
    assert best_of([], 5) == []


accuracies = st.sampled_from([0.5, 0.8, 0.9, 0.95])  # few, so that they tie
losses = st.sampled_from([0.1, 0.2, 0.4])
results = st.tuples(accuracies, losses, st.sampled_from(["complete", "complete", "pruned", "diverged"]))


@given(st.lists(results, max_size=12), st.integers(0, 6), st.randoms())
@FEW
def test_candidates_are_a_function_of_the_set(
    actual: list[tuple[float, float, str]], k: int, shuffler: random.Random
) -> None:
    """Whatever the order of the rows; nobody left out is better than somebody chosen."""
    rows = [searched(idx, value, loss, state) for idx, (value, loss, state) in enumerate(actual)]
    chosen = best_of(rows, k)
    shuffled = rows.copy()
    shuffler.shuffle(shuffled)
    assert best_of(shuffled, k) == chosen
    eligible = [s for s in rows if s.idx > 0 and s.outcome and s.outcome.state == "complete"]
    assert len(chosen) == min(k, len(eligible))
    for left in eligible:
        if left not in chosen:
            assert all(_worse(left, taken) for taken in chosen)


def _worse(slot: Slot, other: Slot) -> bool:
    """Not better than the other, in accuracy or, at the same accuracy, in loss."""
    assert slot.outcome is not None
    assert other.outcome is not None
    assert slot.outcome.loss is not None
    assert other.outcome.loss is not None
    return (-slot.outcome.value, slot.outcome.loss) >= (-other.outcome.value, other.outcome.loss)


# --- In another direction -----------------------------------------------------------------------------------

ERROR = described_spec("flat")  # an error judges, the lower the better; ties go to the higher accuracy


def test_an_error_is_minimised_and_ties_go_by_the_second_metrics_direction() -> None:
    actual = [searched(1, 3.0, 0.5), searched(2, 1.0, 0.5), searched(3, 2.0, 0.4), searched(4, 2.0, 0.6)]
    assert [s.idx for s in candidates(actual, 4, ERROR)] == [2, 4, 3, 1]


def test_where_the_second_metric_is_blank_the_lower_number_goes_first() -> None:
    """It does not apply to all outputs; a configuration that has it is before one that has not."""
    blank = [searched(3, 2.0, None), searched(1, 2.0, None), searched(2, 2.0, 0.1)]
    assert [s.idx for s in candidates(blank, 3, ERROR)] == [2, 1, 3]
    alone = described_spec("flat", metrics=(ERROR.metric,))
    assert [s.idx for s in candidates(blank, 3, alone)] == [1, 2, 3]
    ties = [*rounds("trial 10", (2.0, 0.1)), *rounds("trial 9", (2.0, 0.1))]
    assert [c.label for c in confirmed(ties, alone)] == ["trial 9", "trial 10"]


def test_candidates_are_distinct_and_not_the_reference() -> None:
    """A space of few configurations is searched more than once."""
    same = [searched(1, 1.0), replace(searched(2, 1.1), params=searched(1).params), searched(3, 1.2)]
    reference = replace(searched(4, 0.9), params=dict(ERROR.reference))
    assert [s.idx for s in candidates([*same, reference], 5, ERROR)] == [1, 3]


def test_the_lower_mean_error_wins_and_a_diverged_round_drops() -> None:
    """Of a user's experiment: what diverges once is no good; of the digits it counts, at chance."""
    actual = [
        *rounds("trial 1", (1.0, 0.5), (3.0, 0.5)),
        *rounds("reference", (1.5, 0.5), (1.6, 0.5)),
        *rounds("trial 2", (0.1, 0.5), "diverged"),
    ]
    assert [c.label for c in confirmed(actual, ERROR)] == ["reference", "trial 1"]
    dropped = ranking([_confirm_round(slot) for slot in actual], ERROR, reference="reference")[-1]
    assert (dropped.label, dropped.whole, dropped.failed) == ("trial 2", False, 1)


def test_the_reference_wins_ties_under_its_own_label() -> None:
    ties = [*rounds("trial 1", (2.0, 0.5)), *rounds("reference", (2.0, 0.5))]
    assert [c.label for c in confirmed(ties, ERROR)] == ["reference", "trial 1"]


# --- Confirmed ----------------------------------------------------------------------------------------------


def test_the_best_mean_wins_and_not_the_best_round() -> None:
    """One lucky round does not carry a configuration."""
    actual = [*rounds("trial 3", (0.99, 0.1), (0.80, 0.1)), *rounds("trial 7", (0.91, 0.1), (0.91, 0.1))]
    ranking = winners(actual)
    assert [c.label for c in ranking] == ["trial 7", "trial 3"]
    assert ranking[0].mean == pytest.approx(0.91)
    assert ranking[1].values == (0.99, 0.80)
    assert ranking[1].loss == pytest.approx(0.1)


def test_equal_means_go_to_the_lower_loss() -> None:
    """Rounds in another order have the very same mean."""
    actual = [*rounds("trial 1", (0.9, 0.3), (0.8, 0.3)), *rounds("trial 2", (0.8, 0.2), (0.9, 0.2))]
    assert [c.label for c in winners(actual)] == ["trial 2", "trial 1"]


def test_the_paper_wins_ties() -> None:
    """Equal in accuracy and loss: what is known stays, tuning has brought nothing."""
    both = [(0.9, 0.2), (0.8, 0.3)]
    for order in ([PAPER, "a trial"], ["a trial", PAPER]):
        actual = [row for label in order for row in rounds(label, *both)]
        assert winners(actual)[0].label == PAPER


def test_a_configuration_with_a_failed_round_is_dropped() -> None:
    """Even the best one: its mean would be over fewer rounds than the others'."""
    actual = [*rounds("trial 1", (0.99, 0.1), "failed"), *rounds(PAPER, (0.7, 0.5), (0.7, 0.5))]
    assert [c.label for c in winners(actual)] == [PAPER]


def test_a_failed_paper_is_dropped_too() -> None:
    """Then another wins; there is no exception for it."""
    actual = [*rounds(PAPER, "failed", (0.99, 0.1)), *rounds("trial 4", (0.6, 0.6), (0.6, 0.6))]
    assert [c.label for c in winners(actual)] == ["trial 4"]


def test_nobody_is_left_where_every_configuration_failed() -> None:
    """An empty ranking, no division by zero."""
    assert winners([*rounds(PAPER, "failed"), *rounds("trial 1", "failed")]) == []
    assert winners([]) == []


def test_a_diverged_round_counts_at_chance_with_infinite_loss() -> None:
    """It is a result of the configuration, the worst one; only a crash drops."""
    actual = [*rounds("trial 1", "diverged", (0.9, 0.1)), *rounds("trial 2", (0.69, 0.4), (0.69, 0.4))]
    first, second = winners(actual)
    assert (first.label, second.label) == ("trial 1", "trial 2")
    assert first.values == (0.5, 0.9)
    assert first.mean == pytest.approx(0.7)
    assert math.isinf(first.loss)


def test_at_equal_means_a_diverged_configuration_loses() -> None:
    """Its infinite loss decides the tie, before the paper's privilege does."""
    actual = [*rounds(PAPER, "diverged", (1.0, 0.0)), *rounds("trial 2", (0.75, 9.0), (0.75, 9.0))]
    assert [c.label for c in winners(actual)] == ["trial 2", PAPER]


def test_configurations_keep_their_parameters() -> None:
    """The winner's are what the final rounds train."""
    actual = [
        *rounds(PAPER, (0.7, 0.1), params={"dropout": 0.15}),
        *rounds("trial 1", (0.9, 0.1), params={"dropout": 0.3}),
    ]
    assert [dict(c.params) for c in winners(actual)] == [{"dropout": 0.3}, {"dropout": 0.15}]


result = st.tuples(accuracies, losses) | st.sampled_from(["diverged", "failed"])


@given(
    st.dictionaries(
        st.sampled_from([PAPER, "trial 1", "trial 2", "trial 10"]), st.lists(result, min_size=1, max_size=4)
    ),
    st.randoms(),
)
@FEW
def test_the_ranking_is_a_function_of_the_set(
    actual: dict[str, list[tuple[float, float] | str]], shuffler: random.Random
) -> None:
    """Whatever the order of the rows; sorted by mean, and exactly the configurations without a failure."""
    rows = [row for label, results in actual.items() for row in rounds(label, *results)]
    ranking = winners(rows)
    assert {c.label for c in ranking} == {label for label, results in actual.items() if "failed" not in results}
    keys = [(-c.mean, c.loss) for c in ranking if c.mean is not None]
    assert len(keys) == len(ranking)
    assert keys == sorted(keys)
    shuffler.shuffle(rows)
    again = winners(rows)
    assert [c.label for c in again] == [c.label for c in ranking]
    assert [c.mean for c in again] == [c.mean for c in ranking]


# --- Seeds --------------------------------------------------------------------------------------------------


def test_rounds_of_one_number_have_one_seed_for_every_model() -> None:
    """The protocol's seed keys them, not the study's: rounds are paired over models, configurations and repeats."""
    specs = [builtin_spec(model).with_options(seed=seed) for model in MODELS for seed in (1, 2, 77)]
    for kind in ("confirm", "final"):
        for number in range(20):
            assert len({round_seed(spec, kind, number) for spec in specs}) == 1


def test_rounds_differ_by_kind_number_and_protocols_seed() -> None:
    """Confirm shares no round with final, and none with another protocol."""
    spec = builtin_spec("ws")
    tree = spec.model_dump()
    tree["protocol"]["seed"] += 1
    specs = [spec, StudySpec.model_validate(tree)]
    made = {round_seed(s, kind, number) for s in specs for kind in ("confirm", "final") for number in range(100)}
    assert len(made) == 400


def test_a_repeat_shares_nothing_of_its_search_and_confirmation() -> None:
    """Neither with other repeats or models nor with the study itself; confirm rounds of one number are the models'."""
    specs = [builtin_spec(model) for model in MODELS]
    repeats = [repeat_spec(spec, number) for spec in specs for number in range(1, 8)]
    assert len({spec.seed for spec in (*repeats, specs[0])}) == 22
    seeds = [seed for spec in (*repeats, specs[0]) for seed in search_seeds(spec.seed, 0, 100)]
    assert len(set(seeds)) == 2200
    drawn = {
        (repeat, r): {round_seed(s, "confirm", r, repeat) for s in specs} for repeat in range(1, 8) for r in range(9)
    }
    assert all(len(of_models) == 1 for of_models in drawn.values())
    whole = {round_seed(specs[0], "confirm", r) for r in range(9)}
    assert len(set.union(whole, *drawn.values())) == 8 * 9
    assert [repeat_number(spec.name, "ws") for spec in repeats if spec.model == "ws"] == list(range(1, 8))
    assert [repeat_number(name, group) for name, group in (("ws", "ws"), ("ws-3", None), ("ws-x", "ws"))] == [None] * 3


def test_how_many_repeats_can_decide() -> None:
    """Sign flips of n give at least 2 / 2^n: five decide nothing among three models, seven are the fewest."""
    assert smallest_p(5, comparisons_of(3)) == pytest.approx(0.1875)
    for models in range(1, 9):
        enough = fewest_repeats(comparisons_of(models))
        assert smallest_p(enough, comparisons_of(models)) <= LEVEL < smallest_p(enough - 1, comparisons_of(models))
    assert fewest_repeats(comparisons_of(3)) == 7
    assert fewest_repeats(comparisons_of(2)) == 7  # one pair of models, but two of tuned and reference
    assert fewest_repeats(comparisons_of(1)) == 6


def test_search_seeds_do_not_depend_on_where_they_are_cut() -> None:
    """An extended study has the seeds that a longer one would have had; they differ by slot and by study."""
    whole = search_seeds(5, 0, 200)
    assert search_seeds(5, 0, 60) + search_seeds(5, 60, 200) == whole
    assert len({*whole, *search_seeds(6, 0, 200)}) == 400
    assert all(0 <= seed < 2**63 for seed in whole)


def test_seeds_are_golden() -> None:
    """Databases hold results under these very seeds."""
    spec = builtin_spec("ws")
    assert spec.protocol.seed == 2019
    assert round_seed(spec, "confirm", 0) == 7430771678537712822
    assert round_seed(spec, "final", 3) == 569302102195831683
    assert search_seeds(1, 0, 2) == [5535606917400478448, 5066007269845706838]
