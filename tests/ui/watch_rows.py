"""What devices have counted, judged by the server's own watch; and what they have sent as it was.

Porto's third channel moves three hours ago, a sensor in Lyon is stuck, and a week is said to be
usual of which nothing was counted, so that the reference decides alone.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np

from edgectl_protocol.names import digest_of
from edgectl_protocol.watching import Feature, Reference
from edgectl_server.drift_watch import DriftWatch, Stretch
from edgectl_server.features import Counts
from edgectl_server.references import References
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import FeatureHourRow, FeatureWindowRow, UsualDaysRow

__all__ = ["DRIFTED", "MOVED", "STUCK", "USUAL_DAYS", "reference", "watch"]

MOVED = "window.2.deviation"
DRIFTED = "porto"
STUCK = "pi-lyon-01"
EDGES = tuple(round(-1.5 + 0.25 * step, 2) for step in range(13))
NAMES = (
    "confidence",
    "margin",
    "window.0.mean",
    "window.0.deviation",
    "window.1.deviation",
    MOVED,
    "window.clipped",
)
ROWS = 200
WINDOW = timedelta(minutes=20)
HOURS_OF_WINDOWS = 4
HOURS_OF_SUMS = 20
USUAL_DAYS, USUAL_BEFORE = 7, 5
"""How many days are usual, and how many are between them and today."""
_PERIOD_S = 3600
_ROWS_OF_REFERENCE = 6000


def _bins(values: np.ndarray[Any, Any]) -> tuple[int, ...]:
    counts = np.bincount(np.searchsorted(EDGES, values, "right"), minlength=len(EDGES) + 1)
    return tuple(counts.tolist())


def reference() -> Reference:
    """Return the reference of har 3: seven normal features, six classes."""
    random = np.random.default_rng(0)
    return Reference(
        definition=1,
        source="evaluation",
        dataset=digest_of(b"evaluation"),
        rows=_ROWS_OF_REFERENCE,
        inputs=(),
        features=tuple(
            Feature(
                name=name,
                edges=EDGES,
                counts=_bins(random.normal(size=_ROWS_OF_REFERENCE)),
                low=-4.2,
                high=4.2,
            )
            for name in NAMES
        ),
        classes=(1000,) * 6,
    )


def watch(
    database: Database, blobs: BlobStore, now: datetime, *, manifest: str, devices: list[str]
) -> None:
    """Write what was counted of a bundle, and have it judged hour by hour."""
    random = np.random.default_rng(1)
    clock = [now]
    stretch = Stretch(_PERIOD_S)
    last = stretch.last_end(now)
    judge = DriftWatch(
        database=database,
        references=References(blobs),
        stretch=stretch,
        retention_days=30,
        now=lambda: clock[0],
    )
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    with database.write() as session:
        session.add(
            UsualDaysRow(
                model="har",
                since=today - timedelta(days=USUAL_BEFORE + USUAL_DAYS),
                until=today - timedelta(days=USUAL_BEFORE),
                set_at=now - timedelta(days=1),
                set_by="operator",
            )
        )
        for hour in range(HOURS_OF_WINDOWS, HOURS_OF_WINDOWS + HOURS_OF_SUMS):
            begin = last - timedelta(hours=hour + 1)
            session.add_all(_hour(random, manifest, name, begin) for name in devices)
    seq = 0
    for hour in range(HOURS_OF_WINDOWS, 0, -1):
        begin = last - timedelta(hours=hour)
        with database.write() as session:
            for step in range(3):
                for name in devices:
                    seq += 1
                    moved = hour <= 3 and DRIFTED in name
                    row = _window(random, manifest, name, begin + step * WINDOW, moved=moved)
                    session.add(FeatureWindowRow(**row, seq=seq))
        clock[0] = begin + timedelta(hours=1, minutes=3)
        judge.look()


def _counts(random: Any, name: str, rows: int, *, moved: bool) -> dict[str, Any]:
    values = random.normal(size=(len(NAMES), rows))
    if moved:
        values[NAMES.index(MOVED)] += 0.9
        values[0] -= 0.35
    histograms = [_bins(one) for one in values]
    if name == STUCK:
        histograms[2] = (0,) * len(EDGES) + (rows,)
    shares = [0.4, 0.12, 0.12, 0.12, 0.12, 0.12] if moved else [1 / 6] * 6
    classes = random.multinomial(rows, shares)
    found: dict[str, Any] = msgspec.to_builtins(
        Counts(histograms=tuple(histograms), classes=tuple(classes.tolist()))
    )
    return found


def _window(
    random: Any, manifest: str, name: str, start: datetime, *, moved: bool
) -> dict[str, Any]:
    return {
        "device": name,
        "boot": 9,
        "slot": "har",
        "manifest": manifest,
        "start": start,
        "end": start + WINDOW,
        "hour": start.astimezone(UTC).replace(minute=0, second=0, microsecond=0),
        "rows": ROWS,
        "skipped": 40,
        "clock_shift_s": 0,
        "counts": _counts(random, name, ROWS, moved=moved),
        "rolled": False,
        "received_at": start + WINDOW,
    }


def _hour(random: Any, manifest: str, name: str, hour: datetime) -> FeatureHourRow:
    rows = 3 * ROWS
    return FeatureHourRow(
        manifest=manifest,
        device=name,
        hour=hour,
        windows=3,
        rows=rows,
        skipped=120,
        counts=_counts(random, name, rows, moved=False),
    )
