"""Samples that are sealed, to which key, and what an upload is kept as."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0035_sealed_samples"
down_revision = "0033_loops"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Change the tables."""
    op.create_table(
        "sample_key",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("public", sa.String(length=44), nullable=False),
        sa.Column("holder", sa.String(length=16), nullable=False),
        sa.Column("secret", sa.Text(), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sample_key")),
    )
    op.add_column(
        "sample", sa.Column("key", sa.String(length=16), nullable=False, server_default="")
    )
    for name in ("sealed", "redacted"):
        op.add_column(
            "sample", sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false())
        )
    op.add_column("upload", sa.Column("kept_as", sa.String(length=71), nullable=True))
    op.add_column("upload", sa.Column("sealed_to", sa.String(length=16), nullable=True))
    op.create_index("ix_upload_kept_as", "upload", ["kept_as"])
