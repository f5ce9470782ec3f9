"""Results: queries that turn the database into the records of `records.py`; reads slots, writes nothing."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, Row, func, select

from hpo.errors import HpoError, SchemaError, SpecError, StudyBroken
from hpo.experiment.spaces import Value
from hpo.results.failures import setbacks
from hpo.results.records import (
    Best,
    FinalResult,
    Opening,
    StudyResult,
    TrainingRecord,
    TrialCounts,
    Tuned,
)
from hpo.storage import slots
from hpo.storage.columns import has_columns, unpack_columns
from hpo.storage.engine import MOST_LISTED, begin_read, display_url, is_missing
from hpo.storage.ledger import LedgerEntry
from hpo.storage.schema import openings as openings_table
from hpo.storage.schema import slots as slots_table
from hpo.storage.schema import studies as studies_table
from hpo.storage.searched import searching
from hpo.storage.slots import Slot
from hpo.storage.studies import code_changes_of, gone_from_optuna, unknown_study
from hpo.study.labels import TUNED, claims_origin
from hpo.study.phases import NOTHING_CONFIRMED, too_many_failed
from hpo.study.ranking import ConfirmResult, ConfirmRound
from hpo.study.ranking import ranking as confirm_ranking
from hpo.study.spec import StudySpec, parsed_spec, spec_of
from hpo.text import listed


class TrialNotFound(HpoError):
    """The study has no trial of that number."""


# --- From the database ------------------------------------------------------------------------------------


KnownRuns = dict[int, tuple[float | None, TrainingRecord]]
"""Runs that are done and have been read, by slot, with when it ended: one that ended anew is read anew."""


def study_result(engine: Engine, name: str, known: KnownRuns | None = None) -> StudyResult:
    """Everything about the study of that name; StudyNotFound where there is none.

    Runs that are `known` are not read again, and others that are done are added to them.
    """
    return _read(engine, name, known)[0]


def all_results(engine: Engine) -> list[StudyResult]:
    """Everything about every study, in the order of their creation."""
    return _read(engine, None)


def fingerprint(engine: Engine, name: str | None = None) -> str:
    """A text that is another one as soon as a report of the study, or of all, would say something else; it is cheap."""
    t = slots_table.c
    if is_missing(engine):
        return ""
    which = select(studies_table).order_by(studies_table.c.id)
    if name is not None:
        which = which.where(studies_table.c.name == name)
    with begin_read(engine) as connection:
        studies = connection.execute(which).all()
        ids = [study.id for study in studies]
        of_slots = select(
            t.study_id, t.state, func.count(), func.sum(t.attempt), func.sum(t.failures), func.max(t.finished_at)
        ).where(t.study_id.in_(ids))
        counts = connection.execute(of_slots.group_by(t.study_id, t.state).order_by(t.study_id, t.state)).all()
        of_openings = (
            select(func.count()).select_from(openings_table).join(slots_table, t.id == openings_table.c.slot_id)
        )
        opened = connection.scalar(of_openings.where(t.study_id.in_(ids)))
        shut = _shut_by(connection, studies)
    return hashlib.sha256(repr((counts, studies, opened, shut)).encode()).hexdigest()


def _shut_by(connection: Connection, rows: Sequence[Any]) -> dict[int, list[str]]:
    """By the ids of studies in final: the searches for which their rounds wait."""
    return {
        row.id: searching(connection, row.experiment, row.data_digest)
        for row in rows
        if row.phase == "final" and not row.open_early
    }


def trial(engine: Engine, name: str, number: int) -> dict[str, Any]:
    """One trial as plain types; TrialNotFound where the study has none of that number.

    The names are those of Optuna's studies: NAME for the search, NAME:confirm and NAME:final for the rounds.
    """
    ours, _, kind = name.partition(":")
    result = study_result(engine, ours if kind in ("confirm", "final") else name)
    runs = {"confirm": result.confirm, "final": result.final_runs}.get(kind, result.search)
    run = next((run for run in runs if run.number == number), None)
    if run is None:
        known = sorted(run.number for run in runs if run.number is not None)
        there = f"there are {known[0]} to {known[-1]}" if known else "none has begun yet"
        raise TrialNotFound(f"study {name} has no trial {number}; {there}")
    return {"study": name, "model": result.model, **_fields(run, result), "setbacks": setbacks(run, result)}


def _fields(run: TrainingRecord, result: StudyResult) -> dict[str, Any]:
    """A run's fields, its curve by the metric's name, and those alone that its experiment measures."""
    fields = asdict(run)
    curve = fields.pop("validation_accuracy")
    if not result.spec.traits.measures_training:
        for name in ("train_accuracy", "loss"):  # the second is among the metrics
            del fields[name]
    return {**fields, f"validation_{result.metric.name}": curve}


def final_outputs(engine: Engine, study_id: int) -> dict[tuple[str, int], bytes]:
    """The test answers of a study's final rounds that are done, by label and round, as the first format packs them
    (`storage/outcome.py`)."""
    return {place: packed for place, packed, _ in _final_outputs(engine, study_id) if not has_columns(packed)}


def final_columns(engine: Engine, study_id: int) -> dict[tuple[str, int], dict[str, NDArray[Any]]]:
    """The scores of the single test items of a study's final rounds that are done, by label and round.

    Raises UnreadableOutcome where they are damaged.
    """
    return {
        place: unpack_columns(packed, where)
        for place, packed, where in _final_outputs(engine, study_id)
        if has_columns(packed)
    }


def _final_outputs(engine: Engine, study_id: int) -> Iterator[tuple[tuple[str, int], bytes, str]]:
    """Label and round, what was stored, and its place in messages."""
    for slot in slots.list_slots(engine, study_id, "final", with_outputs=True):
        if slot.outputs is not None and slot.label is not None and slot.round is not None:
            yield (slot.label, slot.round), slot.outputs, f"slot {slot.id}"


def _read(engine: Engine, name: str | None, known: KnownRuns | None = None) -> list[StudyResult]:
    """All studies or the named one, in one transaction."""
    if is_missing(engine):  # reading would make an empty file
        raise SchemaError(f"{display_url(engine)}: no database there yet; `hpo study create` makes it")
    which = select(studies_table).order_by(studies_table.c.id)
    if name is not None:
        which = which.where(studies_table.c.name == name)
    with begin_read(engine) as connection:
        rows = connection.execute(which).all()
        if name is not None and not rows:
            raise unknown_study(connection, name)
        ids = [row.id for row in rows]
        runs = _runs(connection, ids, {} if known is None else known)
        openings_of_these = (
            select(openings_table, slots_table.c.study_id)
            .join(slots_table, slots_table.c.id == openings_table.c.slot_id)
            .where(slots_table.c.study_id.in_(ids))
            .order_by(openings_table.c.id)
        )
        opened = connection.execute(openings_of_these).all()
        gone = gone_from_optuna(connection, rows)
        shut = _shut_by(connection, rows)
    openings: dict[int, list[Opening]] = {study_id: [] for study_id in ids}
    for opening in opened:
        openings[opening.study_id].append(_opening(opening))
    return [
        result_of(
            row,
            runs[row.id],
            openings[row.id],
            gone.get(row.id, ()),
            waits_for=shut.get(row.id, ()),
        )
        for row in rows
    ]


def _runs(connection: Connection, study_ids: Collection[int], known: KnownRuns) -> dict[int, list[TrainingRecord]]:
    """The runs of each of these studies by index."""
    t, of_these = slots_table.c, slots_table.c.study_id.in_(study_ids)
    every = select(*slots.columns()).where(of_these)
    # In this order: on PostgreSQL each statement sees what has been committed by then, and slots go on to be done.
    read = {row.id: slots.from_row(row) for row in connection.execute(every.where(t.state != "done"))}
    done = connection.execute(select(t.id, t.study_id, t.finished_at).where(of_these, t.state == "done")).all()
    new = {row.id for row in done if known.get(row.id, (None, None))[0] != row.finished_at}
    # Listed one by one they would be too many for a statement; after the first time they are few.
    which = t.id.in_(new) if len(new) <= MOST_LISTED else t.state == "done"
    for row in connection.execute(every.where(which)) if new else ():
        slot = slots.from_row(row)
        if slot.state == "done":
            known[slot.id] = slot.finished_at, run_of(slot)
    runs: dict[int, list[TrainingRecord]] = {study_id: [] for study_id in study_ids}
    for row in done:
        if row.id in known:  # else it was queued again or deleted in between
            read.pop(row.id, None)
            runs[row.study_id].append(known[row.id][1])
    for slot in read.values():
        runs[slot.study_id].append(run_of(slot))
    for of_study in runs.values():
        of_study.sort(key=lambda run: run.idx)
    return runs


def _opening(row: Row[Any]) -> Opening:
    return Opening(slot_id=row.slot_id, attempt=row.attempt, worker=row.worker, opened_at=row.opened_at)


def run_of(slot: Slot) -> TrainingRecord:
    """A slot as a run."""
    common: dict[str, Any] = {
        "slot_id": slot.id,
        "kind": slot.kind,
        "idx": slot.idx,
        "number": slot.trial_number,
        "label": slot.label,
        "round": slot.round,
        "adaptive": slot.adaptive,
        "params": slot.params,
        "attempt": slot.attempt,
        "expiries": slot.expiries,
        "failures": slot.failures,
        "worker": slot.worker,
        "slot_seed": slot.seed,
        "error": slot.error,
        "started_at": slot.started_at,
        "finished_at": slot.finished_at,
    }
    outcome = slot.outcome
    if outcome is None:
        if slot.state == "done":
            raise SchemaError(f"slot {slot.id} is done but has no outcome; restore the database from a backup")
        return TrainingRecord(state=slot.state, epochs=slot.epoch, **common)
    return TrainingRecord(
        state=outcome.state,
        value=outcome.value,
        loss=outcome.loss,
        train_accuracy=outcome.train_accuracy,
        epochs=outcome.epochs,
        train_loss=outcome.train_loss,
        validation_accuracy=outcome.validation_accuracy,
        metrics=outcome.metrics,
        numbers=outcome.numbers,
        memory=outcome.memory,
        items=outcome.items,
        units_digest=outcome.units_digest,
        seconds=outcome.seconds,
        device_seconds=outcome.device_seconds,
        device=outcome.device,
        versions=outcome.versions,
        git_commit=outcome.git_commit,
        code_digest=outcome.code_digest,
        spec_digest=outcome.spec_digest,
        data_digest=outcome.data_digest,
        draw_seed=outcome.seeds.draw,
        **common,
    )


def result_of(
    row: Any,
    runs: Iterable[TrainingRecord],
    opened: Iterable[Opening] = (),
    gone: Sequence[str] = (),
    waits_for: Sequence[str] = (),
) -> StudyResult:
    """One study from its row (any object with the columns of hpo_studies), its runs and openings.

    `gone` are those of Optuna's studies that were deleted, `waits_for` the studies whose searches keep its pool B shut.
    """
    by_kind: dict[str, list[TrainingRecord]] = {"search": [], "confirm": [], "final": []}
    spec = spec_of(row)
    for run in runs:
        shown = shown_label(spec, run.label)
        by_kind[run.kind].append(run if shown == run.label else replace(run, label=shown))
    tuned = tuned_of(json.loads(row.tuned) if isinstance(row.tuned, str) else row.tuned, spec)
    trials = TrialCounts(**_count(by_kind["search"]))
    in_order = sorted(by_kind["confirm"], key=lambda run: run.round or 0)
    ranking = confirm_ranking(map(_confirm_round, in_order), spec, reference=spec.shown_reference)
    final = _final(by_kind["final"], tuned, spec.shown_reference)
    return StudyResult(
        id=row.id,
        name=row.name,
        model=row.model,
        phase=row.phase,
        paused=bool(row.paused),
        seed=row.seed,
        repeat_group=row.repeat_group,
        spec=spec,
        spec_digest=row.spec_digest,
        data_digest=row.data_digest,
        code_digest=row.code_digest,
        code_changes=code_changes_of(row.code_changes),
        created_at=row.created_at,
        search=tuple(by_kind["search"]),
        confirm=tuple(by_kind["confirm"]),
        final_runs=tuple(by_kind["final"]),
        openings=tuple(opened),
        trials=trials,
        best=_best(by_kind["search"], spec),
        tuned=tuned,
        ranking=tuple(ranking),
        final=final,
        gone=tuple(gone),
        waits_for=tuple(waits_for),
        missing=(
            *([str(StudyBroken(row.name, gone))] if gone else []),
            *_shut(row.name, waits_for),
            *_missing(row, spec, trials, ranking, final, tuned, by_kind["final"]),
        ),
    )


# --- The parts --------------------------------------------------------------------------------------------


def _count(runs: Iterable[TrainingRecord]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for run in runs:
        counts[run.state] = counts.get(run.state, 0) + 1
    return counts


def shown_label(spec: StudySpec, label: str | None) -> str | None:
    """What reports call a configuration: its label, unless that says what it is not."""
    if label == spec.reference_label:
        return spec.shown_reference
    if label is not None and label != TUNED and claims_origin(label):  # an earlier version let people choose it
        return f"labelled {label}"
    return label


def opened_label(entry: LedgerEntry) -> str | None:
    """What reports call the configuration that an opening was for."""
    try:
        return entry.label if entry.spec is None else shown_label(parsed_spec(entry.spec), entry.label)
    except SpecError:  # of a version that knew other specs
        return entry.label


def tuned_of(stored: Mapping[str, Any] | None, spec: StudySpec) -> Tuned | None:
    """The confirmed configuration as a study's row has it."""
    if stored is None:
        return None
    source = spec.shown_reference if stored["source"] == spec.reference_label else stored["source"]
    return Tuned(params=stored["params"], source=source, confirm_mean=stored.get("confirm_mean"))


def _best(search: Iterable[TrainingRecord], spec: StudySpec) -> Best | None:
    complete = [run for run in search if run.state == "complete" and run.value is not None]
    if not complete:
        return None
    sign = spec.metric.sign
    run = min(complete, key=lambda r: (-sign * (r.value or 0.0), _loss(r, spec), r.idx))
    params: Mapping[str, Value] = run.params if run.params is not None else (spec.reference if run.idx == 0 else {})
    number = run.number if run.number is not None else run.idx
    return Best(number=number, value=float(run.value or 0.0), params=params)


def _confirm_round(run: TrainingRecord) -> ConfirmRound:
    return ConfirmRound(
        label=run.label or "",
        params=run.params or {},
        value=run.value if run.done else None,
        loss=run.loss,
        failed=run.state == "failed",
        diverged=run.state == "diverged",
    )


def _final(runs: Iterable[TrainingRecord], tuned: Tuned | None, reference: str) -> tuple[FinalResult, ...]:
    results = [_final_of(label, group) for label, group in _by_label(runs).items()]
    by_label = {result.label: result for result in results}
    if tuned is not None and tuned.source == reference and reference in by_label and TUNED not in by_label:
        results.append(replace(by_label[reference], label=TUNED, same_as=reference))
    return tuple(sorted(results, key=lambda f: {TUNED: 0, reference: 1}.get(f.label, 2)))


def _final_of(label: str, runs: Sequence[TrainingRecord]) -> FinalResult:
    done = [run for run in runs if run.done and run.value is not None]
    names = dict.fromkeys(name for run in done for name in run.metrics)
    return FinalResult(
        label=label,
        params=runs[0].params or {},
        planned=len(runs),
        round_numbers=tuple(run.round or 0 for run in done),
        train_values=tuple(run.train_accuracy for run in done),
        test_values=tuple(float(run.value or 0.0) for run in done),
        diverged=sum(run.state == "diverged" for run in runs),
        failed=sum(run.state == "failed" for run in runs),
        metrics={name: tuple(run.metrics.get(name) for run in done) for name in names},
        units=tuple(run.units_digest for run in done),
        items=tuple(run.items for run in done),
    )


def _by_label(runs: Iterable[TrainingRecord]) -> dict[str, list[TrainingRecord]]:
    """Runs by label, labels as they first came, runs by round."""
    by_label: dict[str, list[TrainingRecord]] = {}
    for run in sorted(runs, key=lambda r: r.idx):
        by_label.setdefault(run.label or "", []).append(run)
    return {label: sorted(group, key=lambda r: r.round or 0) for label, group in by_label.items()}


def _shut(name: str, waits_for: Sequence[str]) -> list[str]:
    """Why its final rounds do not begin."""
    if not waits_for:
        return []
    return [
        f"final: waits for the searches on the same data ({listed(waits_for)}), which could profit from what a test "
        f"says; `hpo study pause NAME` leaves one out, `hpo evaluate --study {name} --open-early` does not wait"
    ]


def _missing(
    row: Any,
    spec: StudySpec,
    trials: TrialCounts,
    ranking: Sequence[ConfirmResult],
    final: Sequence[FinalResult],
    tuned: Tuned | None,
    final_runs: Sequence[TrainingRecord],
) -> list[str]:
    lines = []
    if row.paused:
        lines.append(f"the study is paused; `hpo study resume {row.name}` lets it go on")
    if trials.open:
        lines.append(f"search: {trials.open} of {trials.total} trials are still to come ({trials.running} running)")
    if trials.failed:
        lines.append(f"search: {trials.failed} of {trials.total} trials failed; {_of_failed(row, trials)}")
    if row.phase == "search":
        lines.append("confirm: has not started")
    for result in ranking:
        if result.failed:
            again = f" (until the phase ends `hpo study resume {row.name}` retries them)"
            lines.append(
                f"confirm: {result.label} is dropped, {result.failed} of its rounds failed"
                + again * (row.phase == "confirm")
            )
        elif not result.whole:
            lines.append(f"confirm: {result.label} has {len(result.values)} of {result.rounds} rounds")
    if row.phase == "confirm" and ranking and all(result.failed for result in ranking):
        lines.append(f"confirm: {NOTHING_CONFIRMED.format(name=row.name)}")
    searchable = bool(spec.parsed_space.parameters)
    if searchable and tuned is None and trials.total == 0 and all(one.label != TUNED for one in final):
        lines.append("nothing was searched: there is no tuned configuration")
    if not final_runs:
        lines.append("final: no rounds have been asked for yet")
    for one in final:
        if one.same_as is None and one.rounds < one.planned:
            failed = f", {one.failed} failed (`hpo study resume {row.name}` retries them)" if one.failed else ""
            lines.append(f"final: {one.label} has {one.rounds} of {one.planned} rounds{failed}")
    return lines


def _of_failed(row: Any, trials: TrialCounts) -> str:
    """What follows from the failed trials of a search."""
    if not too_many_failed(trials.failed, trials.total):
        return "they count in the budget"
    if row.phase == "search":
        return f"more than a quarter: it ends only once `hpo study resume {row.name}` has queued them again"
    return "more than a quarter: nothing is concluded from it"


def _loss(run: TrainingRecord, spec: StudySpec) -> float:
    """The second metric, lower is better; infinite where it is not known."""
    if run.loss is None or spec.tie_breaker is None:
        return float("inf")
    return -spec.tie_breaker.sign * run.loss
