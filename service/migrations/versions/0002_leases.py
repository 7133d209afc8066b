"""Leases: which server dispatches, and under whose lease an attempt was started."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_IS_LIVE = sa.text("state IN ('STARTING', 'RUNNING')")


def upgrade() -> None:
    """Forward."""
    leases = op.create_table(
        "leases",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("token", sa.String(40)),
        sa.Column("holder", sa.String(200)),
        sa.Column("ends_at", sa.DateTime(timezone=True)),
    )
    op.bulk_insert(leases, [{"name": "dispatcher"}])
    op.add_column("attempts", sa.Column("lease", sa.String(40)))
    op.create_index(
        "uq_attempts_live",
        "attempts",
        ["job_id", "trial_number", "kind"],
        unique=True,
        sqlite_where=_IS_LIVE,
        postgresql_where=_IS_LIVE,
    )


def downgrade() -> None:
    """Back."""
    op.drop_index("uq_attempts_live", "attempts")
    op.drop_column("attempts", "lease")
    op.drop_table("leases")
