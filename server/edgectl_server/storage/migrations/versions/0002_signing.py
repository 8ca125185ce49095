"""Versions that wait for signatures."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_signing"
down_revision = "0001_first"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the tables."""
    op.add_column("model_version", sa.Column("problem", sa.JSON(), nullable=True))
