"""Scopes of tokens, logins by OpenID Connect, the audit log."""

from __future__ import annotations

revision = "0005_access"
down_revision = "0004_enrolment"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the tables."""
