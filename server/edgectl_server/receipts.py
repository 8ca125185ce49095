"""Which messages of a device have come: written with each batch, shown with what else is odd.

Rules:

1. A receipt is written in the transaction that stores its message, while the device's row is
   locked: a message is counted where it is stored, and once.
2. Of each device the newest `BOOTS_MAX` starts are kept, whatever numbers it claims; all of them no
   longer than telemetry.
3. What is lost is what the device says: the oldest message that waits in its spool, in its newest
   health sample.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from edgectl_server.domain.data_quality import CLOCK_S
from edgectl_server.domain.receipts import Gap, Receipt, note, state_of
from edgectl_server.fleet import find_device
from edgectl_server.schemas import BootReceipt, ClockJump, DeviceReceipts, MissingMessages
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    FeatureWindowRow,
    MessageReceiptRow,
    SystemSampleRow,
    TelemetryWindow,
)

__all__ = ["BOOTS_MAX", "Receipts"]

BOOTS_MAX = 8
JUMPS_MAX = 100


class Receipts:
    """Writes and shows. Its methods may be called from any thread."""

    def __init__(
        self, *, database: Database, retention_days: int, now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._retention = timedelta(days=retention_days)
        self._now = now

    def take(self, session: Session, messages: Iterable[tuple[str, int, int]]) -> None:
        """Note messages, in the caller's transaction, which has locked their devices' rows.

        Args:
            session: in which they are stored.
            messages: device, boot and number of each, in the order in which they came.
        """
        numbers: dict[tuple[str, int], list[int]] = defaultdict(list)
        for device, boot, seq in messages:
            numbers[device, boot].append(seq)
        if not numbers:
            return
        now = self._now()
        rows = {(row.device, row.boot): row for row in session.scalars(_rows_of(numbers))}
        for (device, boot), seqs in sorted(numbers.items(), key=lambda one: one[0] not in rows):
            row = rows.get((device, boot))  # what is new comes last, and may push out an old one
            receipt = Receipt() if row is None else _receipt(row)
            for seq in seqs:
                receipt = note(receipt, seq, now)
            if row is None:
                self._forget_boots(session, device)
                row = MessageReceiptRow(device=device, boot=boot, first_at=now)
                session.add(row)
            row.last, row.received, row.last_at = receipt.last, receipt.received, now
            row.duplicates, row.forgotten = receipt.duplicates, receipt.forgotten
            gaps = [_told(one) for one in receipt.gaps]
            if row.gaps != gaps:
                row.gaps = gaps

    def show(self, name: str) -> DeviceReceipts:
        """Return what has come of a device and what is missing.

        Raises:
            NotFound: ``device.unknown``.
        """
        with self._database.read() as session:
            find_device(session, name)
            sample: dict[str, Any] = (
                session.scalar(
                    select(SystemSampleRow.sample)
                    .where(SystemSampleRow.device == name)
                    .order_by(SystemSampleRow.boot.desc(), SystemSampleRow.seq.desc())
                    .limit(1)
                )
                or {}
            )
            rows = session.scalars(
                select(MessageReceiptRow)
                .where(MessageReceiptRow.device == name)
                .order_by(MessageReceiptRow.boot.desc())
            ).all()
            said = "waits_seq" in sample
            waits = (sample.get("waits_boot", 0), sample["waits_seq"]) if said else None
            jumps = session.execute(
                select(FeatureWindowRow.end, FeatureWindowRow.slot, FeatureWindowRow.clock_shift_s)
                .where(
                    FeatureWindowRow.device == name,
                    or_(
                        FeatureWindowRow.clock_shift_s >= CLOCK_S,
                        FeatureWindowRow.clock_shift_s <= -CLOCK_S,
                    ),
                )
                .order_by(FeatureWindowRow.received_at.desc())
                .limit(JUMPS_MAX)
            ).all()
            return DeviceReceipts(
                device=name,
                windows=_count(session, TelemetryWindow, name),
                feature_windows=_count(session, FeatureWindowRow, name),
                dropped=sample.get("dropped", 0),
                boots=[_shown(row, waits) for row in rows],
                clock_jumps=[
                    ClockJump(at=end, model=slot, seconds=seconds) for end, slot, seconds in jumps
                ],
            )

    def delete_old(self) -> None:
        """Forget starts of agents that were not heard of for long."""
        before = self._now() - self._retention
        with self._database.write() as session:
            session.execute(delete(MessageReceiptRow).where(MessageReceiptRow.last_at < before))

    def _forget_boots(self, session: Session, device: str) -> None:
        """Make room for another start of a device's agent: the oldest one goes."""
        session.flush()
        kept = session.scalars(
            select(MessageReceiptRow.boot)
            .where(MessageReceiptRow.device == device)
            .order_by(MessageReceiptRow.last_at.desc(), MessageReceiptRow.boot.desc())
        ).all()
        for old in kept[BOOTS_MAX - 1 :]:
            session.execute(
                delete(MessageReceiptRow).where(
                    MessageReceiptRow.device == device, MessageReceiptRow.boot == old
                )
            )


def _rows_of(numbers: Iterable[tuple[str, int]]) -> Any:
    """Return the query for the rows of these devices and boots, and perhaps some more."""
    devices, boots = zip(*numbers, strict=True)
    return select(MessageReceiptRow).where(
        MessageReceiptRow.device.in_(set(devices)), MessageReceiptRow.boot.in_(set(boots))
    )


def _receipt(row: MessageReceiptRow) -> Receipt:
    return Receipt(
        last=row.last,
        received=row.received,
        duplicates=row.duplicates,
        forgotten=row.forgotten,
        gaps=tuple(Gap(first, last, datetime.fromisoformat(at)) for first, last, at in row.gaps),
    )


def _told(gap: Gap) -> list[Any]:
    return [gap.first, gap.last, gap.noticed_at.isoformat()]


def _shown(row: MessageReceiptRow, waits: tuple[int, int] | None) -> BootReceipt:
    receipt = _receipt(row)
    return BootReceipt(
        boot=row.boot,
        first_at=row.first_at,
        last_at=row.last_at,
        last=receipt.last,
        received=receipt.received,
        duplicates=receipt.duplicates,
        forgotten=receipt.forgotten,
        gaps=[
            MissingMessages(
                first=gap.first,
                last=gap.last,
                noticed_at=gap.noticed_at,
                state=state_of(row.boot, gap, waits),
            )
            for gap in receipt.gaps
        ],
    )


def _count(session: Session, table: type[TelemetryWindow | FeatureWindowRow], name: str) -> int:
    count = select(func.count()).select_from(table).where(table.device == name)
    return session.scalar(count) or 0
