"""How often a user has logged out: a session of before has ended then, also where its cookie was copied."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hpo_users", sa.Column("logouts", sa.Integer, nullable=False, server_default="0"))
