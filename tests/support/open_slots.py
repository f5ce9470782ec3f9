"""What tests ask of the queue and no worker does."""

from collections.abc import Collection

from sqlalchemy import Engine, select

from hpo.storage.engine import begin_read
from hpo.storage.schema import slots


def any_running(engine: Engine, study_ids: Collection[int] | None = None) -> bool:
    """Whether some slot, of these studies or of all, is in the state `running`: its lease may be over."""
    running = select(slots.c.id).where(slots.c.state == "running")
    if study_ids is not None:
        running = running.where(slots.c.study_id.in_(study_ids))
    with begin_read(engine) as connection:
        return connection.scalar(running.limit(1)) is not None
