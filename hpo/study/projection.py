"""Projecting the slots onto Optuna's trials and the study's phase; any worker may repeat it."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from hpo.errors import StudyBroken, StudyNotFound
from hpo.storage import slots, studies
from hpo.storage.engine import begin_read
from hpo.study import phases
from hpo.study.search import Search


def project(engine: Engine, search: Search) -> bool:
    """Bring Optuna's trials and the phase of a study up to date with its slots; any worker may repeat it.

    Returns whether a new phase began. Does nothing where the study has been deleted in the meantime.
    """
    moved = False
    with unless_deleted(engine, search):
        for slot in slots.untold(engine, [search.row.id]):
            search.tell(slot)
        while phases.advance(engine, studies.get_study_by_id(engine, search.row.id)):
            moved = True
    return moved


@contextmanager
def unless_deleted(engine: Engine, search: Search) -> Iterator[None]:
    """Ignore that something is missing where the study has been deleted in the meantime.

    Raises StudyBroken where only Optuna's part of it has been deleted, past hpo.
    """
    try:
        yield
    except (StudyNotFound, KeyError) as error:  # KeyError: Optuna's study or trial
        if all(row.id != search.row.id for row in studies.list_studies(engine)):
            return
        with begin_read(engine) as connection:
            gone = studies.gone_from_optuna(connection, [search.row])
        if gone:
            raise StudyBroken(search.row.name, gone[search.row.id]) from error
        raise
