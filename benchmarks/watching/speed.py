"""Telemetry messages a second into a database: the real intake, without a broker before it.

Each message is signed by its device, and holds two windows and a health sample, as an agent with
two models sends it; they come shuffled, as from a fleet. What is measured is from the queue to the
last acknowledgement: signature, decoding, one transaction a batch. Beside it, the insert of the
windows alone, as it is done and, on PostgreSQL, by the two ways that SQLAlchemy has.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql

from benchmarks.fleet.ui_rows import device_row
from benchmarks.watching.messages import Signer, window_of
from edgectl_protocol import topics
from edgectl_protocol.messages import (
    SystemSample,
    TelemetryBatch,
)
from edgectl_protocol.watching import WatchPolicy
from edgectl_server.clock import now
from edgectl_server.distribution.link import RECEIVE_MAX, Incoming
from edgectl_server.features import Features
from edgectl_server.intake import Intake
from edgectl_server.receipts import Receipts
from edgectl_server.storage.database import Database
from edgectl_server.storage.inserts import insert_new
from edgectl_server.storage.tables import AnsweredHour, Device, MessageReceiptRow, TelemetryWindow
from edgectl_server.telemetry import Telemetry

__all__ = ["Speed", "inserted", "measured"]

_BOUND_S = 60.0
_WINDOW = timedelta(seconds=30)


class Speed(NamedTuple):
    """Of one database."""

    messages_per_s: float
    processor_us: float
    """Of this process, a message."""
    stored: int
    """Windows in the database in the end."""
    expected: int


class _Sender(NamedTuple):
    name: str
    signer: Signer
    certificate_pem: str


def measured(url: str, *, devices: int, messages: int, repeated: float = 0.05) -> Speed:
    """Take in messages, some of them twice, and look at what is stored.

    Args:
        url: of an empty database.
        devices: that send.
        messages: of all of them together.
        repeated: share of messages that come twice.
    """
    database = Database(url)
    database.migrate()
    with closing(database):
        senders = [_sender(number) for number in range(devices)]
        with database.write() as session:
            session.add_all(_enrolled(one) for one in senders)
        line, sent = _Line(), _messages(senders, messages, repeated)
        intake = _intake(database)
        intake.start(line, seed=lambda _: None)  # type: ignore[arg-type]
        begun, processor_s = time.perf_counter(), time.process_time()
        for topic, payload in sent:
            line.place()
            intake.put(Incoming(topic, payload, retained=False, done=line.done))
        line.wait(len(sent))
        wall_s = time.perf_counter() - begun
        processor_s = time.process_time() - processor_s
        intake.close()
        assert not intake.dropped, intake.dropped
        with database.read() as session:
            windows = select(func.count()).select_from(TelemetryWindow)
            stored = session.scalar(windows) or 0
            requests = session.scalar(select(func.sum(TelemetryWindow.requests))) or 0
            answered = session.scalar(select(func.sum(AnsweredHour.requests))) or 0
            receipts = session.scalars(select(MessageReceiptRow)).all()
        assert answered == requests, (answered, requests)
        assert sum(one.received for one in receipts) == messages
        assert sum(one.duplicates for one in receipts) == len(sent) - messages
    return Speed(len(sent) / wall_s, processor_s / len(sent) * 1e6, stored, 2 * messages)


class _Line:
    """The broker's place: counts what has been dealt with."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()
        self._places = threading.Semaphore(RECEIVE_MAX)

    def place(self) -> None:
        """Wait until another message may be sent."""
        if not self._places.acquire(timeout=_BOUND_S):
            raise TimeoutError(f"{self._count} messages, and no more in {_BOUND_S:g} s")

    def done(self) -> None:
        self._places.release()
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def publish(self, _topic: str, _payload: bytes, *, timeout_s: float) -> None:
        """Acknowledgements go nowhere."""

    def wait(self, count: int) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._count >= count, _BOUND_S):
                raise TimeoutError(f"{self._count} of {count} messages in {_BOUND_S:g} s")


def _intake(database: Database) -> Intake:
    """Return the intake with all that telemetry needs, and nothing of what it does not."""
    unused: Any = SimpleNamespace(touch=lambda _: None)

    return Intake(
        database=database,
        fleet=unused,
        telemetry=Telemetry(database=database, retention_days=30, now=now),
        features=Features(
            database=database, references=unused, retention_days=30, watch=WatchPolicy(), now=now
        ),
        rollouts=unused,
        security=unused,
        benchmarks=unused,
        uploads=unused,
        receipts=Receipts(database=database, retention_days=30, now=now),
        ground_truth=unused,
        log_follows=unused,
    )


def _sender(number: int) -> _Sender:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"pi-{number:04}")])
    begin = now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(number + 1)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=1))
        .sign(key, SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM).decode()
    return _Sender(f"pi-{number:04}", Signer(key), pem)


def _enrolled(sender: _Sender) -> Device:
    row = device_row(0, now())
    row |= {
        "id": sender.name,
        "public_key_sha256": sender.signer.key_id,
        "certificate_pem": sender.certificate_pem,
    }
    return Device(**row)


def _messages(senders: list[_Sender], messages: int, repeated: float) -> list[tuple[str, bytes]]:
    chance = random.Random(1)  # noqa: S311 - a course that can be repeated
    sent = []
    for number in range(messages):
        sender, seq = senders[number % len(senders)], number // len(senders) + 1
        message = (
            topics.telemetry(sender.name),
            sender.signer.sealed(_batch(sender.name, seq, chance)),
        )
        sent += [message, message] if chance.random() < repeated else [message]
    return sent


def _batch(device: str, seq: int, chance: random.Random) -> TelemetryBatch:
    end = datetime(2026, 11, 29, 12, tzinfo=UTC) + timedelta(seconds=30 * seq)
    return TelemetryBatch(
        device=device,
        boot=1,
        seq=seq,
        windows=tuple(window_of(slot, end - _WINDOW, end, chance) for slot in ("har", "anomaly")),
        system=SystemSample(at=end, load_1min=0.4, temperature_c=51.5),
    )


def inserted(url: str, *, rows: int, batch: int = 512) -> dict[str, float]:
    """Return windows a second by each way to insert them, twice each window: the second is no news.

    Args:
        url: of an empty database.
        rows: windows.
        batch: of one transaction: 256 messages of two.
    """
    database = Database(url)
    database.migrate()
    chance = random.Random(2)  # noqa: S311
    ways: dict[str, Callable[[Any, list[dict[str, Any]]], object]] = {
        "as it is done": lambda session, some: insert_new(session, TelemetryWindow, some)
    }
    if database.dialect == "postgresql":
        one_by_one = postgresql.insert(TelemetryWindow).on_conflict_do_nothing()
        at_once = one_by_one.returning(TelemetryWindow.seq)
        ways |= {
            "INSERT, row by row": lambda session, some: session.execute(one_by_one, some),
            "INSERT, many rows": lambda session, some: session.execute(at_once, some).all(),
        }
    found = {}
    with closing(database):
        for boot, (name, way) in enumerate(ways.items(), start=1):
            batches = list(_rows(rows, batch, boot, chance))
            begun = time.perf_counter()
            for some in batches:
                for _ in range(2):
                    with database.write() as session:
                        way(session, some)
            found[name] = 2 * rows / (time.perf_counter() - begun)
            with database.read() as session:
                count = select(func.count()).where(TelemetryWindow.boot == boot)
                assert session.scalar(count) == rows
    return found


def _rows(
    rows: int, batch: int, boot: int, chance: random.Random
) -> Iterator[list[dict[str, Any]]]:
    at = datetime(2026, 11, 29, 12, tzinfo=UTC)
    window = window_of("har", at - _WINDOW, at, chance)
    for first in range(0, rows, batch):
        yield [
            {
                "device": f"pi-{number % 200:04}",
                "boot": boot,
                "seq": number,
                "number": 0,
                "slot": window.slot,
                "version": window.version,
                "manifest": window.manifest,
                "start": window.start,
                "end": window.end,
                "requests": window.requests,
                "errors": 0,
                "non_finite": 0,
                "refused": 0,
                "latency": list(window.latency),
                "confidence": list(window.confidence),
                "classes": list(window.classes),
                "received_at": at,
            }
            for number in range(first, min(rows, first + batch))
        ]
