"""All checks, in the order in which a person would look."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from edgectl_server.checkup.findings import Finding, look
from edgectl_server.checkup.local import (
    check_clock,
    check_data,
    check_disk,
    check_keys,
    check_ports,
)
from edgectl_server.checkup.remote import check_blobs, check_broker, check_database
from edgectl_server.settings import Settings

__all__ = ["check_everything"]


def check_everything(
    settings: Settings, now: datetime, tell: Callable[[Finding], None] = lambda _: None
) -> list[Finding]:
    """Do every check, one after the other, whatever the ones before have found.

    Args:
        settings: valid; whoever has read them has checked them.
        now: the time.
        tell: called with each finding as soon as it is known.
    """
    checks = (
        ("data", lambda: check_data(settings)),
        ("disk", lambda: check_disk(settings)),
        ("clock", lambda: check_clock(settings, now)),
        ("database", lambda: check_database(settings)),
        ("blobs", lambda: check_blobs(settings)),
        ("keys", lambda: check_keys(settings, now)),
        ("broker", lambda: check_broker(settings)),
        ("ports", lambda: check_ports(settings)),
    )
    found = []
    for name, check in checks:
        for finding in look(name, check):
            tell(finding)
            found.append(finding)
    return found
