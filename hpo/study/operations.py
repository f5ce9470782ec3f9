"""Operations on studies: plan, create, extend, resume, export, add final rounds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from hpo.errors import HpoError, StudyBroken, StudyExists, UsageError
from hpo.experiment.spaces import Value
from hpo.files import write_atomically
from hpo.storage import slots, studies
from hpo.storage.engine import begin_read, begin_write
from hpo.storage.ledger import read_ledger
from hpo.storage.searched import searching
from hpo.storage.studies import NewStudy, StudyRow
from hpo.study import limits, phases
from hpo.study.labels import TUNED, claims_origin
from hpo.study.measurements import declared_before, epochs_of, measurement_of, sightings_of
from hpo.study.repeats import repeat_spec
from hpo.study.requests import Requested
from hpo.study.spec import StudySpec, differences, spec_of
from hpo.text import listed


@dataclass(frozen=True, kw_only=True)
class Planned(Requested):
    """A study to be created."""

    group: str | None = None  # of its repeats
    open_early: bool = False  # its final rounds wait for no search on the same data


Plan = Sequence[Planned]
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class NotNow(HpoError):
    """The study's phase does not allow it."""


def repeats(requested: Sequence[Requested], repeat: int) -> list[Planned]:
    """Each study, or its R repeats NAME-1..NAME-R with seeds of their own, and the group of the repeats."""
    if repeat < 1:
        raise UsageError(f"--repeat must be at least 1, got {repeat}")
    if len({study.spec.name for study in requested}) < len(requested):
        raise UsageError("--name names one study; with several models each takes its model's name")
    for study in requested:
        check_name(study.spec)
    if repeat == 1:
        return [Planned(spec=study.spec, data=study.data) for study in requested]
    return [
        Planned(
            spec=repeat_spec(study.spec, number),
            data=study.data,
            group=study.spec.name,
        )
        for study in requested
        for number in range(1, repeat + 1)
    ]


def check_name(spec: StudySpec) -> None:
    """Raise UsageError where a new name begins like an option or a hidden file; older studies may have such a name."""
    if not spec.name[0].isalnum():
        raise UsageError(f"study name {spec.name!r}: must begin with a letter or a digit; --name gives it another")


def create(engine: Engine, plan: Plan, skip: bool = False, accept: bool = False) -> list[bool]:
    """Create the planned studies; returns for each whether it is new, or exists already, which `skip` allows.

    Raises StudyExists, before anything is created, where a study exists without `skip`, or with another spec; the
    message names the differences. With `accept` a study that exists goes on with code that has changed.
    """
    check_new(engine, plan, skip=skip, accept=accept)
    return [_create(engine, planned, skip, accept) for planned in plan]


def check_new(engine: Engine, plan: Plan, skip: bool = False, accept: bool = False) -> list[bool]:
    """Return and raise what `create` would, without creating anything."""
    new = []
    for planned in plan:
        planned.data.check(planned.spec)
        existing = studies.find_study(engine, planned.spec.name)
        new.append(existing is None)
        if existing is None:
            check_name(planned.spec)
        else:
            _compare(existing, planned, skip, accept)
    return new


def _create(engine: Engine, planned: Planned, skip: bool, accept: bool) -> bool:
    existing = studies.find_study(engine, planned.spec.name)
    if existing is None:
        try:
            studies.create_study(engine, _new(planned))
            return True
        except StudyExists:
            existing = studies.find_study(engine, planned.spec.name)
            if existing is None:  # the name is taken by a study that Optuna alone knows
                raise
    _compare(existing, planned, skip, accept)  # created by another process in the meantime
    code = planned.data.code_digest(planned.spec.model)
    if existing.code_digest != code:
        studies.set_code(engine, existing.id, code)
    if spec_of(existing).published != planned.spec.published:
        studies.set_spec(engine, existing.id, planned.spec.canonical())
    return False


def _compare(row: StudyRow, planned: Planned, skip: bool, accept: bool) -> None:
    """Raise StudyExists where the stored study differs, naming the differences; where it is the same, unless `skip`."""
    name, digest, code = row.name, planned.data.digest, planned.data.code_digest(planned.spec.model)
    lines = differences(spec_of(row), planned.spec)
    if row.data_digest != digest:
        lines.append(f"data: digest {row.data_digest[:12]} in the database, {digest[:12]} here")
    if lines:
        raise StudyExists(
            f"study {name} exists with another spec: {'; '.join(lines)}; give this one another --name, or "
            "use another database (--db)"
        )
    if row.code_digest != code and not accept:
        raise StudyExists(
            f"study {name} exists with other code of model {planned.spec.model}: results before and after would not be "
            "of the same method; --accept-changes goes on all the same, --name makes another study"
        )
    if not skip and not accept:
        raise StudyExists(f"study {name} exists already, with this spec; --skip-if-exists leaves it as it is")


def _new(planned: Planned) -> NewStudy:
    spec = planned.spec
    return NewStudy(
        name=spec.name,
        experiment=spec.experiment,
        model=spec.model,
        code_digest=planned.data.code_digest(spec.model),
        spec=spec.canonical(),
        spec_digest=spec.digest,
        data_digest=planned.data.digest,
        seed=spec.seed,
        phase="search" if spec.budget.trials else "final",
        in_flight=spec.budget.in_flight,
        repeat_group=planned.group,
        open_early=planned.open_early,
        trial_seeds=phases.search_seeds(spec.seed, 0, spec.budget.trials),
        adaptive_from=_adaptive_from(spec),
        reference=spec.reference,
        tuned=spec.tuned,
        final=phases.reference_rounds(spec),
        maximize=spec.metric.maximize,
    )


def _whole_study(engine: Engine, name: str) -> StudyRow:
    """The study of that name; StudyBroken where Optuna's part of it was deleted, so that nothing can be added."""
    row = studies.get_study(engine, name)
    with begin_read(engine) as connection:
        gone = studies.gone_from_optuna(connection, [row])
    if gone:
        raise StudyBroken(name, gone[row.id])
    return row


def extend(engine: Engine, name: str, trials: int) -> int:
    """Add search trials to a study in its search phase; returns their total number."""
    if trials < 1:
        raise UsageError(f"--trials must be at least 1, got {trials}")
    row = _whole_study(engine, name)
    total = studies.counts(engine, row.id)["search"].total
    if total + trials > limits.TRIALS:
        raise UsageError(f"study {name} has {total} trials; {trials} more would be above {limits.TRIALS}")
    spec = spec_of(row)
    seeds = phases.search_seeds(row.seed, total, total + trials)
    return studies.extend_study(engine, row, seeds, adaptive_from=_adaptive_from(spec))


def _adaptive_from(spec: StudySpec) -> int | None:
    """The first search slot whose parameters depend on earlier results."""
    return None if spec.sampler.name == "random" else spec.sampler.startup_trials


def resume(engine: Engine, name: str) -> int:
    """Undo a pause and queue again what failed in this phase; returns how many slots.

    In a search a failed trial counts, so those are queued again only where too many failed for the study to go on.
    """
    row = _whole_study(engine, name)
    studies.set_paused(engine, row.id, False)
    if row.phase == "done":
        return 0
    if row.phase == "search":
        search = studies.counts(engine, row.id)["search"]
        if not phases.too_many_failed(search.failed, search.total):
            return 0
    return slots.requeue_failed(engine, row.id, row.phase)


def created_spec(engine: Engine, name: str) -> StudySpec:
    """A study's spec as it was created; `create` makes the same study from it."""
    return spec_of(studies.get_study(engine, name))


def tuned_spec(engine: Engine, name: str, label: str | None = None) -> StudySpec:
    """A study's spec with a tuned configuration in it, as `create` and `evaluate` take it.

    The configuration is the confirmed one (NotNow before there is one), or that of the final rounds under `label`.
    """
    row = studies.get_study(engine, name)
    if label is None:
        if row.tuned is None:
            raise NotNow(
                f"study {name} is in phase {row.phase}: nothing is confirmed yet, so there is nothing to "
                "export; --as-created writes the study as it was created"
            )
        params = row.tuned["params"]
    else:
        by_label = {slot.label: slot.params for slot in slots.list_slots(engine, row.id, "final")}
        if label not in by_label:
            labels = ", ".join(sorted(map(str, by_label))) or "none yet"
            raise UsageError(f"study {name} has no final rounds of {label!r}; there are {labels}")
        params = by_label[label] or {}
    spec = spec_of(row)
    return spec.model_copy(update={"tuned": dict(params)})


def write(path: Path, text: str) -> None:
    """Replace a file atomically; HpoError where that fails."""
    try:
        write_atomically(path, text)
    except OSError as error:
        raise HpoError(f"cannot write {path}: {error.strerror}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestedRounds:
    """What `evaluate` has asked for, of one configuration."""

    study: str
    epochs: int | None  # of a training; None where it is not known to have any
    label: str  # what reports call the configuration
    added: int  # rounds
    rounds: int  # in all
    looks: tuple[int, ...]  # rounds at which it was said that they would be looked at, before the first was tested
    first_tested_by: str | None  # the study whose test that was, where it is another one

    @property
    def beyond(self) -> int:
        """Rounds for which no look was declared in time, or none that is reached."""
        if not self.looks:
            return self.rounds
        reached = [look for look in self.looks if look <= self.rounds]
        return self.rounds - reached[-1] if reached else 0

    @property
    def next_look(self) -> int | None:
        """The first declared look that is still to come."""
        return next((look for look in self.looks if look > self.rounds), None)


def evaluate(
    engine: Engine,
    *,
    file: Requested | None,
    name: str | None,
    rounds: int | None,
    epochs: int | None,
    label: str | None,
    open_early: bool = False,
) -> list[RequestedRounds]:
    """Make sure that a configuration has its final rounds, or, without a file and a label, those that a study compares.

    NotNow while a search on the same data goes on, unless with `open_early`. The configuration comes from the file or,
    without one, from the study. Where the file names a study that does not exist, it is created without a search.
    """
    there = studies.find_study(engine, name or (file.spec.name if file is not None else ""))
    if label is not None:
        of_file = None if file is None else file.spec
        _check_label(label, of_file if there is None else spec_of(there), of_file)
    if file is not None and there is None and not open_early:
        _check_shut(engine, file.spec.experiment, file.data.digest)  # before it is created
    row = _study_to_evaluate(engine, file, name, rounds, epochs)
    spec = spec_of(row)
    configurations = _configurations(engine, row, spec, None if file is None else file.spec, label)
    if open_early:
        studies.set_open_early(engine, row.id)
    else:
        _check_shut(engine, row.experiment, row.data_digest)
    requested = rounds or spec.protocol.final_rounds
    with begin_write(engine) as connection:
        now = studies.lock_study(connection, row.id)
        if now is None:
            raise HpoError(f"study {row.name} was deleted in the meantime")
        added = {
            which: phases.add_final(connection, now, spec, which, params, requested)
            for which, params in configurations.items()
        }
    asked = []
    for which, params in configurations.items():
        looks, first_tested_by = _declared_in_time(engine, row, spec, params)
        asked.append(
            RequestedRounds(
                study=row.name,
                epochs=spec.budget.epochs if spec.goes_by_epochs else None,
                label=spec.shown_reference if which == spec.reference_label else which,
                added=added[which],
                rounds=requested,
                looks=looks,
                first_tested_by=first_tested_by,
            )
        )
    return asked


def _check_label(label: str, spec: StudySpec | None, file: StudySpec | None) -> None:
    """Raise UsageError where a label cannot be one, or says of a configuration what reports say themselves.

    `spec` is the study's, where it is known.
    """
    if label == TUNED and file is not None and file.tuned is None:
        raise UsageError("--label tuned: the file has no [tuned]; its reference takes another label, or none")
    if label in ({TUNED} if spec is None else {TUNED, spec.reference_label, spec.shown_reference}):
        return
    if not _LABEL.fullmatch(label):
        raise UsageError(
            f"--label {label[:80]!r}: must be 1 to 64 letters, digits, '.', '_' or '-', the first a letter or a digit"
        )
    if claims_origin(label):
        called = "" if spec is None else f" (the one to compare with is called {spec.shown_reference} here)"
        raise UsageError(
            f"--label {label}: reports say where a configuration comes from themselves{called}; choose another"
        )


def _declared_in_time(
    engine: Engine, row: StudyRow, spec: StudySpec, params: Mapping[str, Value]
) -> tuple[tuple[int, ...], str | None]:
    """The looks that were declared before a configuration was first tested, and by which other study that was."""
    measurement = measurement_of(
        spec, params, data_digest=row.data_digest, code_digest=row.code_digest, epochs=epochs_of(spec)
    )
    earlier = sightings_of(read_ledger(engine)).get(measurement, [])
    if not earlier or earlier[0].study_id == row.id:
        return spec.looks, None
    first = earlier[0]
    declared = declared_before(earlier, spec.protocol.seed, first.opened_at)
    in_time = spec.looks if row.created_at <= first.opened_at else ()
    return tuple(sorted({*declared, *in_time})), first.study


def _check_shut(engine: Engine, experiment: str, data_digest: str) -> None:
    """Raise NotNow while a search goes on which could be served by what the test pool says."""
    with begin_read(engine) as connection:
        names = searching(connection, experiment, data_digest)
    if names:
        raise NotNow(
            f"pool B stays shut while searches on the same data go on ({listed(names)}), which what it says could "
            "serve: wait for them, `hpo study pause NAME` each, or open it with --open-early, which is on record"
        )


def _study_to_evaluate(
    engine: Engine, file: Requested | None, name: str | None, rounds: int | None, epochs: int | None
) -> StudyRow:
    target = name or (file.spec.name if file else "")
    if studies.find_study(engine, target) is None and file is not None:
        first = None if file.spec.protocol.looks else rounds  # looks begin with the study's own
        no_search = file.spec.with_options(name=target, trials=0, epochs=epochs, rounds=first)
        create(engine, [Planned(spec=no_search, data=file.data)], skip=True)
    row = _whole_study(engine, target)
    spec = spec_of(row)
    if file is not None and (file.spec.experiment, file.spec.model) != (spec.experiment, spec.model):
        raise UsageError(
            f"study {target} is of model {_full_name(spec, file.spec)}, but the file is of "
            f"{_full_name(file.spec, spec)}: name another with --study"
        )
    if file is not None and file.spec.parsed_space.constants != spec.parsed_space.constants:
        raise UsageError(f"study {target} has other constants in its space than the file: name another with --study")
    if epochs is not None and epochs != spec.budget.epochs:
        raise UsageError(
            f"study {target} trains {spec.budget.epochs} epochs; leave --epochs out, or name another study"
        )
    return row


def _full_name(spec: StudySpec, other: StudySpec) -> str:
    """A model's name, with its experiment's where that is another."""
    return spec.model if spec.experiment == other.experiment else f"{spec.model} of {spec.experiment}"


def _configurations(
    engine: Engine, row: StudyRow, spec: StudySpec, file: StudySpec | None, label: str | None
) -> Mapping[str, Mapping[str, Value]]:
    """The configurations to evaluate, by label: without file and label both that a study compares."""
    source, of_reference = file or spec, spec.reference_label
    label = of_reference if label == spec.shown_reference else label
    reference = source.reference
    tuned = source.tuned if file is not None else _tuned(engine, row, spec)
    if file is None and label is None:
        return {of_reference: reference} if tuned in (None, reference) else {TUNED: tuned, of_reference: reference}
    chosen = label or (of_reference if tuned is None or tuned == reference else TUNED)
    params = reference if chosen == of_reference or tuned is None else tuned
    if file is None and tuned is None and chosen != of_reference:
        raise NotNow(
            f"study {row.name} is in phase {row.phase}: nothing is confirmed yet; --label {spec.shown_reference} can "
            "be evaluated"
        )
    if chosen == TUNED and spec.budget.trials and row.phase in ("search", "confirm"):
        raise NotNow(
            f"study {row.name} is still in phase {row.phase}: {chosen!r} is reserved for its winner; choose another "
            "--label"
        )
    if set(params) != set(spec.parsed_space.active(params)):
        raise UsageError(f"study {row.name} tunes other hyperparameters than the file has: name another with --study")
    return {chosen: params}


def _tuned(engine: Engine, row: StudyRow, spec: StudySpec) -> Mapping[str, Value] | None:
    """A study's tuned configuration: confirmed, or, where it searches nothing, given."""
    if row.tuned is not None:
        return dict(row.tuned["params"])
    given = (slot.params for slot in slots.list_slots(engine, row.id, "final") if slot.label == TUNED)
    return next(given, None if spec.budget.trials else spec.tuned)
