"""Classes of devices, what was measured on them, and the choice that follows from it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009_measurements"
down_revision = "0008_policies"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Change the tables."""
    op.add_column(
        "device",
        sa.Column("device_class", sa.String(length=64), nullable=False, server_default=""),
    )
    op.add_column(
        "device", sa.Column("request_counter", INTEGER, nullable=False, server_default="0")
    )
    op.create_index(op.f("ix_device_device_class"), "device", ["device_class"])
    op.add_column("desired_slot", sa.Column("ranking", sa.JSON(), nullable=True))
    op.create_table(
        "measurement",
        sa.Column("id", INTEGER, autoincrement=True, nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("boot", INTEGER, nullable=False),
        sa.Column("seq", INTEGER, nullable=False),
        sa.Column("version_id", INTEGER, nullable=False),
        sa.Column("variant", sa.String(length=64), nullable=False),
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("device_class", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("load_ms", sa.Double(), nullable=True),
        sa.Column("latency_p50_us", sa.Double(), nullable=True),
        sa.Column("latency_p95_us", sa.Double(), nullable=True),
        sa.Column("rss_bytes", INTEGER, nullable=True),
        sa.Column("golden_passed", INTEGER, nullable=True),
        sa.Column("golden_total", INTEGER, nullable=True),
        sa.Column("max_abs_diff", sa.Double(), nullable=True),
        sa.Column("runs", INTEGER, nullable=True),
        sa.Column("threads", INTEGER, nullable=True),
        sa.Column("runtime", sa.String(length=64), nullable=False),
        sa.Column("cpu_model", sa.String(length=128), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_measurement_device"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_version.id"], name=op.f("fk_measurement_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measurement")),
        sa.UniqueConstraint("device", "boot", "seq", name=op.f("uq_measurement_device")),
    )
    op.create_index("ix_measurement_manifest", "measurement", ["manifest", "device_class", "id"])
    op.create_index(op.f("ix_measurement_version_id"), "measurement", ["version_id"])
