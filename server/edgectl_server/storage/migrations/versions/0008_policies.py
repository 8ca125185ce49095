"""Policies of models, and metrics of one's own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008_policies"
down_revision = "0007_known_trials"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Change the tables."""
    op.create_table(
        "model_policy",
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("revision", INTEGER, nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_model_policy")),
    )
    op.add_column("model_version", sa.Column("own_metric", sa.String(71), nullable=True))
