"""The ledger: every opening of a test pool, kept apart from the studies, so that no command erases it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, Engine, Row, ScalarSelect, func, insert, select

from hpo.storage.engine import begin_read
from hpo.storage.schema import ledger, openings, slots, studies
from hpo.storage.searched import is_searched
from hpo.storage.values import Value


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerEntry:
    """One opening, with what it was for: the study may be gone by now."""

    study_id: int
    study: str  # its name then
    experiment: str
    model: str
    spec_digest: str
    data_digest: str
    label: str | None  # of the configuration that was tested
    params: Mapping[str, Value]
    round: int | None
    attempt: int
    worker: str
    opened_at: float  # seconds since 1970
    early: bool = False  # while a search on the same data, or its confirmation, went on
    look: int | None = None  # how many rounds of the configuration were asked for by then; None: not recorded
    spec: str | None = None  # the study's, canonical: under which rules; None: gone before that was recorded
    code_digest: str | None = None  # of the user's code that trains
    declared_at: float | None = None  # when the study was created, and with it its looks
    deleted: bool = False  # whether the study is there no more


def enter(connection: Connection, opening_id: int) -> None:
    """Enter a study's opening; belongs into the transaction that has recorded it."""
    copied = {
        "study_id": studies.c.id,
        "study": studies.c.name,
        **{
            name: studies.c[name]
            for name in ("experiment", "model", "spec_digest", "data_digest", "spec", "code_digest")
        },
        "declared_at": studies.c.created_at,
        **{name: slots.c[name] for name in ("label", "params", "round")},
        **{name: openings.c[name] for name in ("attempt", "worker", "opened_at")},
        "early": is_searched,
        "look": _asked,
    }
    row = select(*copied.values()).join_from(openings, slots).join(studies, studies.c.id == slots.c.study_id)
    connection.execute(insert(ledger).from_select(list(copied), row.where(openings.c.id == opening_id)))


def _of_the_same_configuration() -> ScalarSelect[Any]:
    others = slots.alias()
    alike = (others.c.study_id == slots.c.study_id, others.c.kind == slots.c.kind, others.c.label == slots.c.label)
    return select(func.count()).select_from(others).where(*alike).correlate(slots).scalar_subquery()


_asked = _of_the_same_configuration()


def read_ledger(engine: Engine) -> list[LedgerEntry]:
    """All entries, in the order in which they were made."""
    with begin_read(engine) as connection:
        deleted = ledger.c.study_id.not_in(select(studies.c.id)).label("deleted")
        rows = connection.execute(select(ledger, deleted).order_by(ledger.c.id)).all()
    return [_entry(row) for row in rows]


def _entry(row: Row[*tuple[Any, ...]]) -> LedgerEntry:
    values = {field.name: getattr(row, field.name) for field in fields(LedgerEntry)}
    return LedgerEntry(**{**values, "params": {} if row.params is None else json.loads(row.params)})
