"""Keys of encrypted bundles."""

from __future__ import annotations

revision = "0006_encryption"
down_revision = "0005_access"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the tables."""
