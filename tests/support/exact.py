"""What every disturbed study must be in the end: exact, each trial told once, nothing opened in vain."""

from typing import Any

import optuna
from optuna.trial import TrialState
from sqlalchemy import Engine

from hpo.storage import slots, studies
from hpo.storage.engine import begin_read, open_engine
from hpo.storage.optuna_storage import make_storage
from hpo.storage.schema import openings
from hpo.storage.slots import Kind, Slot
from hpo.study.spec import spec_of


def check_exact(
    url: str, name: str, *, search: int, confirm: int, rounds: int, requeued: int = 0
) -> dict[str, list[Slot]]:
    """Assert that a study is done, every slot is, and Optuna has just these trials, each told what its slot says.

    rounds are the final ones of each configuration: the reference alone has some where it won. Of the search `requeued`
    trials failed in Optuna, and their slots were queued again.
    """
    engine = open_engine(url)
    try:
        row = studies.get_study(engine, name)
        assert row.phase == "done"
        assert row.tuned is not None
        final = rounds if row.tuned["source"] == spec_of(row).reference_label else 2 * rounds
        actual: dict[str, list[Slot]] = {}
        kinds: dict[Kind, int] = {"search": search, "confirm": confirm, "final": final}
        for kind, asked in kinds.items():
            actual[kind] = slots.list_slots(engine, row.id, kind)
            _check_kind(
                engine,
                name if kind == "search" else f"{name}:{kind}",
                actual[kind],
                asked,
                requeued if kind == "search" else 0,
            )
        _check_openings(engine, actual)
        return actual
    finally:
        engine.dispose()


def results(actual: dict[str, list[Slot]]) -> list[list[tuple[Any, ...]]]:
    """What every slot gave, in order; without the numbers of trials, which follow the order of first claims."""
    return [
        [((s.label or "").rstrip("0123456789"), s.params, *values(s)) for s in of_kind] for of_kind in actual.values()
    ]


def _check_kind(engine: Engine, optuna_name: str, of_kind: list[Slot], asked: int, requeued: int) -> None:
    assert len(of_kind) == asked
    assert [slot.idx for slot in of_kind] == list(range(asked))
    assert all(slot.state == "done" and slot.told and slot.outcome for slot in of_kind)
    every = optuna.load_study(study_name=optuna_name, storage=make_storage(engine)).get_trials(deepcopy=False)
    trials = [trial for trial in every if trial.state != TrialState.FAIL]
    assert len(every) - len(trials) == requeued
    slot_of = {slot.trial_id: slot for slot in of_kind}
    assert len(trials) == len(of_kind)
    assert {trial._trial_id for trial in trials} == set(slot_of)
    for trial in trials:
        slot = slot_of[trial._trial_id]
        assert slot.outcome is not None
        assert trial.number == slot.trial_number
        assert trial.state == (TrialState.PRUNED if slot.result == "pruned" else TrialState.COMPLETE)
        assert trial.value == slot.outcome.value
        assert trial.params == slot.params
        if slot.result != "diverged":  # each epoch's value once, none for a final round
            assert trial.intermediate_values == dict(enumerate(slot.outcome.validation_accuracy, start=1))
        assert trial.user_attrs["record"]["seeds"] == slot.outcome.seeds.model_dump()
        assert trial.user_attrs["result"]["worker"] == slot.worker == slot.outcome.worker


def _check_openings(engine: Engine, actual: dict[str, list[Slot]]) -> None:
    """Pool B was opened for final slots alone, at least once for each."""
    with begin_read(engine) as connection:
        opened = {row.slot_id for row in connection.execute(openings.select())}
    of_kind = {slot.id for slots_of_kind in actual.values() for slot in slots_of_kind}
    assert opened & of_kind == {slot.id for slot in actual["final"]}


def values(slot: Slot) -> tuple[Any, ...]:
    """What a training gave, without when and where."""
    assert slot.outcome is not None
    return tuple(getattr(slot.outcome, name) for name in ("value", "loss", "train_accuracy", "train_loss", "seeds"))
