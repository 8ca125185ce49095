"""Requests to one device, whatever they ask for: numbered, and worth nothing late.

The number of a request only grows for a device. It grows with the clock, so that a server that was
restored from a backup goes on above what it had issued.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy.orm import Session

from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device, Job

__all__ = ["ANSWER_WITHIN", "BEGIN_WITHIN", "next_request", "send_queued"]

R = TypeVar("R")

BEGIN_WITHIN = timedelta(minutes=2)
"""A request that was not begun by then is worthless."""
ANSWER_WITHIN = BEGIN_WITHIN + timedelta(seconds=30)
"""Its acceptance may be under way for a moment."""


def next_request(device: Device, now: datetime) -> tuple[int, str]:
    """Count a request in the device's row, and return its number and its nonce."""
    device.request_counter = max(device.request_counter + 1, int(now.timestamp() * 1000))
    return device.request_counter, secrets.token_hex(16)


def send_queued(
    database: Database,
    jobs: Iterable[str],
    make: Callable[[Session, Job], R | None],
    send: Callable[[R], None],
) -> None:
    """Send the requests of those jobs that still wait, each once it is counted as sent.

    Args:
        database: each job is written in a transaction of its own.
        jobs: their numbers.
        make: counts a job as sent and returns its request; None where it cannot be asked any more.
        send: signs and publishes a request; whatever it raises ends the rest.
    """
    for job_id in jobs:
        with database.write() as session:
            job = session.get(Job, job_id, with_for_update=True)
            if job is None or job.state != "queued":
                continue
            request = make(session, job)
        if request is not None:
            send(request)
