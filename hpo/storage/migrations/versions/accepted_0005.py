"""Changes of a model's code that were accepted while its study went on."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hpo_studies", sa.Column("code_changes", sa.Text()))
