"""Labels of devices, and selectors with a name."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016_labels"
down_revision = "0015_phases"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the tables."""
    op.add_column("device", sa.Column("labels", sa.JSON(), nullable=False, server_default="{}"))
    op.create_table(
        "saved_selector",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("text", sa.String(length=1024), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_saved_selector")),
    )
