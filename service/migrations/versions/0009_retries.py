"""Jobs whose failed trials are trained again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.add_column("jobs", sa.Column("retry_round", sa.Integer, nullable=False, server_default="0"))


def downgrade() -> None:
    """Back."""
    op.drop_column("jobs", "retry_round")
