"""Another version of hpo beside this one: a copy of the package, with a number of its own and a migration more."""

import shutil
from pathlib import Path

from hpo.storage import migrate
from tests.support.commandline import Hpo

PACKAGE = Path(__file__).parents[2] / "hpo"
HEAD = migrate.heads()[migrate._OURS.version_table]  # this version's
VERSION, REVISION = "999.0.0", "9000"

MIGRATION = f"""
import sqlalchemy as sa
from alembic import op

revision = "{REVISION}"
down_revision = "{HEAD}"


def upgrade() -> None:
    op.add_column("hpo_slots", sa.Column("estimate", sa.Integer, nullable=False, server_default="0"))
"""


class OtherHpo(Hpo):
    """Processes of another version, on the same database and folder."""

    def __init__(self, hpo: Hpo, *, migration: str | None = None) -> None:
        """`migration` is the text of one that comes after all of this version's; None: its schema is the same."""
        super().__init__(hpo.folder, hpo.url)
        self._path = hpo.folder / "other"
        shutil.copytree(PACKAGE, self._path / "hpo", ignore=shutil.ignore_patterns("__pycache__"))
        if migration is not None:
            (self._path / "hpo" / "storage" / "migrations" / "versions" / "other_9000.py").write_text(migration)
        with (self._path / "hpo" / "__init__.py").open("a") as file:
            file.write(f'\n__version__ = "{VERSION}"\n')

    def environment(self) -> dict[str, str]:
        """Where `hpo` is the copy; what it covers is nothing of this version's."""
        environment = {name: value for name, value in super().environment().items() if not name.startswith("COVERAGE")}
        return {**environment, "PYTHONPATH": str(self._path)}
