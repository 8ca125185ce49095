"""Versions that wait for signatures."""

from __future__ import annotations

revision = "0002_signing"
down_revision = "0001_first"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the tables."""
