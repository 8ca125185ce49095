"""Which trainers a worker has: a training that nobody can do says so."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0041_trainers_of_workers"
down_revision = "0040_usual_days"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the tables."""
    op.add_column("worker", sa.Column("trainers", sa.JSON(), nullable=True))
