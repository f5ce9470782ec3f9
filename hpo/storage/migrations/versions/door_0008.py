"""Who may use the lab's site: users, and the tokens of scripts."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hpo_users",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("role", sa.String(8), nullable=False),
        sa.Column("password_hash", sa.String(255)),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_hpo_users"),
        sa.UniqueConstraint("name", name="uq_hpo_users_name"),
        sa.CheckConstraint("role in ('viewer', 'editor')", name=op.f("ck_hpo_users_role")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "hpo_tokens",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("role", sa.String(8), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_hpo_tokens"),
        sa.UniqueConstraint("name", name="uq_hpo_tokens_name"),
        sa.UniqueConstraint("digest", name="uq_hpo_tokens_digest"),
        sa.CheckConstraint("role in ('viewer', 'editor')", name=op.f("ck_hpo_tokens_role")),
        sqlite_autoincrement=True,
    )
