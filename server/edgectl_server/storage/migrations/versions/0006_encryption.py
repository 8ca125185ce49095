"""Keys of encrypted bundles."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006_encryption"
down_revision = "0005_access"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the tables."""
    op.add_column("bundle_variant", sa.Column("content_key", sa.String(128), nullable=True))
    op.add_column("device", sa.Column("encryption_key", sa.String(64), nullable=True))
    op.add_column(
        "model_version",
        sa.Column("encrypted", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.add_column(
        "blob", sa.Column("published", sa.Boolean(), nullable=False, server_default=sa.false())
    )
