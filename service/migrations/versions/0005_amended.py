"""What was changed of a job's spec after it was submitted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.add_column("jobs", sa.Column("amended", sa.JSON))


def downgrade() -> None:
    """Back."""
    op.drop_column("jobs", "amended")
