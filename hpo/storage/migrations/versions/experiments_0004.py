"""Experiments: whose model a study tunes, and by which code."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hpo_studies", sa.Column("experiment", sa.String(40), nullable=False, server_default="digits"))
    op.add_column("hpo_studies", sa.Column("code_digest", sa.String(64)))
