"""Which test pools stay shut: those of data on which a search, or its confirmation, still goes on.

What a test said could serve that search, whoever reads it. A study holds nothing up that is paused, that stands still
because of what failed (until `hpo study resume`), or whose part in Optuna was deleted. One of which everything has
ended, and that no worker has moved on yet, is still at it.
"""

from optuna.storages._rdb import models
from sqlalchemy import ColumnElement, Connection, case, func, literal_column, or_, select

from hpo.storage.schema import slots, studies

MOST_FAILED = 0.25  # of a search's trials; where more failed it chooses nothing, and waits for `hpo study resume`

_others, _theirs = studies.alias("others"), slots.alias("theirs")
_ended, _rounds = slots.alias("ended"), slots.alias("rounds")  # where nothing is open


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
_failed = select(func.sum(case((_theirs.c.kind == "search", 1), else_=0))).where(
    _theirs.c.study_id == _others.c.id, _theirs.c.state == literal_column("'failed'")
)
_trials = select(func.max(_ended.c.idx) + 1).where(_ended.c.study_id == _others.c.id, _ended.c.kind == "search")
_too_many_failed = (
    _failed.correlate(_others).scalar_subquery() > MOST_FAILED * _trials.correlate(_others).scalar_subquery()
)
# A diverged round drops its configuration, but not in the first format of specs (`StudySpec.diverged_drops`).
_diverged_drops = (_rounds.c.result == "diverged") & _others.c.spec.startswith('{"experiment"')
_is_dropped = (
    select(_rounds.c.id)
    .where(_rounds.c.study_id == _others.c.id, _rounds.c.kind == "confirm", _rounds.c.label == _ended.c.label)
    .where(or_(_rounds.c.state == "failed", _diverged_drops))
    .correlate(_others, _ended)
    .exists()
)
_confirms = (
    select(_ended.c.id)
    .where(_ended.c.study_id == _others.c.id, _ended.c.kind == "confirm", ~_is_dropped)
    .limit(1)
    .correlate(_others)
    .scalar_subquery()
    .is_not(None)
)
_stands_still = case((_others.c.phase == "search", func.coalesce(_too_many_failed, False)), else_=~_confirms)
_goes_on = case((or_(_has("waiting"), _has("running")), True), else_=~_stands_still)  # asked last: it reads the most
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
