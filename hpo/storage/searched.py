"""Which test pools stay shut: those of data on which a search, or its confirmation, still goes on.

What a test said could serve that search, whoever reads it. A paused study holds nothing up.
"""

from sqlalchemy import Connection, or_, select

from hpo.storage.schema import slots, studies

_others = studies.alias("others")
_searching = _others.c.phase.in_(("search", "confirm")) & ~_others.c.paused

is_searched = (
    select(_others.c.id)
    .where(_others.c.experiment == studies.c.experiment, _others.c.data_digest == studies.c.data_digest, _searching)
    .correlate(studies)
    .exists()
)
"""Of a study that the query around it looks at: whether a search of its experiment on its data goes on."""

may_open = or_(slots.c.kind != "final", studies.c.open_early, ~is_searched)
"""Of a slot and its study: whether it may be claimed as far as the test pool goes."""


def searching(connection: Connection, experiment: str, data_digest: str) -> list[str]:
    """The names of the studies that keep this test pool shut, the oldest first."""
    of_these = (_others.c.experiment == experiment, _others.c.data_digest == data_digest)
    return list(connection.scalars(select(_others.c.name).where(*of_these, _searching).order_by(_others.c.id)))
