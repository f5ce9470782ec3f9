"""A database of an earlier version, copied from SQLite to PostgreSQL: what such a version would have there."""

import gzip
import tempfile
from pathlib import Path

from sqlalchemy import Connection, Engine, MetaData, create_engine, delete, func, insert, select, text

from hpo.storage import migrate
from hpo.storage.engine import begin_write


def copy_to_postgres(packed: Path, schema: str, engine: Engine) -> None:
    """Put a packed SQLite file's rows into tables as that schema of hpo's had them; what the database held is gone."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "old.db"
        file.write_bytes(gzip.decompress(packed.read_bytes()))
        source = create_engine(f"sqlite:///{file}")
        with source.connect() as old, begin_write(engine) as new:
            new.execute(text("DROP SCHEMA public CASCADE"))
            new.execute(text("CREATE SCHEMA public"))
            migrate._create_optunas(new)
            migrate._migrate(new, migrate._OURS, schema)
            _copy(old, new)
        source.dispose()


def _copy(old: Connection, new: Connection) -> None:
    there, here = MetaData(), MetaData()
    there.reflect(old)
    here.reflect(new)
    for table in here.sorted_tables:
        if table.name.endswith("alembic_version") or table.name == "version_info":
            continue
        columns = [column.name for column in table.columns]
        rows = old.execute(select(*(there.tables[table.name].c[name] for name in columns))).mappings()
        new.execute(delete(table))  # a migration gives the database a name of its own
        if values := [dict(row) for row in rows]:
            new.execute(insert(table), values)
        for column in table.primary_key:  # what counts its numbers goes on after the last
            sequence = new.execute(text("SELECT pg_get_serial_sequence(:t, :c)"), {"t": table.name, "c": column.name})
            if name := sequence.scalar():
                last = new.execute(select(func.max(column))).scalar()
                values_of = {"s": name, "last": last or 1, "called": bool(last)}
                new.execute(text("SELECT setval(:s, :last, :called)"), values_of)
