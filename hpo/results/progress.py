"""Progress: how far all studies are and what all workers do, by a handful of sums; reads no results but the best."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import Connection, Engine, Row, select

from hpo.errors import SchemaError, SpecError
from hpo.results.attention import attention
from hpo.results.ending import estimated_end, lately, span, steps_of, work, work_left
from hpo.results.progress_records import (
    Attention,
    EstimatedEnd,
    Overview,
    PhaseProgress,
    RunningTraining,
    StudyProgress,
    WorkerProgress,
    WorkerState,
)
from hpo.results.queries import shown_label, tuned_of
from hpo.results.records import Best
from hpo.results.tallies import (
    DAY,
    HOUR,
    Candidate,
    Tally,
    best_candidates,
    running_slots,
    tallies_of,
    test_means,
)
from hpo.storage import slots
from hpo.storage.claims import Trained
from hpo.storage.engine import begin_read, display_url, is_missing, now
from hpo.storage.schema import studies as studies_table
from hpo.storage.searched import searching
from hpo.storage.slots import Kind
from hpo.storage.studies import gone_from_optuna, unknown_study
from hpo.storage.workers import RegisteredWorker, recent_workers
from hpo.study.phases import confirmed, too_many_failed
from hpo.study.ranking import order
from hpo.study.spec import StudySpec, spec_of

__all__ = [
    "Attention",
    "EstimatedEnd",
    "Overview",
    "PhaseProgress",
    "RunningTraining",
    "StudyProgress",
    "WorkerProgress",
    "overview",
    "study_progress",
]


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What was read of all studies at once, by their ids."""

    now: float
    specs: Mapping[int, StudySpec | str]  # a text: why it cannot be read
    tallies: Mapping[int, list[Tally]]
    running: Mapping[int, list[RunningTraining]]
    workers: Sequence[RegisteredWorker]  # that live
    candidates: Mapping[int, list[Candidate]]
    tested: Mapping[int, Mapping[str, float]]
    gone: Mapping[int, Sequence[str]]
    waits_for: Mapping[int, Sequence[str]]


def overview(engine: Engine) -> Overview:
    """All studies, the workers of the last day, and what needs attention."""
    return _read(engine, None)


def study_progress(engine: Engine, name: str) -> StudyProgress:
    """How far the study of that name is; StudyNotFound where there is none."""
    return _read(engine, name).studies[0]


def _read(engine: Engine, name: str | None) -> Overview:
    """All studies or the named one, in one transaction: the parts belong together."""
    if is_missing(engine):  # reading would make an empty file
        raise SchemaError(f"{display_url(engine)}: no database there yet; `hpo study create` makes it")
    which = select(studies_table).order_by(studies_table.c.id)
    if name is not None:
        which = which.where(studies_table.c.name == name)
    with begin_read(engine) as connection:
        at = float(connection.scalar(select(now())) or 0.0)
        rows = connection.execute(which).all()
        if name is not None and not rows:
            raise unknown_study(connection, name)
        workers = recent_workers(connection, DAY)
        facts = _facts(connection, at, rows, workers)
        studies = tuple(_study(connection, row, facts) for row in rows)
    fleet = _fleet(workers, facts)
    return Overview(now=at, studies=studies, workers=tuple(fleet), attention=tuple(attention(studies, fleet)))


def _facts(connection: Connection, at: float, rows: Sequence[Row[Any]], workers: Sequence[RegisteredWorker]) -> _Facts:
    specs = {row.id: _spec(row) for row in rows}
    signs = {study_id: spec.metric.sign for study_id, spec in specs.items() if isinstance(spec, StudySpec)}
    tallies: dict[int, list[Tally]] = {row.id: [] for row in rows}
    for tally in tallies_of(connection, list(tallies)):
        tallies[tally.study_id].append(tally)
    running: dict[int, list[RunningTraining]] = defaultdict(list)
    for slot in running_slots(connection):
        running[slot.study_id].append(_running(slot, specs.get(slot.study_id)))
    candidates: dict[int, list[Candidate]] = defaultdict(list)
    for candidate in best_candidates(connection, signs):
        candidates[candidate.study_id].append(candidate)
    waiting = [row for row in rows if row.phase == "final" and not row.open_early]
    searches = {pool: searching(connection, *pool) for pool in {(row.experiment, row.data_digest) for row in waiting}}
    return _Facts(
        now=at,
        specs=specs,
        tallies=tallies,
        running=running,
        workers=[worker for worker in workers if _state(worker, at) == "alive"],
        candidates=candidates,
        tested=test_means(connection, [row.id for row in rows if row.phase == "done"]),
        gone=gone_from_optuna(connection, rows),
        waits_for={row.id: searches[row.experiment, row.data_digest] for row in waiting},
    )


# --- A study ----------------------------------------------------------------------------------------------


def _study(connection: Connection, row: Row[Any], facts: _Facts) -> StudyProgress:
    """One study from its row and what was read of all."""
    spec = facts.specs[row.id]
    known = spec if isinstance(spec, StudySpec) else None
    tallies, running = facts.tallies[row.id], facts.running.get(row.id, [])
    phases = tuple(_phase(kind, row, known, tallies) for kind in get_args(Kind))
    blocked = _is_blocked(connection, row, known, phases)
    gone, waits_for = facts.gone.get(row.id, ()), facts.waits_for.get(row.id, ())
    workers = _serving(row, facts)
    recent, most = lately(tallies)
    seconds = span(facts.now, [tally.began for tally in recent if tally.began is not None], most)
    goes_on = row.phase != "done" and not (row.paused or blocked or gone or waits_for) and bool(workers)
    return StudyProgress(
        id=row.id,
        name=row.name,
        experiment=row.experiment,
        model=row.model,
        phase=row.phase,
        paused=bool(row.paused),
        is_blocked=blocked,
        gone=tuple(gone),
        unreadable=spec if isinstance(spec, str) else None,
        waits_for=tuple(waits_for),
        phases=phases,
        metric=None if known is None else known.metric,
        best=None if known is None else _best(facts.candidates.get(row.id, ()), known),
        tuned=None if known is None else tuned_of(None if row.tuned is None else json.loads(row.tuned), known),
        tested={
            label if known is None else shown_label(known, label) or label: mean
            for label, mean in facts.tested.get(row.id, {}).items()
        },
        trials_per_hour=sum(tally.slots for tally in recent) / seconds * HOUR,
        epochs_per_hour=sum(tally.epochs for tally in recent) / seconds * HOUR,
        end=_end(facts.now, known, phases, tallies, recent, seconds) if goes_on and known is not None else None,
        running=tuple(running),
        workers=workers,
        repeat_group=row.repeat_group,
        created_at=row.created_at,
    )


def _spec(row: Row[Any]) -> StudySpec | str:
    try:
        return spec_of(row)
    except SpecError as error:
        return str(error).removeprefix(f"study {row.name}: ")


def _phase(kind: Kind, row: Row[Any], spec: StudySpec | None, tallies: Sequence[Tally]) -> PhaseProgress:
    of_kind = [tally for tally in tallies if tally.kind == kind]
    counts = dict.fromkeys(get_args(slots.State), 0)
    for tally in of_kind:
        counts[tally.state] += tally.slots
    searched = sum(tally.slots for tally in tallies if tally.kind == "search")
    claims = sum(tally.claims for tally in of_kind)
    return PhaseProgress(
        kind=kind,
        **counts,
        total=sum(counts.values()) + (0 if spec is None else _planned(kind, row.phase, spec, searched)),
        claims=claims,
        reclaims=claims - sum(tally.claimed for tally in of_kind),
        lost_leases=sum(tally.expiries for tally in of_kind),
    )


def _planned(kind: Kind, phase: str, spec: StudySpec, searched: int) -> int:
    """How many slots a phase will get that has none yet; in the final both configurations, though one may do."""
    protocol = spec.protocol
    if kind == "confirm" and phase == "search" and searched:
        return (1 + min(protocol.confirm_configurations, searched - 1)) * protocol.confirm_rounds
    if kind == "final" and phase in ("search", "confirm") and searched:
        return 2 * protocol.final_rounds
    return 0


def _is_blocked(connection: Connection, row: Row[Any], spec: StudySpec | None, phases: Sequence[PhaseProgress]) -> bool:
    """Whether it stands still until what failed is queued again."""
    present = next((phase for phase in phases if phase.kind == row.phase), None)
    if present is None or not present.total or present.open:
        return False
    if present.kind == "search":
        return too_many_failed(present.failed, present.total)
    if present.kind == "confirm":  # one configuration whose rounds are all done is enough
        return spec is not None and not confirmed(slots.read_slots(connection, row.id, "confirm"), spec)
    return present.failed > 0


def _best(candidates: Iterable[Candidate], spec: StudySpec) -> Best | None:
    best = min(candidates, key=lambda c: (*order(spec, c.value, c.loss), c.idx), default=None)
    if best is None:
        return None
    params = best.params if best.params is not None else spec.reference if best.idx == 0 else {}
    return Best(number=best.idx if best.number is None else best.number, value=best.value, params=params)


def _serving(row: Row[Any], facts: _Facts) -> tuple[str, ...]:
    """The living workers that serve a study: by what they say of themselves, or because they train it lately.

    A worker of several experiments shows the data of the first alone.
    """
    seen = {training.worker for training in facts.running.get(row.id, ())}
    seen |= {tally.worker for tally in facts.tallies[row.id] if tally.worker is not None}
    return tuple(
        worker.name for worker in facts.workers if worker.serves(row.name, row.data_digest) or worker.name in seen
    )


def _end(
    at: float,
    spec: StudySpec,
    phases: Sequence[PhaseProgress],
    tallies: Sequence[Tally],
    recent: Sequence[Tally],
    seconds: float,
) -> EstimatedEnd | None:
    done = sum(work(spec, tally.kind, tally.slots, tally.epochs) for tally in recent)
    trainings = sum(phase.open for phase in phases)
    if not done or not trainings:
        return None
    return estimated_end(
        at,
        left=work_left(spec, phases, tallies),
        trainings=trainings,
        ended=sum(tally.slots for tally in recent),
        done=done,
        seconds=seconds,
    )


def _running(slot: Row[Any], spec: StudySpec | str | None) -> RunningTraining:
    known = spec if isinstance(spec, StudySpec) else None
    return RunningTraining(
        worker=slot.worker,
        study=slot.study,
        experiment=slot.experiment,
        model=slot.model,
        kind=slot.kind,
        idx=slot.idx,
        number=slot.trial_number,
        label=slot.label if known is None else shown_label(known, slot.label),
        round=slot.round,
        epoch=slot.epoch,
        epochs=None if known is None else steps_of(known, slot.kind),
        started_at=slot.started_at,
    )


# --- A worker ---------------------------------------------------------------------------------------------


def _fleet(workers: Iterable[RegisteredWorker], facts: _Facts) -> list[WorkerProgress]:
    """Workers with what they train and have ended lately; those that live come first."""
    running: dict[str, list[RunningTraining]] = defaultdict(list)
    for training in (training for trainings in facts.running.values() for training in trainings):
        running[training.worker].append(training)
    ended: Counter[str | None] = Counter()
    for tally in (tally for tallies in facts.tallies.values() for tally in tallies if tally.period == "hour"):
        ended[tally.worker] += tally.slots
    fleet = [
        WorkerProgress(
            worker=worker,
            state=_state(worker, facts.now),
            models=tuple(
                dict.fromkeys(Trained(training.experiment, training.model) for training in running[worker.name])
            ),
            running=tuple(running[worker.name]),
            trials_per_hour=ended[worker.name] / span(facts.now, [worker.started_at], HOUR) * HOUR,
        )
        for worker in workers
    ]
    return sorted(fleet, key=lambda progress: progress.state != "alive")


def _state(worker: RegisteredWorker, at: float) -> WorkerState:
    if worker.left_at is not None:
        return "left"
    return "alive" if worker.alive_until > at else "lost"
