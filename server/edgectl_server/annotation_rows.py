"""Rows of annotations, and what they make of their sample; in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgectl_server.domain.agreement import Vote, consensus_of
from edgectl_server.storage.tables import AnnotationRow, SampleRow

__all__ = ["annotations_of", "keep_vote", "remove_vote"]


def annotations_of(session: Session, sample: str) -> Sequence[AnnotationRow]:
    """Return what is said of a sample, the oldest first."""
    wanted = select(AnnotationRow).where(AnnotationRow.sample == sample)
    return session.scalars(wanted.order_by(AnnotationRow.id)).all()


def keep_vote(
    session: Session,
    row: SampleRow,
    vote: Vote,
    entered_by: str,
    at: datetime,
    *,
    check: bool = False,
) -> bool:
    """Note a vote and what follows from it; say whether that changes anything.

    Args:
        session: that writes.
        row: the sample, locked.
        vote: what is said of it.
        entered_by: who has brought it.
        at: when.
        check: only say it.
    """
    found = _existing(session, row, vote.source, vote.labeller)
    if found is not None and (found.label, found.number) == (vote.label, vote.number):
        return False
    if check:
        return True
    if found is None:
        found = AnnotationRow(sample=row.id, source=vote.source, labeller=vote.labeller)
        session.add(found)
    found.label, found.number = vote.label, vote.number
    found.made_at, found.entered_by = at, entered_by
    session.flush()
    _settle(session, row)
    return True


def remove_vote(session: Session, row: SampleRow, source: str, labeller: str) -> None:
    """Take back what one labeller has said; nothing is no error."""
    found = _existing(session, row, source, labeller)
    if found is not None:
        session.delete(found)
        session.flush()
        _settle(session, row)


def _existing(session: Session, row: SampleRow, source: str, labeller: str) -> AnnotationRow | None:
    wanted = select(AnnotationRow).where(
        AnnotationRow.sample == row.id,
        AnnotationRow.source == source,
        AnnotationRow.labeller == labeller,
    )
    return session.scalars(wanted).one_or_none()


def _settle(session: Session, row: SampleRow) -> None:
    """Write to a sample what all that is said of it amounts to."""
    votes = [
        Vote(one.source, one.labeller, one.label, one.number)
        for one in annotations_of(session, row.id)
    ]
    row.label_state, row.label, row.label_number = consensus_of(votes)
