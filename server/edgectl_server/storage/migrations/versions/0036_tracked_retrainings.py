"""Whether a retraining was told to a tracking server."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0036_tracked_retrainings"
down_revision = "0035_sealed_samples"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the tables."""
    with op.batch_alter_table("retraining") as batch:
        batch.add_column(sa.Column("tracking", sa.JSON(), nullable=True))
        batch.add_column(sa.Column("track_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(op.f("ix_retraining_track_at"), "retraining", ["track_at"])
