"""Alerts as rows, what has happened to them, and silences."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026_alerts"
down_revision = "0024_samples"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def _text(name: str, length: int, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length), nullable=nullable)


def upgrade() -> None:
    """Change the tables."""
    op.create_table(
        "alert",
        _text("id", 16),
        _text("held", 64, nullable=True),
        _text("kind", 64),
        _text("subject", 256),
        _text("severity", 16),
        _text("state", 16),
        _text("summary", 1024),
        _text("hint", 1024),
        _text("model", 64),
        _text("site", 128),
        _text("device", 64),
        sa.Column("clear_after_s", INTEGER, nullable=False),
        _text("owner", 128),
        sa.Column("opened_at", MOMENT, nullable=False),
        sa.Column("seen_at", MOMENT, nullable=False),
        sa.Column("absent_since", MOMENT, nullable=True),
        sa.Column("acknowledged_at", MOMENT, nullable=True),
        _text("acknowledged_by", 128),
        sa.Column("resolved_at", MOMENT, nullable=True),
        _text("resolved_by", 128),
        sa.Column("revision", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert")),
        sa.UniqueConstraint("held", name=op.f("uq_alert_held")),
    )
    op.create_index("ix_alert_state", "alert", ["state", "severity"])
    op.create_index("ix_alert_opened_at", "alert", ["opened_at", "id"])
    op.create_index(op.f("ix_alert_resolved_at"), "alert", ["resolved_at"])
    op.create_table(
        "alert_event",
        _text("alert", 16),
        sa.Column("revision", INTEGER, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        _text("actor", 128),
        _text("kind", 32),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["alert"], ["alert.id"], name=op.f("fk_alert_event_alert"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("alert", "revision", name=op.f("pk_alert_event")),
    )
    op.create_index(op.f("ix_alert_event_at"), "alert_event", ["at"])
    op.create_table(
        "alert_silence",
        _text("id", 16),
        _text("kind", 64),
        _text("model", 64),
        _text("site", 128),
        _text("subject", 256),
        sa.Column("until", MOMENT, nullable=False),
        _text("reason", 1024),
        sa.Column("created_at", MOMENT, nullable=False),
        _text("created_by", 128),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_silence")),
    )
    op.create_index(op.f("ix_alert_silence_until"), "alert_silence", ["until"])
    turn = op.create_table(
        "alert_turn",
        sa.Column("id", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_turn")),
    )
    op.bulk_insert(turn, [{"id": 1}])
