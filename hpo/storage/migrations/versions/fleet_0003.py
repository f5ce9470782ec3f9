"""Workers, a database's identity and key, and which worker a slot failed on."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hpo_database",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("identity", sa.String(32), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_hpo_database_one_row")),
        sa.PrimaryKeyConstraint("id", name="pk_hpo_database"),
    )
    database = sa.table("hpo_database", sa.column("id"), sa.column("identity"), sa.column("key"))
    op.bulk_insert(database, [{"id": 1, "identity": secrets.token_hex(16), "key": secrets.token_hex(32)}])
    op.create_table(
        "hpo_workers",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("device", sa.String(200), nullable=False),
        sa.Column("lanes", sa.Integer),
        sa.Column("study_names", sa.Text),
        sa.Column("data_digest", sa.String(64), nullable=False),
        sa.Column("code_digest", sa.String(64)),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("completed", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
        sa.Column("alive_until", sa.Float, nullable=False),
        sa.Column("stop_requested", sa.Boolean, nullable=False),
        sa.Column("left_at", sa.Float),
        sa.Column("left_why", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_hpo_workers"),
        sa.UniqueConstraint("name", name="uq_hpo_workers_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_hpo_workers_alive_until", "hpo_workers", ["alive_until"])
    op.add_column("hpo_slots", sa.Column("failed_on", sa.String(200)))
    op.add_column("hpo_slots", sa.Column("reserved_until", sa.Float))
