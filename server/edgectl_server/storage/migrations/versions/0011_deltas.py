"""Deltas between bundles, and what fetching has cost the devices of a rollout."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011_deltas"
down_revision = "0010_uploads"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Change the tables."""
    op.create_table(
        "delta",
        sa.Column("id", INTEGER, autoincrement=True, nullable=False),
        sa.Column("version_id", INTEGER, nullable=False),
        sa.Column("variant", sa.String(length=64), nullable=False),
        sa.Column("base_version", sa.String(length=64), nullable=False),
        sa.Column("base_manifest", sa.String(length=71), nullable=False),
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("base", sa.String(length=71), nullable=True),
        sa.Column("target", sa.String(length=71), nullable=True),
        sa.Column("target_bytes", INTEGER, nullable=False),
        sa.Column("shared_bytes", INTEGER, nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=True),
        sa.Column("bytes", INTEGER, nullable=True),
        sa.Column("chunk_index", sa.String(length=71), nullable=True),
        sa.Column("codec", sa.String(length=16), nullable=True),
        sa.Column("reason", sa.JSON(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_version.id"], name=op.f("fk_delta_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delta")),
        sa.UniqueConstraint("base_manifest", "manifest", name=op.f("uq_delta_base_manifest")),
    )
    op.create_index("ix_delta_version_id", "delta", ["version_id", "state"])
    op.create_index(op.f("ix_delta_digest"), "delta", ["digest"])
    op.create_index(op.f("ix_delta_chunk_index"), "delta", ["chunk_index"])
    for column in ("whole_bytes", "predicted_bytes", "fetched_bytes"):
        op.add_column("rollout_device", sa.Column(column, INTEGER, nullable=True))
