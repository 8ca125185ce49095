"""Deltas of the rest of a bundle: manifest, description, golden data, what is watched."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0037_rests"
down_revision = "0036_tracked_retrainings"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Change the tables."""
    for column in (
        sa.Column("rest_target", sa.String(71)),
        sa.Column("rest_target_bytes", _BIG, nullable=False, server_default="0"),
        sa.Column("rest_digest", sa.String(71)),
        sa.Column("rest_bytes", _BIG),
        sa.Column("rest_chunk_index", sa.String(71)),
    ):
        op.add_column("delta", column)
    op.create_index("ix_delta_rest_digest", "delta", ["rest_digest"])
    op.create_index("ix_delta_rest_chunk_index", "delta", ["rest_chunk_index"])
