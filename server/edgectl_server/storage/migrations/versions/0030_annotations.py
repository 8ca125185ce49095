"""What people, imports and the field say of samples."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030_annotations"
down_revision = "0029_message_receipts"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Change the tables."""
    for column in (
        sa.Column("request", sa.String(length=64)),
        sa.Column("answer", _INTEGER, nullable=False, server_default="-1"),
        sa.Column("confidence", sa.Double()),
        sa.Column("label_state", sa.String(length=16), nullable=False, server_default=""),
        sa.Column("label", sa.String(length=256)),
        sa.Column("label_number", _INTEGER, nullable=False, server_default="-1"),
    ):
        op.add_column("sample", column)
    op.create_index("ix_sample_request", "sample", ["device", "request"])
    op.create_index("ix_sample_label", "sample", ["model", "label_state", "confidence"])
    op.create_table(
        "annotation",
        sa.Column("id", _INTEGER, autoincrement=True, nullable=False),
        sa.Column("sample", sa.String(length=16), nullable=False),
        sa.Column("source", sa.String(length=8), nullable=False),
        sa.Column("labeller", sa.String(length=128), nullable=False),
        sa.Column("label", sa.String(length=256)),
        sa.Column("number", _INTEGER, nullable=False),
        sa.Column("made_at", _TIME, nullable=False),
        sa.Column("entered_by", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(
            ["sample"], ["sample.id"], name=op.f("fk_annotation_sample"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_annotation")),
        sa.UniqueConstraint("sample", "source", "labeller", name=op.f("uq_annotation_sample")),
    )
    op.create_index("ix_annotation_labeller", "annotation", ["labeller", "made_at"])
    op.create_table(
        "outcome",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("request", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=256), nullable=False),
        sa.Column("received_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_outcome_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device", "model", "request", name=op.f("pk_outcome")),
    )
    op.create_index(op.f("ix_outcome_received_at"), "outcome", ["received_at"])
