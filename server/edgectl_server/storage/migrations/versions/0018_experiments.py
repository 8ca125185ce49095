"""Of a rollout's devices: which phase is for them, what an experiment has counted, refusals."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018_experiments"
down_revision = "0017_disconnects"
branch_labels = None
depends_on = None


MOMENT = sa.DateTime(timezone=True)
INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Change the tables."""
    for name in ("from_phase", "tested_requests", "tested_wrong"):
        column = sa.Column(name, INTEGER, nullable=False, server_default="0")
        op.add_column("rollout_device", column)
    op.add_column("rollout_device", sa.Column("refused_since", MOMENT, nullable=True))
    op.add_column("rollout", sa.Column("tested_until", MOMENT, nullable=True))
