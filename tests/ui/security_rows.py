"""Security events as the device and the server would have stored them."""

from datetime import datetime, timedelta

from edgectl_server.storage.tables import Base, SecurityEventRow

MARKUP = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
EVENTS = [
    ("device", "order.replayed", f"number 3, 7 was accepted before {MARKUP}", 41, 3),
    ("device", "transfer.chunk_altered", f"chunk 3 of sha256:{'4f' * 32} came altered", 1, None),
    ("server", "report.signature", "state: altered or forged", 2200, None),
]  # fmt: skip
"""Source, code, detail, count, order."""


def security_events(name: str, now: datetime) -> list[Base]:
    """Some of this day and one of last month."""
    ago = [timedelta(minutes=3), timedelta(hours=2), timedelta(days=30)]
    return [
        SecurityEventRow(
            device=name,
            key=f"{number}",
            source=source,
            at=now - before,
            until=now - before,
            received_at=now - before,
            code=code,
            detail=detail,
            count=count,
            order=order,
        )
        for number, ((source, code, detail, count, order), before) in enumerate(
            zip(EVENTS, ago, strict=True)
        )
    ]
