"""When a job had its last turn, and since when it waits for the next."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.add_column("jobs", sa.Column("served_at", sa.DateTime(timezone=True)))
    op.add_column("jobs", sa.Column("waiting_since", sa.DateTime(timezone=True)))
    op.create_index("ix_jobs_served_at", "jobs", ["served_at"])


def downgrade() -> None:
    """Back."""
    op.drop_index("ix_jobs_served_at", "jobs")
    op.drop_column("jobs", "waiting_since")
    op.drop_column("jobs", "served_at")
