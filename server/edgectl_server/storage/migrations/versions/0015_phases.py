"""Where a rollout stands in its phases, and what each device of it has proved."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015_phases"
down_revision = "0012_imports"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Change the tables."""
    for column in (
        sa.Column("phase", INTEGER, nullable=False, server_default="0"),
        sa.Column("phase_since", MOMENT, nullable=True),
        sa.Column("settled_at", MOMENT, nullable=True),
        sa.Column("approved_phase", INTEGER, nullable=False, server_default="-1"),
        sa.Column("verdicts", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("revert", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("priority", INTEGER, nullable=False, server_default="0"),
    ):
        op.add_column("rollout", column)
    op.add_column("rollout_device", sa.Column("manifest", sa.String(length=71), nullable=True))
