"""Signs of life of workers that are not there."""

from hpo.storage.workers import Beat


def beat_of(name: str = "w", *, data_digest: str = "data", **changes: object) -> Beat:
    """The beat of a worker that serves all studies of these data."""
    fields: dict[str, object] = {
        "name": name,
        "host": "host",
        "device": "cpu",
        "study_names": (),
        "data_digest": data_digest,
        "version": "0",
        "lanes": 1,
        "completed": 0,
        "failed": 0,
    }
    return Beat(**{**fields, **changes})  # type: ignore[arg-type]
