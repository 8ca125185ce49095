"""Loops: policies, runs, events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0033_loops"
down_revision = "0032_retrainings"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Change the tables."""
    op.create_table(
        "loop_policy",
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("revision", _INTEGER, nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("due_at", _TIME, nullable=True),
        sa.Column("changed_at", _TIME, nullable=False),
        sa.Column("changed_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_loop_policy")),
    )
    op.create_index(op.f("ix_loop_policy_due_at"), "loop_policy", ["due_at"])
    op.create_table(
        "loop_run",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("trigger", sa.JSON(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("note", sa.String(length=1024), nullable=False),
        sa.Column("approved", sa.String(length=16), nullable=False),
        sa.Column("began_at", _TIME, nullable=False),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_loop_run")),
    )
    op.create_index("ix_loop_run_model", "loop_run", ["model", "began_at"])
    op.create_table(
        "loop_event",
        sa.Column("id", _INTEGER, autoincrement=True, nullable=False),
        sa.Column("run", sa.String(length=16), nullable=True),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["loop_run.id"], name=op.f("fk_loop_event_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_loop_event")),
    )
    op.create_index("ix_loop_event_model", "loop_event", ["model", "id"])
