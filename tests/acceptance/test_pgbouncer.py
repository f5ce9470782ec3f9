"""A fleet behind a real PgBouncer, whose settings are those it ships with, in both modes of pooling."""

import psycopg
import pytest
from sqlalchemy.engine import make_url

from tests.support.commandline import DRAIN, Hpo, finish
from tests.support.exact import check_exact
from tests.support.long import too_long
from tests.support.pgbouncer import PROGRAM, pgbouncer

SERVER_CONNECTIONS = {"session": 20, "transaction": 2}  # a session keeps its own; two workers share two otherwise

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed")


@pytest.mark.parametrize("mode", [*too_long("session"), "transaction"])
def test_a_study_behind_pgbouncer(mode: str, hpo_on_postgres: Hpo) -> None:
    """Two workers train it to its end, exactly; what one transaction sets is gone for the next client."""
    hpo, direct = hpo_on_postgres, hpo_on_postgres.url
    with pgbouncer(direct, mode, SERVER_CONNECTIONS[mode]) as hpo.url:
        hpo("db", "upgrade")
        hpo.create(trials=6, confirm_rounds=1, rounds=1)
        workers = [hpo.start(*DRAIN) for _ in range(2)]
        for worker in workers:
            finish(worker)
        hpo("report", "--out", hpo.folder / "report")
        with psycopg.connect(make_url(hpo.url).set(drivername="postgresql").render_as_string(False)) as anybody:
            for limit in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
                assert anybody.execute(f"SHOW {limit}").fetchone() == ("0",)
    check_exact(direct, "ws", search=6, confirm=2, rounds=1)


def test_tables_are_made_behind_pgbouncer(hpo_on_postgres: Hpo) -> None:
    """`hpo db upgrade` on an empty database, by transactions that share one connection of the server."""
    hpo, direct = hpo_on_postgres, hpo_on_postgres.url
    with psycopg.connect(make_url(direct).set(drivername="postgresql").render_as_string(False)) as owner:
        owner.execute("DROP SCHEMA public CASCADE")
        owner.execute("CREATE SCHEMA public")
    with pgbouncer(direct, "transaction", 1) as hpo.url:
        assert "created" in hpo("db", "upgrade").stderr
        assert "up to date" in hpo("db", "check").stderr
