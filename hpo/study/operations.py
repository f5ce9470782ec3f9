"""Operations on studies: plan, create, extend, resume, export, add final rounds."""

import re
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Engine

from hpo.digits import pools as sources
from hpo.digits.pools import Digits
from hpo.errors import HpoError, SpecError, StudyBroken, StudyExists, UsageError
from hpo.files import write_atomically
from hpo.storage import slots, studies
from hpo.storage.engine import begin_read, begin_write
from hpo.storage.studies import NewStudy, StudyRow
from hpo.study import limits, phases
from hpo.study.labels import PAPER, TUNED
from hpo.study.spec import MODELS, StudySpec, builtin_spec, differences, load_spec, spec_of
from hpo.training.augmentation import SAMPLES_PER_PAIR

Plan = Sequence[tuple[StudySpec, str | None]]  # specs, each with the group of its repeats
MOST_BATCH = 10_000  # samples
MOST_VALIDATION_PAIRS = 100_000
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class NotNow(HpoError):
    """The study's phase does not allow it."""


def specs(*, model: str | None, path: Path | None) -> list[StudySpec]:
    """The specs that `--model` (one, or "all") or `--file` names."""
    if path is not None:
        spec = load_spec(path)
        if model is not None and model != spec.model:
            raise UsageError(f"--model {model}: {path} is a study of model {spec.model}; leave --model out")
        return [spec]
    if model is None:
        raise UsageError("which study? give --model simple, ws, ws-aux or all, or --file studies/ws.toml")
    return [builtin_spec(name) for name in (MODELS if model == "all" else [model])]


def repeats(specs: Sequence[StudySpec], repeat: int) -> list[tuple[StudySpec, str | None]]:
    """Each spec, or its R repeats NAME-1..NAME-R with seeds seed..seed+R-1, and the group of the repeats."""
    if repeat < 1:
        raise UsageError(f"--repeat must be at least 1, got {repeat}")
    if len({spec.name for spec in specs}) < len(specs):
        raise UsageError("--name names one study; with --model all each takes its model's name")
    for spec in specs:
        check_name(spec)
    if repeat == 1:
        return [(spec, None) for spec in specs]
    return [
        (spec.with_options(name=f"{spec.name}-{i + 1}", seed=spec.seed + i), spec.name)
        for spec in specs
        for i in range(repeat)
    ]


def check_name(spec: StudySpec) -> None:
    """Raise UsageError where a new name begins like an option or a hidden file; older studies may have such a name."""
    if not spec.name[0].isalnum():
        raise UsageError(f"study name {spec.name!r}: must begin with a letter or a digit; --name gives it another")


def check_trainable(digits: Digits, spec: StudySpec) -> None:
    """Raise SpecError where a study cannot be trained, DataError where the images are too few for its draws.

    For new studies alone: one that was stored before a rule came is still read, listed and shown.
    """
    protocol = spec.protocol
    for key, value, most, why in (
        (
            "batch_size",
            protocol.batch_size,
            protocol.samples,
            f"an epoch has no more samples, {SAMPLES_PER_PAIR} a training pair",
        ),
        ("batch_size", protocol.batch_size, MOST_BATCH, "a step needs about 140 KB a sample, in each lane"),
        ("validation_pairs", protocol.validation_pairs, MOST_VALIDATION_PAIRS, "every epoch is judged by all of them"),
    ):
        if value > most:
            raise SpecError(f"study {spec.name}: protocol.{key}: must be at most {most} ({why}), not {value}")
    sources.check_enough(digits, protocol.training_pairs, protocol.validation_pairs, protocol.test_pairs)


def create(engine: Engine, digits: Digits, plan: Plan, skip: bool = False) -> list[bool]:
    """Create the planned studies; returns for each whether it is new, or exists already, which `skip` allows.

    Raises StudyExists, before anything is created, where a study exists without `skip`, or with another spec; the
    message names the differences.
    """
    check_new(engine, digits, plan, skip=skip)
    return [_create(engine, digits, spec, group, skip) for spec, group in plan]


def check_new(engine: Engine, digits: Digits, plan: Plan, skip: bool = False) -> list[bool]:
    """Return and raise what `create` would, without creating anything."""
    new = []
    for spec, _ in plan:
        check_trainable(digits, spec)
        existing = studies.find_study(engine, spec.name)
        new.append(existing is None)
        if existing is None:
            check_name(spec)
        else:
            _compare(existing, spec, digits, skip)
    return new


def _create(engine: Engine, digits: Digits, spec: StudySpec, group: str | None, skip: bool) -> bool:
    existing = studies.find_study(engine, spec.name)
    if existing is None:
        try:
            studies.create_study(engine, _new(digits, spec, group))
            return True
        except StudyExists:
            existing = studies.find_study(engine, spec.name)
            if existing is None:  # the name is taken by a study that Optuna alone knows
                raise
    _compare(existing, spec, digits, skip)  # created by another process in the meantime
    return False


def _compare(row: StudyRow, spec: StudySpec, digits: Digits, skip: bool) -> None:
    """Raise StudyExists where the stored study differs, naming the differences; where it is the same, unless `skip`."""
    lines = differences(spec_of(row), spec)
    if row.data_digest != digits.digest:
        lines.append(f"data: digest {row.data_digest[:12]} in the database, {digits.digest[:12]} here")
    if lines:
        raise StudyExists(
            f"study {spec.name} exists with another spec: {'; '.join(lines)}; give this one another --name, or "
            "use another database (--db)"
        )
    if not skip:
        raise StudyExists(f"study {spec.name} exists already, with this spec; --skip-if-exists leaves it as it is")


def _new(digits: Digits, spec: StudySpec, group: str | None) -> NewStudy:
    return NewStudy(
        name=spec.name,
        model=spec.model,
        spec=spec.canonical(),
        spec_digest=spec.digest,
        data_digest=digits.digest,
        seed=spec.seed,
        phase="search" if spec.budget.trials else "final",
        in_flight=spec.budget.in_flight,
        repeat_group=group,
        trial_seeds=phases.search_seeds(spec.seed, 0, spec.budget.trials),
        adaptive_from=_adaptive_from(spec),
        paper=spec.paper,
        tuned=spec.tuned,
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


def evaluate(
    engine: Engine,
    digits: Digits,
    *,
    file: StudySpec | None,
    name: str | None,
    rounds: int | None,
    epochs: int | None,
    label: str | None,
) -> dict[str, str | int]:
    """Make sure that a configuration has its final rounds; returns study, epochs, label, rounds added and requested.

    The configuration comes from the file or, without one, from the study. Where the file names a study that does not
    exist, it is created without a search.
    """
    if label is not None and not _LABEL.fullmatch(label):
        raise UsageError(
            f"--label {label[:80]!r}: must be 1 to 64 letters, digits, '.', '_' or '-', the first a letter or a digit"
        )
    row = _study_to_evaluate(engine, digits, file, name, rounds, epochs)
    spec = spec_of(row)
    label, params = _configuration(row, spec, file, label)
    requested = rounds or spec.protocol.final_rounds
    with begin_write(engine) as connection:
        now = studies.lock_study(connection, row.id)
        if now is None:
            raise HpoError(f"study {row.name} was deleted in the meantime")
        added = phases.add_final(connection, now, spec, label, params, requested)
    return {"study": row.name, "epochs": spec.budget.epochs, "label": label, "added": added, "rounds": requested}


def _study_to_evaluate(
    engine: Engine,
    digits: Digits,
    file: StudySpec | None,
    name: str | None,
    rounds: int | None,
    epochs: int | None,
) -> StudyRow:
    target = name or (file.name if file else "")
    row = studies.find_study(engine, target)
    if row is None and file is not None:
        no_search = file.with_options(name=target, trials=0, epochs=epochs, rounds=rounds)
        create(engine, digits, [(no_search, None)], skip=True)
    row = _whole_study(engine, target)
    spec = spec_of(row)
    if file is not None and file.model != spec.model:
        raise UsageError(
            f"study {target} is of model {spec.model}, but the file is of {file.model}: name another with --study"
        )
    if epochs is not None and epochs != spec.budget.epochs:
        raise UsageError(
            f"study {target} trains {spec.budget.epochs} epochs; leave --epochs out, or name another study"
        )
    return row


def _configuration(
    row: StudyRow, spec: StudySpec, file: StudySpec | None, label: str | None
) -> tuple[str, dict[str, float]]:
    """The label and the values of the configuration to evaluate."""
    if file is not None:
        paper, tuned = file.paper, file.tuned
    else:
        paper, tuned = spec.paper, dict(row.tuned["params"]) if row.tuned else None
    chosen = label or (PAPER if tuned is None or tuned == paper else TUNED)
    params = paper if chosen == PAPER or tuned is None else tuned
    if file is None and tuned is None and chosen != PAPER:
        raise NotNow(
            f"study {row.name} is in phase {row.phase}: nothing is confirmed yet; --label paper can be evaluated"
        )
    if chosen == TUNED and spec.budget.trials and row.phase in ("search", "confirm"):
        raise NotNow(
            f"study {row.name} is still in phase {row.phase}: {chosen!r} is reserved for its winner; choose another "
            "--label"
        )
    return chosen, params
