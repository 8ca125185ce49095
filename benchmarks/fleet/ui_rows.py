"""Rows of a fleet as its devices would have reported it, written by the storage layer.

Ten thousand simulated devices beside a browser would measure the machine. What the pages cost is
the same whoever has written the rows: the server reads them as it would the devices' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from msgspec import to_builtins
from sqlalchemy import insert, update

from edgectl_protocol.messages import (
    Capabilities,
    Installed,
    ReportedState,
    SlotReport,
    SystemSample,
    UpdateReport,
)
from edgectl_protocol.update import UpdateState
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    Device,
    ReportedSlot,
    SystemSampleRow,
    TelemetryWindow,
)

__all__ = ["device_name", "device_row", "fill", "report"]

SITES = 40
_AT_ONCE = 1000
_CHANGE_EVERY = 100
_MANIFEST = "sha256:" + "4f" * 32
_BINS = 42


def device_name(number: int) -> str:
    """Return the name of a device."""
    return f"bench-{number:06d}"


def fill(database: Database, devices: int, now: datetime) -> None:
    """Write devices that are enrolled, have a model, and have been heard of; a tenth is away."""
    for first in range(0, devices, _AT_ONCE):
        numbers = range(first, min(devices, first + _AT_ONCE))
        with database.write() as session:
            session.execute(insert(Device), [device_row(number, now) for number in numbers])
            session.execute(insert(ReportedSlot), [_slot(number) for number in numbers])
            session.execute(
                insert(TelemetryWindow),
                [_window(number, minute, now) for number in numbers for minute in range(5)],
            )


def report(database: Database, numbers: Sequence[int], seq: int, now: datetime) -> None:
    """Write what these devices send in a minute: telemetry, and of one in a hundred a new state.

    Args:
        database: of the server.
        numbers: of the devices.
        seq: higher than any before.
        now: when it comes.
    """
    names = [device_name(number) for number in numbers]
    with database.write() as session:
        session.execute(
            insert(TelemetryWindow), [_window(number, 0, now, seq=seq) for number in numbers]
        )
        session.execute(insert(SystemSampleRow), [_sample(number, seq, now) for number in numbers])
        session.execute(update(Device).where(Device.id.in_(names)).values(last_seen_at=now))
        changed = names[::_CHANGE_EVERY]
        state = UpdateState.OBSERVING if seq % 2 else UpdateState.COMMITTED
        session.execute(
            update(ReportedSlot)
            .where(ReportedSlot.device.in_(changed))
            .values(update_state=state.value)
        )


def _away(number: int) -> bool:
    return number % 10 == 0


def device_row(number: int, now: datetime) -> dict[str, Any]:
    """Return the row of an enrolled device that runs a model."""
    installed = Installed(
        version=_version(number), variant="onnx-int8", manifest=_MANIFEST, since=now
    )
    state = ReportedState(
        device=device_name(number),
        boot=1,
        seq=1,
        online=not _away(number),
        sent_at=now,
        agent_version="0.1.0",
        capabilities=Capabilities(
            machine="aarch64",
            cpu_model="Cortex-A72",
            cpu_features=("asimd", "crc32"),
            cores=4,
            memory_bytes=4_000_000_000,
            disk_free_bytes=11_000_000_000,
            os="Debian GNU/Linux 12",
            runtimes={"onnxruntime": "1.32.0"},
        ),
        endpoint="http://127.0.0.1:8500",
        slots={
            "har": SlotReport(
                running=installed,
                update=UpdateReport(
                    order=1, version=installed.version, variant="onnx-int8", manifest=_MANIFEST,
                    state=UpdateState.COMMITTED,
                ),
            )
        },
    )  # fmt: skip
    site = number % SITES
    return {
        "id": device_name(number),
        "state": "enrolled",
        "group": f"group-{number % 8}",
        "public_key_sha256": f"{number:064x}",
        "certificate_serial": f"{number + 1:x}",
        "certificate_pem": "",
        "earlier_serials": [],
        "enrol_token": "none",
        "certificate_expires_at": now + timedelta(days=300),
        "enrolled_at": now - timedelta(days=40),
        "online": not _away(number),
        "last_seen_at": now - timedelta(hours=number % 48 if _away(number) else 0),
        "boot": 1,
        "seq": 1,
        "order_counter": 1,
        "reported": to_builtins(state),
        "agent_version": "0.1.0",
        "labels": {"site": f"site-{site:02d}", "lat": f"{36 + site % 20}", "lon": f"{site - 9}"},
    }


def _version(number: int) -> str:
    return "2" if number % 3 else "1"


def _slot(number: int) -> dict[str, Any]:
    failing = number % 250 == 0
    state = UpdateState.ROLLED_BACK if failing else UpdateState.COMMITTED
    return {
        "device": device_name(number),
        "slot": "har",
        "version": _version(number),
        "manifest": _MANIFEST,
        "update_state": state.value,
    }


def _window(number: int, minute: int, now: datetime, seq: int | None = None) -> dict[str, Any]:
    at = now - timedelta(minutes=minute)
    latency = [0] * _BINS
    latency[9 + number % 4] = 60
    return {
        "device": device_name(number),
        "boot": 1,
        "seq": minute if seq is None else seq,
        "number": 0,
        "slot": "har",
        "version": _version(number),
        "manifest": _MANIFEST,
        "start": at - timedelta(minutes=1),
        "end": at,
        "requests": 60,
        "errors": 0,
        "non_finite": 0,
        "refused": 0,
        "latency": latency,
        "confidence": [],
        "classes": [30, 20, 10],
        "received_at": at,
    }


def _sample(number: int, seq: int, now: datetime) -> dict[str, Any]:
    sample = SystemSample(at=now, load_1min=0.3, temperature_c=45.0 + (number + seq) % 10)
    return {
        "device": device_name(number),
        "boot": 1,
        "seq": seq,
        "at": now,
        "received_at": now,
        "sample": to_builtins(sample),
    }
