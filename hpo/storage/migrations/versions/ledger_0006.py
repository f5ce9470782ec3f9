"""The ledger of the test pool: every opening, whatever becomes of its study; and which studies open it early."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# What earlier versions recorded goes into it, as far as the studies are still there.
_KNOWN = """
INSERT INTO hpo_ledger
    (study_id, study, experiment, model, spec_digest, data_digest, label, params, round, attempt, worker, opened_at,
    early)
SELECT s.id, s.name, s.experiment, s.model, s.spec_digest, s.data_digest, t.label, t.params, t.round, o.attempt,
    o.worker, o.opened_at, EXISTS (
        SELECT 1 FROM hpo_slots x JOIN hpo_studies y ON y.id = x.study_id
        WHERE y.experiment = s.experiment AND y.data_digest = s.data_digest AND x.kind <> 'final'
            AND x.finished_at > o.opened_at
    )
FROM hpo_openings o JOIN hpo_slots t ON t.id = o.slot_id JOIN hpo_studies s ON s.id = t.study_id
ORDER BY o.id
"""


def upgrade() -> None:
    op.add_column("hpo_studies", sa.Column("open_early", sa.Boolean, nullable=False, server_default=sa.false()))
    failed = sa.text("state = 'failed'")
    op.create_index("ix_hpo_slots_failed", "hpo_slots", ["study_id"], postgresql_where=failed, sqlite_where=failed)
    op.create_table(
        "hpo_ledger",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("study", sa.String(200), nullable=False),
        sa.Column("experiment", sa.String(40), nullable=False),
        sa.Column("model", sa.String(32), nullable=False),
        sa.Column("spec_digest", sa.String(64), nullable=False),
        sa.Column("data_digest", sa.String(64), nullable=False),
        sa.Column("label", sa.String(64)),
        sa.Column("params", sa.Text),
        sa.Column("round", sa.Integer),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(200), nullable=False),
        sa.Column("opened_at", sa.Float, nullable=False),
        sa.Column("early", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_hpo_ledger"),
        sqlite_autoincrement=True,
    )
    op.execute(_KNOWN)
