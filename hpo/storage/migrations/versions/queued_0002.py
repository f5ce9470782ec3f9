"""An index of what waits by study: looks and adaptive claims cost the same however many slots wait."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    waiting = sa.text("state = 'waiting'")
    op.create_index(
        "ix_hpo_slots_queued",
        "hpo_slots",
        ["study_id", "adaptive", "idx"],
        postgresql_where=waiting,
        sqlite_where=waiting,
    )
