"""Which look at a configuration an opening of the test pool belongs to; of earlier ones that is not known."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hpo_ledger", sa.Column("look", sa.Integer))
