"""How often models are right, as far as counts tell."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028_accuracy"
down_revision = "0027_alert_routes"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Change the tables."""
    op.create_table(
        "accuracy_state",
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("level", sa.String(length=16), nullable=False),
        sa.Column("group", sa.String(length=128), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("until", _TIME, nullable=False),
        sa.Column("rows", _INTEGER, nullable=False),
        sa.Column("found", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("manifest", "level", "group", name=op.f("pk_accuracy_state")),
    )
    op.create_index("ix_accuracy_state_model", "accuracy_state", ["model", "level"])
    op.create_index(op.f("ix_accuracy_state_until"), "accuracy_state", ["until"])
    op.create_table(
        "accuracy_point",
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("level", sa.String(length=16), nullable=False),
        sa.Column("group", sa.String(length=128), nullable=False),
        sa.Column("until", _TIME, nullable=False),
        sa.Column("rows", _INTEGER, nullable=False),
        sa.Column("found", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint(
            "manifest", "level", "group", "until", name=op.f("pk_accuracy_point")
        ),
    )
    op.create_index(op.f("ix_accuracy_point_until"), "accuracy_point", ["until"])
