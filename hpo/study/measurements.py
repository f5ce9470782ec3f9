"""Measurements: the final rounds of one configuration under the same conditions, whichever studies have made them.

Studies measure the same where everything is equal that such a training and its test depend on, but for the protocol's
seed and the round's number: those two say which round it is. So whoever tests a configuration again, in another study
or after the first one was deleted, looks at the same measurement again, and the ledger knows.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from hpo.errors import SpecError
from hpo.experiment.spaces import Value
from hpo.storage.ledger import LedgerEntry
from hpo.study.spec import StudySpec, parsed_spec
from hpo.study.study_spec import compact_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """What one study had tested of a measurement, and when."""

    study_id: int
    study: str  # its name then
    measurement: str  # as `measurement_of` calls it
    configuration: str  # as `configuration_of` calls it: whoever edits the code has seen what was tested before
    seed: int  # the protocol's
    declared: tuple[int, ...]  # rounds at which the study said that it would look
    declared_at: float  # when it was created; times are seconds since 1970
    opened_at: float
    looks: Mapping[int, float]  # rounds asked for when some of them were opened -> when that was first so


def measurement_of(
    spec: StudySpec,
    params: Mapping[str, Value],
    *,
    data_digest: str,
    code_digest: str | None,
    epochs: int | None,
) -> str:
    """A text that is the same for final rounds of the same measurement; `epochs` None: the method has none."""
    configuration = configuration_of(spec, params, data_digest=data_digest, epochs=epochs)
    return compact_json([configuration, code_digest, spec.version])


def configuration_of(spec: StudySpec, params: Mapping[str, Value], *, data_digest: str, epochs: int | None) -> str:
    """A text that is the same for measurements of one configuration, whatever the code that trains it."""
    parts = {
        "experiment": [spec.experiment, spec.model],
        "data": [data_digest, dict(spec.data), dict(spec.traits.draws)],
        "epochs": epochs,
        "configuration": {**spec.parsed_space.constants, **params},
    }
    return compact_json(parts)


def epochs_of(spec: StudySpec) -> int:
    """How long the trainings of a study last, as far as its spec says."""
    return spec.model_epochs or spec.budget.epochs


def sightings_of(
    entries: Iterable[LedgerEntry], without_epochs: Collection[tuple[str, str]] = ()
) -> dict[str, list[Sighting]]:
    """By measurement what the ledger knows of it, in the order of the first openings.

    Left out are entries whose study was gone before the ledger kept its spec. `without_epochs` are the models, by
    experiment and name, whose method does not go by epochs.
    """
    grouped: dict[tuple[int, str], list[LedgerEntry]] = {}
    for entry in entries:
        grouped.setdefault((entry.study_id, compact_json(dict(entry.params))), []).append(entry)
    by_measurement: dict[str, list[Sighting]] = {}
    for group in grouped.values():
        sighting = _sighting(group, without_epochs)
        if sighting is not None:
            by_measurement.setdefault(sighting.measurement, []).append(sighting)
    return {key: sorted(group, key=lambda sighting: sighting.opened_at) for key, group in by_measurement.items()}


def _sighting(entries: list[LedgerEntry], without_epochs: Collection[tuple[str, str]]) -> Sighting | None:
    first = entries[0]
    if first.spec is None or first.declared_at is None:
        return None
    try:
        spec = parsed_spec(first.spec)
    except SpecError:  # of a version that knew other specs, and of a study that is gone: else it was raised before
        return None
    has_epochs = (spec.experiment, spec.model) not in without_epochs
    epochs = epochs_of(spec) if has_epochs else None
    looks: dict[int, float] = {}
    for entry in entries:
        if entry.look is not None:
            looks[entry.look] = min(entry.opened_at, looks.get(entry.look, entry.opened_at))
    return Sighting(
        study_id=first.study_id,
        study=first.study,
        measurement=measurement_of(
            spec,
            first.params,
            data_digest=first.data_digest,
            code_digest=first.code_digest,
            epochs=epochs,
        ),
        configuration=configuration_of(spec, first.params, data_digest=first.data_digest, epochs=epochs),
        seed=spec.protocol.seed,
        declared=spec.looks,
        declared_at=first.declared_at,
        opened_at=min(entry.opened_at for entry in entries),
        looks=looks,
    )


def declared_before(sightings: Iterable[Sighting], seed: int, time: float) -> tuple[int, ...]:
    """At which rounds of a protocol's seed these studies had said by then that they would look, ascending."""
    timely = (s.declared for s in sightings if s.seed == seed and s.declared_at <= time)
    return tuple(sorted(set().union(*timely)))
