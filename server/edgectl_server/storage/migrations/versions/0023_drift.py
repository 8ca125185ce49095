"""Where drift stands, and what has begun and ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023_drift"
down_revision = "0022_features"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Change the tables."""
    op.create_table(
        "drift_state",
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("level", sa.String(length=16), nullable=False),
        sa.Column("group", sa.String(length=128), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("until", _TIME, nullable=False),
        sa.Column("rows", _INTEGER, nullable=False),
        sa.Column("findings", sa.JSON(), nullable=False),
        sa.Column("faults", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("manifest", "level", "group", name=op.f("pk_drift_state")),
    )
    op.create_index("ix_drift_state_model", "drift_state", ["model", "level"])
    op.create_index(op.f("ix_drift_state_until"), "drift_state", ["until"])
    op.create_table(
        "drift_event",
        sa.Column("id", _INTEGER, autoincrement=True, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("level", sa.String(length=16), nullable=False),
        sa.Column("group", sa.String(length=128), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drift_event")),
    )
    op.create_index("ix_drift_event_model", "drift_event", ["model", "id"])
    op.create_index(op.f("ix_drift_event_at"), "drift_event", ["at"])
