"""The slots' truth projected on Optuna's trials and on the study's phase; repeatable, by anybody."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from hpo.errors import StudyNotFound
from hpo.storage import slots, studies
from hpo.study import phases
from hpo.study.search import Search


def project(engine: Engine, search: Search) -> bool:
    """Bring Optuna and the phase up to what the slots of a study say; repeatable, by any worker.

    Returns whether the phase moved on. Nothing happens where the study is deleted meanwhile.
    """
    moved = False
    with unless_deleted(engine, search):
        for slot in slots.untold(engine, [search.row.id]):
            search.tell(slot)
            slots.mark_told(engine, slot)
        while phases.advance(engine, studies.get_study_by_id(engine, search.row.id)):
            moved = True
    return moved


@contextmanager
def unless_deleted(engine: Engine, search: Search) -> Iterator[None]:
    """What is no longer found is no error where the study is deleted meanwhile."""
    try:
        yield
    except (StudyNotFound, KeyError):  # KeyError: Optuna's study or trial
        if any(row.id == search.row.id for row in studies.list_studies(engine)):
            raise
