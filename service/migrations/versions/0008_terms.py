"""Terms: what outlives a dispatcher can tell a later one from an earlier, and a deployment from others."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.add_column("leases", sa.Column("term", sa.Integer, nullable=False, server_default="0"))
    op.add_column("leases", sa.Column("deployment", sa.String(40)))
    op.execute(sa.table("leases", sa.column("deployment")).update().values(deployment=secrets.token_hex(8)))


def downgrade() -> None:
    """Back."""
    op.drop_column("leases", "deployment")
    op.drop_column("leases", "term")
