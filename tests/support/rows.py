"""All that stands in a database, to compare before and after."""

from typing import Any

from sqlalchemy import Engine, inspect, text

from hpo.storage.engine import begin_read


def all_rows(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of every table, in an order of their own, as texts."""
    with begin_read(engine) as connection:
        tables = inspect(connection).get_table_names()
        rows = {table: connection.execute(text(f'SELECT * FROM "{table}"')).all() for table in tables}
    return {table: sorted(tuple(map(str, row)) for row in stored) for table, stored in rows.items()}
