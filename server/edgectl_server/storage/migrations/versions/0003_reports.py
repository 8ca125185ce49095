"""Signed reports and security events."""

from __future__ import annotations

revision = "0003_reports"
down_revision = "0002_signing"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the tables."""
