"""Retrainings."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0032_retrainings"
down_revision = "0031_datasets"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Change the tables."""
    op.create_table(
        "retraining",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("parent", sa.String(length=64), nullable=False),
        sa.Column("dataset", sa.String(length=71), nullable=False),
        sa.Column("trainer", sa.String(length=64), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=True),
        sa.Column("accuracies", sa.JSON(), nullable=True),
        sa.Column("verdicts", sa.JSON(), nullable=True),
        sa.Column("candidate", sa.String(length=71), nullable=True),
        sa.Column("calibration", sa.String(length=71), nullable=True),
        sa.Column("evaluation", sa.String(length=71), nullable=True),
        sa.Column("version", sa.String(length=64), nullable=True),
        sa.Column("log", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retraining")),
    )
    op.create_index("ix_retraining_model", "retraining", ["model", "created_at"])
