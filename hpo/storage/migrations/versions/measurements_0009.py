"""Under which rules a test pool was opened: so that looks are counted over all studies, those that are gone too."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# As far as the studies are still there.
_KNOWN = """
UPDATE hpo_ledger SET
    spec = (SELECT s.spec FROM hpo_studies s WHERE s.id = hpo_ledger.study_id),
    code_digest = (SELECT s.code_digest FROM hpo_studies s WHERE s.id = hpo_ledger.study_id),
    declared_at = (SELECT s.created_at FROM hpo_studies s WHERE s.id = hpo_ledger.study_id)
"""


def upgrade() -> None:
    op.add_column("hpo_ledger", sa.Column("spec", sa.Text))
    op.add_column("hpo_ledger", sa.Column("code_digest", sa.String(64)))
    op.add_column("hpo_ledger", sa.Column("declared_at", sa.Float))
    op.execute(_KNOWN)
