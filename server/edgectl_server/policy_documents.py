"""How a document that people agree on for a model is replaced: whole, by number, on record."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from edgectl_server.audit import describe
from edgectl_server.errors import Conflict
from edgectl_server.storage.tables import LoopPolicyRow, ModelPolicyRow, SamplePolicyRow

__all__ = ["replace_document"]

Row = TypeVar("Row", ModelPolicyRow, SamplePolicyRow, LoopPolicyRow)


def replace_document(
    session: Session,
    table: type[Row],
    model: str,
    document: dict[str, Any],
    *,
    revision: int | None,
    by: tuple[str, datetime],
    named: tuple[str, str],
    shown: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Row:
    """Replace what stands for a model, and return its row with the next revision.

    Args:
        session: that writes.
        table: whose primary key is the model.
        model: its name.
        document: what is to stand.
        revision: what it was made from; None: whatever stands.
        by: who replaces it, and when.
        named: what it is called in a message, and the command that shows it.
        shown: a document as the audit log tells it.

    Raises:
        Conflict: ``policy.changed``: it is not the one any more that the new one is made from.
    """
    what, command = named
    row = session.get(table, model, with_for_update=True)
    found = 0 if row is None else row.revision
    if revision is not None and revision != found:
        raise Conflict(
            "policy.changed",
            f"{what} has the revision {found} by now, and not {revision}",
            hint=f"look at it with `{command}`, then change it again",
            data={"revision": found},
        )
    if row is None:
        row = table(model=model, document={}, revision=0, changed_at=by[1], changed_by=by[0])
        session.add(row)
    describe(before=shown(row.document), after=shown(document))
    row.document, row.revision = document, found + 1
    row.changed_by, row.changed_at = by
    session.flush()
    return row
