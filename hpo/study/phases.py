"""The protocol's phases: which slots follow which, and who wins.

search -> confirm -> final -> done. `advance` checks whether a study's phase is over and, if so, starts the next one in
a separate transaction; every worker calls it after finishing a slot, and when there is nothing to claim.
"""

import json
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, Engine

from hpo.errors import HpoError
from hpo.experiment.spaces import Value
from hpo.storage import slots, studies
from hpo.storage.engine import begin_write
from hpo.storage.searched import MOST_FAILED
from hpo.storage.slots import NewSlot, Slot
from hpo.storage.studies import Phase, StudyRow
from hpo.study.labels import TUNED
from hpo.study.ranking import ConfirmResult, ConfirmRound, order, ranking, trial_label, trial_number
from hpo.study.repeats import repeat_number
from hpo.study.spec import StudySpec, spec_of
from hpo.training.seeds import derive

NOTHING_CONFIRMED = (
    "no configuration is left, for in confirm each failed or diverged: `hpo study resume {name}` trains them again, "
    "and a study of another --name may have another space or more trials"
)


class ConfigurationDiffers(HpoError):
    """A label stands for one configuration within a study."""


def round_seed(spec: StudySpec, kind: str, number: int, repeat: int | None = None) -> int:
    """The seed that keys everything in a round: the same for every configuration and model.

    `repeat` is a repeat's number: its confirm rounds share nothing with those of others.
    """
    return derive(spec.protocol.seed, kind, number, *(() if repeat is None else ("repeat", repeat)))


def search_seeds(seed: int, start: int, stop: int) -> list[int]:
    """The seeds of a study's search slots start..stop-1: initialisation, order, dropout, sampler."""
    return [derive(seed, "slot", index) for index in range(start, stop)]


def candidates(search_slots: Iterable[Slot], k: int, spec: StudySpec) -> list[Slot]:
    """The best k complete search slots with distinct configurations, none of them the reference (slot 0).

    Ties go to the better second metric, then to the earlier slot.
    """
    complete = [(s, s.outcome) for s in search_slots if s.idx > 0 and s.outcome and s.outcome.state == "complete"]
    best = sorted(complete, key=lambda pair: (*order(spec, pair[1].value, pair[1].loss), pair[0].idx))
    chosen: list[Slot] = []
    for slot, _ in best:
        if slot.params not in (spec.reference, *(other.params for other in chosen)):
            chosen.append(slot)
    return chosen[:k]


def confirmed(rounds: Iterable[Slot], spec: StudySpec) -> list[ConfirmResult]:
    """The configurations that may win, best first."""
    return [
        result for result in ranking(map(_confirm_round, rounds), spec, reference=spec.reference_label) if result.whole
    ]


def _confirm_round(slot: Slot) -> ConfirmRound:
    outcome = slot.outcome
    return ConfirmRound(
        label=slot.label or "",
        params=slot.params or {},
        value=None if outcome is None else outcome.value,
        loss=None if outcome is None else outcome.loss,
        failed=slot.state == "failed",
        diverged=outcome is not None and outcome.state == "diverged",
    )


def _rounds(
    spec: StudySpec,
    kind: str,
    label: str,
    params: Mapping[str, Value],
    numbers: Iterable[int],
    repeat: int | None = None,
) -> list[NewSlot]:
    return [NewSlot(seed=round_seed(spec, kind, r, repeat), label=label, params=dict(params), round=r) for r in numbers]


def advance(engine: Engine, row: StudyRow) -> str | None:
    """Start a study's next phase if the present one is over; returns the phase it entered, or None.

    The conditional update of the study's row lets only one of many callers do it.
    """
    if not _may_be_over(engine, row):
        return None
    with begin_write(engine) as connection:
        now = studies.lock_study(connection, row.id)
        if now is None or now.phase == "done":
            return None
        present = slots.read_slots(connection, row.id, now.phase)
        if any(slot.state in ("waiting", "running") for slot in present):
            return None
        if _is_blocked(now.phase, sum(slot.state == "failed" for slot in present), len(present)):
            return None
        step = {"search": _end_search, "confirm": _end_confirm, "final": _end_final}[now.phase]
        return step(connection, now, spec_of(now), present)


def too_many_failed(failed: int, trials: int) -> bool:
    """Whether so many of a search's trials failed that nothing may be concluded from it."""
    return failed > MOST_FAILED * trials


def _may_be_over(engine: Engine, row: StudyRow) -> bool:
    """Check without a lock: idle workers ask every second, and on SQLite they would queue up with the writers."""
    if row.phase == "done" or slots.any_open(engine, row.id, row.phase):
        return False
    there = studies.counts(engine, row.id)[row.phase]
    return not there.open and not _is_blocked(row.phase, there.failed, there.total)


def _is_blocked(phase: Phase, failed: int, total: int) -> bool:
    """Whether the failures of a phase in which nothing is open keep the study from moving on."""
    return too_many_failed(failed, total) if phase == "search" else phase == "final" and failed > 0


def is_blocked(engine: Engine, row: StudyRow) -> bool:
    """Whether a study stands still until `hpo study resume` queues again what failed."""
    if row.phase == "done":
        return False
    there = studies.counts(engine, row.id)[row.phase]
    if there.open or not there.total:
        return False
    if row.phase == "confirm":  # one configuration whose rounds are all done is enough
        return not confirmed(slots.list_slots(engine, row.id, "confirm"), spec_of(row))
    return _is_blocked(row.phase, there.failed, there.total)


def _end_search(connection: Connection, row: StudyRow, spec: StudySpec, finished: list[Slot]) -> str | None:
    protocol = spec.protocol
    if not finished:  # a study without a search
        return "final" if studies.set_phase(connection, row.id, "search", "final") else None
    if not studies.set_phase(connection, row.id, "search", "confirm"):
        return None
    numbers, repeat = range(protocol.confirm_rounds), repeat_number(row.name, row.repeat_group)
    new = _rounds(spec, "confirm", spec.reference_label, spec.reference, numbers, repeat)
    for slot in candidates(finished, protocol.confirm_configurations, spec):
        label = trial_label(slot.trial_number)
        new += _rounds(spec, "confirm", label, slot.params or {}, numbers, repeat)
    slots.add_slots(connection, row.id, "confirm", new)
    return "confirm"


def _end_confirm(connection: Connection, row: StudyRow, spec: StudySpec, finished: list[Slot]) -> str | None:
    whole = confirmed(finished, spec)
    if not whole or not studies.set_phase(connection, row.id, "confirm", "final"):
        return None  # every configuration failed: `hpo study resume` requeues
    winner = whole[0]
    reference = spec.reference_label
    source = reference if winner.label == reference else trial_number(winner.label)
    studies.set_tuned(
        connection, row.id, {"params": dict(winner.params), "source": source, "confirm_mean": winner.mean}
    )
    add_final(connection, row, spec, reference, spec.reference, spec.protocol.final_rounds)
    if source != reference:
        add_final(connection, row, spec, TUNED, winner.params, spec.protocol.final_rounds)
    return "final"


def _end_final(connection: Connection, row: StudyRow, spec: StudySpec, finished: list[Slot]) -> str | None:
    return "done" if studies.set_phase(connection, row.id, "final", "done") else None


def reference_rounds(spec: StudySpec) -> list[NewSlot]:
    """The final rounds of a study with nothing to search: the reference is tested alone."""
    if spec.parsed_space.parameters:
        return []
    return _rounds(spec, "final", spec.reference_label, spec.reference, range(spec.protocol.final_rounds))


def add_final(
    connection: Connection,
    row: StudyRow,
    spec: StudySpec,
    label: str,
    params: Mapping[str, Value],
    rounds: int,
) -> int:
    """Add whichever of a configuration's final rounds 0..rounds-1 are missing; returns how many were added.

    Raises ConfigurationDiffers where the label stands for another configuration: the reference or the tuned one
    (`advance` adds their rounds, and must not find others), or that of existing rounds.
    """
    existing = [s for s in slots.read_slots(connection, row.id, "final") if s.label == label]
    reserved = {spec.reference_label: spec.reference, TUNED: row.tuned["params"] if row.tuned else None}.get(label)
    for other in [reserved, *(slot.params for slot in existing)]:
        if other is not None and other != dict(params):
            raise ConfigurationDiffers(
                f"study {row.name}: label {label!r} stands for another configuration ({json.dumps(dict(other))}); "
                "give this one another name with --label"
            )
    missing = sorted(set(range(rounds)) - {s.round for s in existing})
    slots.add_slots(connection, row.id, "final", _rounds(spec, "final", label, params, missing))
    if missing:
        studies.set_phase(connection, row.id, "done", "final")
    return len(missing)
