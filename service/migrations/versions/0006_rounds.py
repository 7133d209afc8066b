"""Jobs that are reopened: rounds, and the number that guards what is decided of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_COUNTS = (("jobs", "amendments"), ("jobs", "round"), ("jobs", "search_round"), ("attempts", "round"))


def upgrade() -> None:
    """Forward."""
    for table, column in _COUNTS:
        op.add_column(table, sa.Column(column, sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("reopened_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    """Back."""
    op.drop_column("jobs", "reopened_at")
    for table, column in _COUNTS:
        op.drop_column(table, column)
