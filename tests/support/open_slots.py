"""What tests ask of the queue, in fewer words than a worker does."""

from collections.abc import Collection

from sqlalchemy import Engine, select

from hpo.storage.engine import begin_read
from hpo.storage.optuna_storage import EpochRecord, make_storage
from hpo.storage.schema import slots
from hpo.storage.slots import Lease


def any_running(engine: Engine, study_ids: Collection[int] | None = None) -> bool:
    """Whether some slot, of these studies or of all, is in the state `running`: its lease may be over."""
    running = select(slots.c.id).where(slots.c.state == "running")
    if study_ids is not None:
        running = running.where(slots.c.study_id.in_(study_ids))
    with begin_read(engine) as connection:
        return connection.scalar(running.limit(1)) is not None


def renew(engine: Engine, leases: Collection[Lease], lease_seconds: float) -> set[int]:
    """Prolong the leases from now on, as a worker with nothing to report; returns the ids of those that still hold."""
    rows = [EpochRecord(slot_id=slot_id, token=token, trial_id=None, epoch=0, value=None) for slot_id, token in leases]
    lost = make_storage(engine).report(rows, lease_seconds)
    return {slot_id for slot_id, _ in set(leases) - lost}
