"""Datasets, and which blobs they hold."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0031_datasets"
down_revision = "0030_annotations"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Change the tables."""
    op.create_table(
        "dataset",
        sa.Column("id", sa.String(length=71), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("parent", sa.String(length=71)),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("rows", _INTEGER, nullable=False),
        sa.Column("bytes", _INTEGER, nullable=False),
        sa.Column("rows_blob", sa.String(length=71), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset")),
        sa.UniqueConstraint("name", name=op.f("uq_dataset_name")),
    )
    op.create_index("ix_dataset_model", "dataset", ["model", "created_at"])
    op.create_table(
        "dataset_blob",
        sa.Column("dataset", sa.String(length=71), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("length", _INTEGER, nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset"], ["dataset.id"], name=op.f("fk_dataset_blob_dataset"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("dataset", "digest", name=op.f("pk_dataset_blob")),
    )
    op.create_index("ix_dataset_blob_digest", "dataset_blob", ["digest"])
