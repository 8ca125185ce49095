"""Users may be disabled; proofs that somebody is still the owner of a login."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0038_user_changes"
down_revision = "0037_rests"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Change the tables."""
    op.add_column("user_account", sa.Column("disabled_at", _TIME, nullable=True))
    op.add_column("login_session", sa.Column("authenticated_at", _TIME, nullable=True))
    op.create_table(
        "login_proof",
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("user", sa.String(length=64), nullable=False),
        sa.Column("via", sa.String(length=64), nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["user"], ["user_account.name"], name=op.f("fk_login_proof_user"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("secret_sha256", name=op.f("pk_login_proof")),
    )
    op.create_index(op.f("ix_login_proof_user"), "login_proof", ["user"])
