"""Rows of uploads: finding one, and what can be said of it without changing anything."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgectl_protocol.chunks import Bitmap, chunk_count, chunk_length, parse_index
from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.messages import Reason
from edgectl_protocol.uploads import INDEX_NUMBER, WANTED_MAX, UploadChunk, UploadOffer
from edgectl_server.storage.tables import DatasetBlobRow, Device, DeviceUpload

__all__ = [
    "adapt_window",
    "bitmap_of",
    "contradiction_in",
    "find_upload",
    "is_online",
    "is_right",
    "stalls_at",
    "unheld",
]

DRAIN_FAST = timedelta(seconds=2)
DRAIN_SLOW = timedelta(seconds=4)
STALL = timedelta(seconds=5)
STALL_MAX = timedelta(seconds=60)


def find_upload(
    session: Session, device: str, digest: str, *, lock: bool = True
) -> DeviceUpload | None:
    """Return what a device has offered under a digest, locked for a change."""
    wanted = select(DeviceUpload).where(
        DeviceUpload.device == device, DeviceUpload.digest == digest
    )
    return session.scalars(wanted.with_for_update() if lock else wanted).one_or_none()


def unheld(session: Session, digests: Collection[str]) -> set[str]:
    """Return which of `digests` neither an upload nor a dataset holds."""
    left = set(digests)
    for column in (DeviceUpload.digest, DeviceUpload.kept_as, DatasetBlobRow.digest):
        left -= set(session.scalars(select(column).where(column.in_(left))))
    return left


def is_online(session: Session, name: str) -> bool:
    """Say whether a device of the fleet is connected."""
    device = session.get(Device, name)
    return device is not None and device.state == "enrolled" and device.online


def stalls_at(row: DeviceUpload) -> datetime:
    """Return when what is wanted is asked for again."""
    assert row.asked_at is not None, "what is received was asked for"
    wait: timedelta = min(STALL_MAX, STALL * 2**row.stalls)
    return row.asked_at + wait


def bitmap_of(row: DeviceUpload) -> Bitmap:
    """Return which chunks have come."""
    return Bitmap(chunk_count(row.length), row.bitmap)


def contradiction_in(offer: UploadOffer, row: DeviceUpload | None) -> Reason | None:
    """Say what in an offer cannot be."""
    if (chunk_count(offer.length) > 1) != (offer.chunk_index is not None):
        detail = f"{offer.length} bytes with the chunk index {offer.chunk_index}"
        return Reason(code="upload.offer", detail=detail)
    if row is None or row.state == "failed":
        return None
    before = (row.kind, row.length, row.chunk_index)
    if before != (offer.kind, offer.length, offer.chunk_index):
        detail = f"{offer.upload} was offered as {row.kind} of {row.length} bytes, "
        detail += f"now as {offer.kind} of {offer.length}"
        return Reason(code="upload.offer", detail=detail)
    return None


def is_right(row: DeviceUpload, chunk: UploadChunk) -> bool:
    """Say whether a chunk is the one that the offer is signed for."""
    if chunk.number == INDEX_NUMBER:
        assert row.chunk_index is not None
        try:
            parse_index(chunk.content, digest=row.chunk_index, length=row.length)
        except MalformedMessage:
            return False
        return True
    expected = bytes.fromhex(row.digest.removeprefix("sha256:"))
    if row.index is not None:
        expected = row.index[chunk.number * len(expected) : (chunk.number + 1) * len(expected)]
    right_length = len(chunk.content) == chunk_length(row.length, chunk.number)
    return right_length and hashlib.sha256(chunk.content).digest() == expected


def adapt_window(row: DeviceUpload, now: datetime) -> None:
    """Change the window by how long the last one took to drain."""
    took = now - (row.asked_at or now)
    if took < DRAIN_FAST:
        row.window = min(WANTED_MAX, row.window * 2)
    elif took > DRAIN_SLOW:
        row.window = max(1, row.window // 2)
