"""Signed reports and security events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_reports"
down_revision = "0002_signing"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Change the tables."""
    op.add_column(
        "device", sa.Column("order_nonces", sa.JSON(), nullable=False, server_default="{}")
    )
    op.create_table(
        "security_event",
        sa.Column("id", INTEGER, autoincrement=True, nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("source", sa.String(length=8), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.String(length=1024), nullable=False),
        sa.Column("count", INTEGER, nullable=False),
        sa.Column("order", INTEGER, nullable=True),
        sa.ForeignKeyConstraint(
            ["device"],
            ["device.id"],
            name=op.f("fk_security_event_device"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_security_event")),
        sa.UniqueConstraint("device", "key", name=op.f("uq_security_event_device")),
    )
    op.create_index("ix_security_event_received", "security_event", ["device", "received_at"])
    op.create_index(op.f("ix_security_event_received_at"), "security_event", ["received_at"])
