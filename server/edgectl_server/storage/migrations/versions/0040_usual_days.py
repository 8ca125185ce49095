"""Days that people call usual, with which drift is compared too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0040_usual_days"
down_revision = "0039_watched_logs"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Change the tables."""
    op.create_table(
        "usual_days",
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("until", _TIME, nullable=False),
        sa.Column("set_at", _TIME, nullable=False),
        sa.Column("set_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_usual_days")),
    )
