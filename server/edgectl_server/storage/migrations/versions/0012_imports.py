"""Versions that came as files from other servers, and those servers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012_imports"
down_revision = "0011_deltas"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Change the tables."""
    op.create_table(
        "origin",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("pinned", sa.String(length=71), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("timestamp", sa.LargeBinary(), nullable=False),
        sa.Column("snapshot", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("imported_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_origin")),
    )
    op.add_column("model_version", sa.Column("imported", sa.JSON(), nullable=True))
