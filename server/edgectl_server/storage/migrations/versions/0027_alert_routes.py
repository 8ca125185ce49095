"""Whom alerts are told, what they were told, and what is on its way to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0027_alert_routes"
down_revision = "0026_alerts"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def _text(name: str, length: int) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length), nullable=False)


def upgrade() -> None:
    """Change the tables."""
    op.create_table(
        "alert_route",
        _text("id", 16),
        _text("name", 64),
        sa.Column("kinds", sa.JSON(), nullable=False),
        _text("severity", 16),
        _text("model", 64),
        _text("site", 128),
        _text("channel", 16),
        sa.Column("target", sa.JSON(), nullable=False),
        sa.Column("repeat_s", INTEGER, nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("last_at", MOMENT, nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        _text("created_by", 128),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_route")),
        sa.UniqueConstraint("name", name=op.f("uq_alert_route_name")),
    )
    op.create_table(
        "alert_told",
        _text("route", 16),
        _text("alert", 16),
        sa.Column("at", MOMENT, nullable=False),
        _text("severity", 16),
        sa.ForeignKeyConstraint(
            ["route"], ["alert_route.id"], name=op.f("fk_alert_told_route"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["alert"], ["alert.id"], name=op.f("fk_alert_told_alert"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("route", "alert", name=op.f("pk_alert_told")),
    )
    op.create_index(op.f("ix_alert_told_alert"), "alert_told", ["alert"])
    op.create_table(
        "alert_notice",
        _text("id", 40),
        _text("route", 16),
        _text("channel", 16),
        sa.Column("target", sa.JSON(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        _text("state", 16),
        sa.Column("attempts", INTEGER, nullable=False),
        sa.Column("due_at", MOMENT, nullable=True),
        _text("error", 256),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("tried_at", MOMENT, nullable=True),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(
            ["route"], ["alert_route.id"], name=op.f("fk_alert_notice_route"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_notice")),
    )
    op.create_index("ix_alert_notice_due_at", "alert_notice", ["due_at", "channel"])
    op.create_index("ix_alert_notice_route", "alert_notice", ["route", "created_at"])
    op.create_index(op.f("ix_alert_notice_ended_at"), "alert_notice", ["ended_at"])
