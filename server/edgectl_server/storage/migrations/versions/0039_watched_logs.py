"""Log lines of devices while somebody looks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0039_watched_logs"
down_revision = "0038_user_changes"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Change the tables."""
    op.create_table(
        "log_follow",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("nonce", sa.String(length=32), nullable=False),
        sa.Column("started_by", sa.String(length=128), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("ends_at", _TIME, nullable=False),
        sa.Column("watched_until", _TIME, nullable=False),
        sa.Column("asked_until", _TIME, nullable=True),
        sa.Column("number", _INTEGER, nullable=False),
        sa.Column("position", _INTEGER, nullable=False),
        sa.Column("missing", _INTEGER, nullable=False),
        sa.Column("bytes", _INTEGER, nullable=False),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.Column("reason", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_log_follow_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_follow")),
    )
    op.create_index(op.f("ix_log_follow_device"), "log_follow", ["device"])
    op.create_index(op.f("ix_log_follow_ended_at"), "log_follow", ["ended_at"])
    op.create_table(
        "log_follow_lines",
        sa.Column("follow", sa.String(length=16), nullable=False),
        sa.Column("number", _INTEGER, autoincrement=False, nullable=False),
        sa.Column("lines", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["follow"],
            ["log_follow.id"],
            name=op.f("fk_log_follow_lines_follow"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("follow", "number", name=op.f("pk_log_follow_lines")),
    )
