"""Which test pools stay shut: those of data on which a search, or its confirmation, still goes on.

What a test said could serve that search, whoever reads it. A study holds nothing up that is paused, that has nothing
left to do but what failed, or whose part in Optuna was deleted.
"""

from optuna.storages._rdb import models
from sqlalchemy import ColumnElement, Connection, func, literal_column, or_, select

from hpo.storage.schema import slots, studies

_others, _theirs = studies.alias("others"), slots.alias("theirs")


def _has(state: str) -> ColumnElement[bool]:
    """Whether it has a slot in this state; a literal, for the partial indexes."""
    of_state = _theirs.c.state == literal_column(f"'{state}'")
    return select(_theirs.c.id).where(_theirs.c.study_id == _others.c.id, of_state).correlate(_others).exists()


_optunas = models.StudyModel.__table__.alias("optunas")
_is_whole = (
    select(func.count())
    .where(_optunas.c.study_id.in_([_others.c.search_study_id, _others.c.confirm_study_id, _others.c.final_study_id]))
    .correlate(_others)
    .scalar_subquery()
    == 3
)
_goes_on = or_(_has("waiting"), _has("running"), ~_has("failed"))  # the last: it is about to enter its next phase
_searching = _others.c.phase.in_(("search", "confirm")) & ~_others.c.paused & _is_whole & _goes_on

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
