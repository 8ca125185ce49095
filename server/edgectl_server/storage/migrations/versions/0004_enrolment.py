"""Ways to enrol, groups, renewal."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_enrolment"
down_revision = "0003_reports"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the tables."""
    for table in ("device", "enrol_token"):
        op.add_column(
            table, sa.Column("group", sa.String(length=64), nullable=False, server_default="")
        )
    op.add_column(
        "device", sa.Column("enrolled_by", sa.String(160), nullable=False, server_default="")
    )
    op.add_column("device", sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(op.f("ix_device_group"), "device", ["group"])
    op.create_table(
        "preauthorised",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("public_key_sha256", sa.String(length=64), nullable=False),
        sa.Column("group", sa.String(length=64), nullable=False),
        sa.Column("approved", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_preauthorised")),
    )
    op.create_table(
        "enrol_request",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("public_key_sha256", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("rejected_by", sa.String(length=128), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("device", "public_key_sha256", name=op.f("pk_enrol_request")),
    )
