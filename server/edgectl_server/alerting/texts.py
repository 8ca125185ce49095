"""What is told of alerts: one document for machines, and the same as plain text for people.

What devices and people have written is text and nothing else: line ends in it would forge lines of
a message, so they are replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from edgectl_server.storage.tables import AlertRow

__all__ = ["ALERTS_SHOWN_MAX", "TEST", "document", "event_of", "mail_text"]

ALERTS_SHOWN_MAX = 20
"""In one message; the others are counted."""
TEST = "alert.test"
_TITLES = {"began": "began", "again": "lasts still", "ended": "ended"}


def document(
    route: str, began: Sequence[AlertRow], again: Sequence[AlertRow], ended: Sequence[AlertRow]
) -> dict[str, Any]:
    """Return what one message says.

    Args:
        route: its name.
        began: alerts that have begun, or have grown more severe.
        again: that last still.
        ended: that have ended.
    """
    left = ALERTS_SHOWN_MAX
    said: dict[str, Any] = {"route": route, "counts": {}}
    for name, rows in (("began", began), ("again", again), ("ended", ended)):
        said[name] = [_alert(row) for row in rows[:left]]
        said["counts"][name] = len(rows)
        left -= len(said[name])
    return said


def event_of(said: Mapping[str, Any]) -> str:
    """Return the type of a message: what is most urgent in it."""
    counts = said["counts"]
    if not any(counts.values()):
        return TEST
    return next(f"alert.{name}" for name in ("began", "again", "ended") if counts[name])


def mail_text(said: Mapping[str, Any]) -> tuple[str, str]:
    """Return subject and body of a mail."""
    counts = said["counts"]
    told = [f"{counts[name]} {_TITLES[name]}" for name in _TITLES if counts[name]]
    lines: list[str] = []
    for name, title in _TITLES.items():
        for one in said[name]:
            lines.append(f"[{one['severity']}] {one['summary']}  ({title})")
            about = (
                f"{key}: {one[key]}" for key in ("kind", "model", "site", "device") if one[key]
            )
            lines += [f"    {', '.join(about)}", f"    since {one['opened_at']}, id {one['id']}"]
            if one["hint"] and name != "ended":
                lines.append(f"    try: {one['hint']}")
            lines.append("")
        if counts[name] > len(said[name]):
            lines += [f"… and {counts[name] - len(said[name])} more ({title})", ""]
    first = [one for name in _TITLES for one in said[name]]
    subject = f"edgectl: {', '.join(told) or 'this is a test'}"
    if len(first) == 1 and sum(counts.values()) == 1:
        subject = f"edgectl: {first[0]['severity']}: {first[0]['summary']} ({told[0].split()[-1]})"
    lines.append(f"Told by the route {said['route']}; `edgectl alerts list` shows what lasts.")
    return _line(subject)[:200], "\n".join(_line(one) for one in lines) + "\n"


def _alert(row: AlertRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "kind": row.kind,
        "subject": row.subject,
        "severity": row.severity,
        "state": row.state,
        "summary": row.summary,
        "hint": row.hint,
        "model": row.model,
        "site": row.site,
        "device": row.device,
        "owner": row.owner,
        "opened_at": _time(row.opened_at),
        "resolved_at": None if row.resolved_at is None else _time(row.resolved_at),
    }


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _line(text: str) -> str:
    return "".join(one if one.isprintable() else "\ufffd" for one in text)
