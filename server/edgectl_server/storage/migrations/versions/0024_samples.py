"""Samples of inputs and answers, and what of them may leave devices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024_samples"
down_revision = "0023_drift"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Change the tables."""
    op.add_column(
        "upload", sa.Column("model", sa.String(length=64), nullable=False, server_default="")
    )
    op.create_table(
        "sample",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("upload", _INTEGER, nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("taken_at", _TIME, nullable=False),
        sa.Column("received_at", _TIME, nullable=False),
        sa.Column("length", _INTEGER, nullable=False),
        sa.Column("tensors", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["upload"], ["upload.id"], name=op.f("fk_sample_upload"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sample")),
        sa.UniqueConstraint("upload", name=op.f("uq_sample_upload")),
    )
    op.create_index("ix_sample_model", "sample", ["model", "taken_at"])
    op.create_index("ix_sample_device", "sample", ["device", "taken_at"])
    op.create_index(op.f("ix_sample_received_at"), "sample", ["received_at"])
    op.create_table(
        "sample_policy",
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("revision", _INTEGER, nullable=False),
        sa.Column("changed_at", _TIME, nullable=False),
        sa.Column("changed_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_sample_policy")),
    )
