"""Counts of features by window, and added up by hour."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022_features"
down_revision = "0021_fleet_pages"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Change the tables."""
    op.create_table(
        "feature_window",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("boot", _INTEGER, autoincrement=False, nullable=False),
        sa.Column("seq", _INTEGER, autoincrement=False, nullable=False),
        sa.Column("slot", sa.String(length=64), nullable=False),
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("start", _TIME, nullable=False),
        sa.Column("end", _TIME, nullable=False),
        sa.Column("hour", _TIME, nullable=False),
        sa.Column("rows", _INTEGER, nullable=False),
        sa.Column("skipped", _INTEGER, nullable=False),
        sa.Column("clock_shift_s", _INTEGER, nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("rolled", sa.Boolean(), nullable=False),
        sa.Column("received_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("device", "boot", "seq", name=op.f("pk_feature_window")),
    )
    op.create_index("ix_feature_window_manifest", "feature_window", ["manifest", "end"])
    op.create_index("ix_feature_window_rolled", "feature_window", ["rolled", "hour"])
    op.create_index(op.f("ix_feature_window_received_at"), "feature_window", ["received_at"])
    op.create_table(
        "feature_hour",
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("hour", _TIME, nullable=False),
        sa.Column("windows", _INTEGER, nullable=False),
        sa.Column("rows", _INTEGER, nullable=False),
        sa.Column("skipped", _INTEGER, nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("manifest", "device", "hour", name=op.f("pk_feature_hour")),
    )
    op.create_index(op.f("ix_feature_hour_hour"), "feature_hour", ["hour"])
