"""Trials of the pipeline: those that are known, and the machines that make them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007_known_trials"
down_revision = "0006_encryption"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Change the tables."""
    op.add_column("job", sa.Column("worker", sa.String(128), nullable=True))
    op.create_table(
        "worker",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_worker")),
    )
    op.create_table(
        "known_trial",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("recipe", sa.String(length=128), nullable=False),
        sa.Column("measured", sa.JSON(), nullable=False),
        sa.Column("model", sa.String(length=71), nullable=True),
        sa.Column("size", INTEGER, nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", "recipe", name=op.f("pk_known_trial")),
    )
    op.create_index(op.f("ix_known_trial_model"), "known_trial", ["model"])
    op.create_index(op.f("ix_known_trial_used_at"), "known_trial", ["used_at"])
