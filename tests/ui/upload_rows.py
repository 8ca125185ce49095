"""What a device has uploaded."""

from __future__ import annotations

from datetime import datetime, timedelta

from edgectl_protocol.chunks import Bitmap, chunk_count
from edgectl_protocol.names import digest_of
from edgectl_server.storage.tables import DeviceUpload


def upload_rows(device: str, markup: str, now: datetime) -> list[DeviceUpload]:
    """Logs of a device: whole, and given up. What is under way would be moved on by the server."""
    stalled = {"code": "upload.stalled", "detail": f"asked 8 times {markup}"}
    return [
        DeviceUpload(
            device=device,
            digest=digest_of(f"logs {number}".encode()),
            kind="logs",
            media_type="application/x-ndjson+gzip",
            length=length,
            chunk_index=None,
            index=None,
            state=state,
            bitmap=Bitmap(chunk_count(length)).to_bytes(),
            asked=[],
            asked_at=None,
            window=1,
            stalls=0,
            refusals=0,
            job="",
            made_at=now,
            created_at=now - timedelta(minutes=number),
            began_at=None,
            moved_at=now,
            ended_at=now,
            expires_at=now + timedelta(days=14),
            reason=reason,
        )
        for number, (state, length, reason) in enumerate(
            [("complete", 48_000, None), ("failed", 1000, stalled)]
        )
    ]
