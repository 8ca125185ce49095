"""When a device's connection has ended of late."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017_disconnects"
down_revision = "0016_labels"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the tables."""
    op.add_column(
        "device", sa.Column("disconnects", sa.JSON(), nullable=False, server_default="[]")
    )
