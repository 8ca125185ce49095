"""Which numbered messages of devices have come, and which are missing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029_message_receipts"
down_revision = "0028_accuracy"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)
_TOLD = ("telemetry_window", "system_sample", "device_event")


def upgrade() -> None:
    """Change the tables; what came before is taken to have come without a gap: nobody counted."""
    receipts = op.create_table(
        "message_receipt",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("boot", _INTEGER, autoincrement=False, nullable=False),
        sa.Column("last", _INTEGER, nullable=False),
        sa.Column("received", _INTEGER, nullable=False),
        sa.Column("duplicates", _INTEGER, nullable=False),
        sa.Column("forgotten", _INTEGER, nullable=False),
        sa.Column("gaps", sa.JSON(), nullable=False),
        sa.Column("first_at", _TIME, nullable=False),
        sa.Column("last_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("device", "boot", name=op.f("pk_message_receipt")),
    )
    op.create_index(op.f("ix_message_receipt_last_at"), "message_receipt", ["last_at"])
    columns = [sa.column(name) for name in ("device", "boot", "seq", "received_at")]
    told = sa.union_all(
        *(sa.select(*columns).select_from(sa.table(one)) for one in _TOLD)
    ).subquery()
    last, at = sa.func.max(told.c.seq), told.c.received_at
    known = sa.select(
        *(told.c.device, told.c.boot, last, last, sa.literal(0), sa.literal(0)),
        *(sa.literal([], sa.JSON()), sa.func.min(at), sa.func.max(at)),
    ).group_by(told.c.device, told.c.boot)
    op.execute(receipts.insert().from_select([one.name for one in receipts.columns], known))
