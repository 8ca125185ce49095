"""Labels joined with the answers that they are about: real accuracy, in stretches of time.

A sample keeps the class that the model has said, its label is what its labellers agree on. Those
without agreement, or whose labellers cannot tell, are no ground truth and are left out. Times are
the device's, as those of the estimates beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from edgectl_server.device_filter import site_column
from edgectl_server.domain.true_accuracy import LabelledAnswer, TrueAccuracy, true_accuracy
from edgectl_server.storage.tables import Device, SampleRow

__all__ = ["read_true_accuracy"]

ANSWERS_MAX = 100_000
"""Labelled samples of one group that are read, the newest first."""


def read_true_accuracy(
    session: Session,
    manifest: str,
    place: tuple[str, str],
    ends: Sequence[datetime],
    period: timedelta,
) -> tuple[TrueAccuracy, list[TrueAccuracy]]:
    """Return the accuracy of all labelled samples of a group, and of each stretch.

    Args:
        session: open.
        manifest: of the bundle that answered.
        place: level and group, as of an estimate.
        ends: of the stretches.
        period: length of each.
    """
    wanted: list[ColumnElement[bool]] = [
        SampleRow.manifest == manifest,
        SampleRow.label_state == "labelled",
        SampleRow.label_number >= 0,
        SampleRow.answer >= 0,
    ]
    level, group = place
    if level == "device":
        wanted.append(SampleRow.device == group)
    elif level == "site":
        wanted.append(site_column() == group)
    rows = session.execute(
        select(SampleRow.taken_at, SampleRow.reason, SampleRow.answer, SampleRow.label_number)
        .outerjoin(Device, Device.id == SampleRow.device)
        .where(*wanted)
        .order_by(SampleRow.taken_at.desc())
        .limit(ANSWERS_MAX)
    ).all()
    answers = [(at, LabelledAnswer(reason, answer, label)) for at, reason, answer, label in rows]
    stretches = [
        true_accuracy(one for at, one in answers if end - period < at <= end) for end in ends
    ]
    return true_accuracy(one for _, one in answers), stretches
