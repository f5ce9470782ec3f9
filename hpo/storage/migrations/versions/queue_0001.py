"""The queue: studies, slots, openings of the test pool.

A migration repeats the tables as they were then; `schema.py` has them as they are now.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hpo_studies",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("model", sa.String(32), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("spec_digest", sa.String(64), nullable=False),
        sa.Column("data_digest", sa.String(64), nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("startup_trials", sa.Integer, nullable=False),
        sa.Column("in_flight", sa.Integer, nullable=False),
        sa.Column("repeat_group", sa.String(200)),
        sa.Column("search_study_id", sa.Integer, nullable=False),
        sa.Column("confirm_study_id", sa.Integer, nullable=False),
        sa.Column("final_study_id", sa.Integer, nullable=False),
        sa.Column("tuned", sa.Text),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.CheckConstraint("phase in ('search', 'confirm', 'final', 'done')", name=op.f("ck_hpo_studies_phase")),
        sa.PrimaryKeyConstraint("id", name="pk_hpo_studies"),
        sa.UniqueConstraint("name", name="uq_hpo_studies_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "hpo_slots",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("model", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("idx", sa.Integer, nullable=False),
        sa.Column("adaptive", sa.Boolean, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("result", sa.String(8)),
        sa.Column("label", sa.String(64)),
        sa.Column("params", sa.Text),
        sa.Column("round", sa.Integer),
        sa.Column("trial_id", sa.Integer),
        sa.Column("trial_number", sa.Integer),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("expiries", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("lease_epoch", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(200)),
        sa.Column("token", sa.String(32)),
        sa.Column("lease_expires", sa.Float),
        sa.Column("outcome", sa.Text),
        sa.Column("outputs", sa.LargeBinary),
        sa.Column("error", sa.Text),
        sa.Column("told", sa.Boolean, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.CheckConstraint("kind in ('search', 'confirm', 'final')", name=op.f("ck_hpo_slots_kind")),
        sa.CheckConstraint("result in ('complete', 'pruned', 'diverged')", name=op.f("ck_hpo_slots_result")),
        sa.CheckConstraint("state in ('waiting', 'running', 'done', 'failed')", name=op.f("ck_hpo_slots_state")),
        sa.ForeignKeyConstraint(
            ["study_id"], ["hpo_studies.id"], name="fk_hpo_slots_study_id_hpo_studies", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_hpo_slots"),
        sa.UniqueConstraint("study_id", "kind", "idx", name="uq_hpo_slots_study_id_kind_idx"),
        sqlite_autoincrement=True,
    )
    _partial("waiting", ["model", "adaptive", "priority", "idx", "study_id"], "state = 'waiting'")
    _partial("running", ["study_id"], "state = 'running'")
    _partial("leases", ["model", "lease_expires"], "state = 'running'")
    _partial("untold", ["study_id"], "state in ('done', 'failed') and not told")
    op.create_table(
        "hpo_openings",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("slot_id", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(200), nullable=False),
        sa.Column("opened_at", sa.Float, nullable=False),
        sa.ForeignKeyConstraint(
            ["slot_id"], ["hpo_slots.id"], name="fk_hpo_openings_slot_id_hpo_slots", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_hpo_openings"),
    )
    op.create_index("ix_hpo_openings_slot_id", "hpo_openings", ["slot_id"])


def downgrade() -> None:
    for table in ("hpo_openings", "hpo_slots", "hpo_studies"):
        op.drop_table(table)


def _partial(name: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(f"ix_hpo_slots_{name}", "hpo_slots", columns, postgresql_where=condition, sqlite_where=condition)
