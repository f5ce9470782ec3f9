"""A PostgreSQL role with the rights that README gives to workers, and no more."""

import os
import re
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import make_url

from hpo.storage.engine import begin_write, open_engine
from tests.support.commandline import DRAIN, Hpo
from tests.support.exact import check_exact
from tests.support.fixtures import Postgres

README = Path(__file__).parents[2] / "README.md"


def test_a_worker_needs_only_what_readme_grants(hpo_on_postgres: Hpo, postgres: Postgres) -> None:
    """A whole study, from the search to the last round; anything beyond is refused."""
    role = f"hpo_worker_{os.getpid()}"
    grants = re.findall(r"^ {4}(GRANT .*;)$", README.read_text(), flags=re.MULTILINE)
    assert len(grants) > 1
    owner = open_engine(hpo_on_postgres.url)
    postgres.sql(f"CREATE ROLE {role} LOGIN")
    try:
        with begin_write(owner) as connection:
            connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
            for grant in grants:
                connection.execute(text(grant.replace("hpo_worker", role)))
        url = make_url(hpo_on_postgres.url).set(username=role).render_as_string(hide_password=False)
        worker = Hpo(hpo_on_postgres.folder, url)
        worker.create(trials=4, confirm_rounds=1, rounds=1)
        worker(*DRAIN)
        worker("report", "--out", hpo_on_postgres.folder / "report")
        check_exact(hpo_on_postgres.url, "ws", search=4, confirm=2, rounds=1)
        assert "permission denied" in worker.refused("study", "delete", "ws", "--yes")
    finally:
        with begin_write(owner) as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
        owner.dispose()
        postgres.sql(f"DROP ROLE {role}")
