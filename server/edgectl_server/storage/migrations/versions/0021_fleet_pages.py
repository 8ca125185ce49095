"""Devices that are held, and indexes for what the fleet page counts every second."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021_fleet_pages"
down_revision = "0020_answers"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the tables."""
    op.add_column("device", sa.Column("held_at", sa.DateTime(timezone=True)))
    op.add_column("device", sa.Column("held_by", sa.String(128), nullable=False, server_default=""))
    op.add_column(
        "device", sa.Column("hold_reason", sa.String(1024), nullable=False, server_default="")
    )
    op.create_index("ix_device_seen", "device", ["state", "online", "last_seen_at"])
    op.create_index("ix_device_held", "device", ["state", "held_at"])
    op.create_index("ix_reported_slot_version", "reported_slot", ["slot", "version", "device"])
    op.create_index("ix_reported_slot_update", "reported_slot", ["update_state", "device"])
