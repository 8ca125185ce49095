"""Alembic's entry: the connection comes from `edgectl_server.storage.database`."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import BigInteger

from edgectl_server.storage.tables import Base, UtcDateTime


def render_item(
    kind: str,
    item: Any,
    autogen: AutogenContext,  # noqa: ARG001  # Alembic's signature
) -> str | Literal[False]:
    """Write our own column types as the plain types beneath, so that migrations stand alone."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, BigInteger):
        return "INTEGER"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    render_item=render_item,
    compare_type=True,
    transactional_ddl=False,  # one transaction is open already, and it is committed by its owner
)
context.run_migrations()
