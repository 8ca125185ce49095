"""Ways to enrol, groups, renewal."""

from __future__ import annotations

revision = "0004_enrolment"
down_revision = "0003_reports"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the tables."""
