"""Which device has answered with which digest, hour by hour, of the telemetry that is there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020_answers"
down_revision = "0019_webhooks"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)
HOURS = {
    "sqlite": """strftime('%Y-%m-%d %H:00:00.000000', "end")""",
    "postgresql": """date_trunc('hour', "end")""",
}


def upgrade() -> None:
    """Change the tables, and add up the windows that are kept."""
    op.create_table(
        "answered_hour",
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("hour", MOMENT, nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("slot", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("first", MOMENT, nullable=False),
        sa.Column("last", MOMENT, nullable=False),
        sa.Column("requests", INTEGER, nullable=False),
        sa.Column("errors", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint(
            "manifest", "hour", "device", "slot", name=op.f("pk_answered_hour")
        ),
    )
    op.create_index("ix_answered_hour_slot", "answered_hour", ["slot", "hour"])
    op.create_index("ix_answered_hour_device", "answered_hour", ["device", "hour"])
    op.create_index("ix_answered_hour_hour", "answered_hour", ["hour"])
    hour = HOURS[op.get_bind().dialect.name]
    op.execute(
        "INSERT INTO answered_hour "  # noqa: S608 - of two constants
        "(manifest, hour, device, slot, version, first, last, requests, errors) "
        f"SELECT manifest, {hour}, device, slot, max(version), "
        'min(start), max("end"), sum(requests), sum(errors) '
        f"FROM telemetry_window WHERE requests > 0 GROUP BY manifest, {hour}, device, slot"
    )
