"""Who waits at the door of the server that the page's tests look at."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from edgectl_server.storage.tables import EnrolRequestRow, EnrolToken, Preauthorised

__all__ = ["enrolment_rows"]


def enrolment_rows(now: datetime) -> list[Any]:
    """Return a device that asks, one that was rejected, one on the list, and a token."""
    return [
        EnrolRequestRow(
            device="pi-waits",
            public_key_sha256="8f2a" * 16,
            source="2001:db8:85a3::/64",
            rejected_by="",
            first_at=now - timedelta(minutes=4),
            last_at=now + timedelta(days=1),  # it goes on asking while the tests run
        ),
        EnrolRequestRow(
            device="pi-rejected",
            public_key_sha256="07c1" * 16,
            source="192.0.2.7",
            rejected_by="operator",
            first_at=now - timedelta(hours=2),
            last_at=now - timedelta(hours=2),
        ),
        Preauthorised(
            device="pi-expected",
            public_key_sha256="5bd3" * 16,
            group="site-porto",
            approved=False,
            created_at=now - timedelta(days=3),
            created_by="operator",
        ),
        EnrolToken(
            id="00c0ffee00c0ffee",
            key="0" * 64,
            group="site-lyon",
            uses_left=12,
            expires_at=now + timedelta(days=1),
            created_at=now - timedelta(hours=1),
            created_by="operator",
        ),
    ]
