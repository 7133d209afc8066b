"""When a job was paused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.add_column("jobs", sa.Column("pauses", sa.JSON))


def downgrade() -> None:
    """Back."""
    op.drop_column("jobs", "pauses")
