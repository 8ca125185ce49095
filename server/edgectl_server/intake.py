"""What devices say, from the broker into the database: one thread, in batches.

Rules:

1. The network thread only puts messages into a queue, which holds more than the broker may send
   unacknowledged. Mosquitto 2.0 was seen to send more all the same: then the thread waits for a
   place, so that TCP holds the broker back, but never so long that the connection is given up.
   What has no place then is dropped, unacknowledged: it comes again after the next reconnect.
2. One transaction a batch. Telemetry alone waits up to `GATHER_S` for more, everything else for
   nothing. Only after its commit is a message acknowledged to the broker, and an
   `Ack` sent to the device: also for what was there already.
3. The topic says who sends; the signature proves it (`edgectl_server.reports`), before anything of
   the payload is decoded or stored. What is not believed is dropped, counted and noted as a
   security event of that device, except a retained state from before the device enrolled anew.
   So is what comes from devices that are not enrolled dropped.
4. A message that the database refuses must not stop the others: when a batch fails, its messages
   are tried one by one, and the bad one is dropped. When the database does not answer, the batch
   is tried again until it does.
5. Events and telemetry are stored within each device's allowance (`edgectl_server.allowance`);
   beyond it they are dropped, and the device sends them again later.
6. Chunks of uploads carry no signature of their own: those that nobody asks for are dropped before
   anything is written, the others are checked against the signed offer.
7. A state that the broker has dropped is noticed by the event that comes with it, and asked for
   again (`edgectl_server.missed_states`).
8. What is dropped is counted by reason, and logged at most once a second and reason.
9. Which numbered messages have come, twice or not at all is kept (`edgectl_server.receipts`).
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import msgspec
from sqlalchemy import select
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from edgectl_protocol import topics
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.log_lines import LogLines
from edgectl_protocol.messages import (
    Ack,
    BenchmarkReport,
    DeviceEvent,
    Reason,
    Report,
    ReportedState,
    SecurityEvent,
    SeedRequest,
    TelemetryBatch,
    encode,
)
from edgectl_protocol.outcomes import OutcomeReport
from edgectl_protocol.topics import UpTopic
from edgectl_protocol.uploads import UploadChunk, UploadOffer, UploadWanted, decode_upload_chunk
from edgectl_server.allowance import Allowance
from edgectl_server.benchmarks import Benchmarks
from edgectl_server.device_uploads import DeviceUploads, Taken
from edgectl_server.distribution.bounds import BrokerBounds
from edgectl_server.distribution.link import RECEIVE_MAX, BrokerLink, Incoming
from edgectl_server.errors import Unavailable
from edgectl_server.features import Features
from edgectl_server.fleet import Fleet
from edgectl_server.ground_truth import GroundTruth
from edgectl_server.kept_capabilities import answer_to
from edgectl_server.log_follows import LogFollows
from edgectl_server.missed_states import MissedStates
from edgectl_server.receipts import Receipts
from edgectl_server.reports import DeviceKey, NotBelieved, NotKnown, Reports
from edgectl_server.rollouts import Rollouts
from edgectl_server.security import SecurityEvents
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device
from edgectl_server.telemetry import Telemetry

__all__ = ["GATHER_S", "QUEUE_MAX", "Intake"]

logger = logging.getLogger(__name__)

QUEUE_MAX = 2 * RECEIVE_MAX
_PLACE_S = 2.0
"""A tenth of the keep-alive."""
_BATCH = 256
GATHER_S = 0.5
"""A transaction costs much more than a message in it, so that telemetry waits for company."""
_GATHERED = BrokerBounds.in_flight_max // 2
"""The broker sends no more than twice as many before one is acknowledged."""
_RETRY_S = 1.0
_LOG_EVERY_S = 1.0
T = TypeVar("T")


@dataclass(frozen=True)
class _Sealed:
    incoming: Incoming
    topic: UpTopic


@dataclass(frozen=True)
class _Believed:
    incoming: Incoming
    device: str
    message: Report | UploadChunk
    key: DeviceKey


class Intake:
    """Takes in messages; `put` is for the network thread, the rest for whoever owns it."""

    def __init__(
        self,
        *,
        database: Database,
        fleet: Fleet,
        telemetry: Telemetry,
        features: Features,
        rollouts: Rollouts,
        security: SecurityEvents,
        benchmarks: Benchmarks,
        uploads: DeviceUploads,
        log_follows: LogFollows,
        ground_truth: GroundTruth,
        receipts: Receipts,
    ) -> None:
        self._database = database
        self._fleet = fleet
        self._telemetry = telemetry
        self._features = features
        self._rollouts = rollouts
        self._security = security
        self._benchmarks = benchmarks
        self._uploads = uploads
        self._log_follows = log_follows
        self._ground_truth = ground_truth
        self._receipts = receipts
        self._reports = Reports()
        self._queue: queue.Queue[Incoming | None] = queue.Queue(QUEUE_MAX)
        self._link: BrokerLink
        self._seed: Callable[[SeedRequest], None]
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)
        self._allowance = Allowance()
        self._missed = MissedStates()
        self._logged: dict[str, float] = {}
        self.dropped: Counter[str] = Counter()
        """How many messages were dropped, by reason."""
        self.received = 0
        """How many messages were put."""

    def start(self, link: BrokerLink, *, seed: Callable[[SeedRequest], None]) -> None:
        """Begin.

        Args:
            link: takes the acknowledgements.
            seed: answers a device that lacks chunks; returns at once.
        """
        self._link, self._seed = link, seed
        self._thread.start()

    def put(self, incoming: Incoming) -> None:
        """Take a message; waits at most `_PLACE_S`."""
        self.received += 1
        if not incoming.payload:
            incoming.done()  # a retained message was cleared
            return
        try:
            self._queue.put(incoming, timeout=_PLACE_S)
        except queue.Full:
            self._drop("queue", "the database is too slow")

    @property
    def waiting(self) -> int:
        """How many messages wait to be taken in."""
        return self._queue.qsize()

    def ask_for_states(self) -> None:
        """Have the broker send again what got lost on the way; for the ticker."""
        missed = self._missed.due(time.monotonic())
        if missed:
            logger.warning("the states of %d devices got lost: asked for again", len(missed))
            self._link.read_again([topics.state(device) for device in missed])

    def close(self) -> None:
        """Stop after the batch that is being written; the broker keeps the rest. Idempotent."""
        self._closing.set()
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):  # a full queue wakes it too
                self._queue.put_nowait(None)
            self._thread.join()

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        while not self._closing.is_set():
            batch = self._next_batch()
            if batch and not self._closing.is_set():
                try:
                    self._take(batch)
                except Exception:  # the thread must live; the broker sends the batch again
                    logger.exception("a batch of %d messages could not be taken in", len(batch))

    def _next_batch(self) -> list[Incoming]:
        first = self._queue.get()
        batch = [] if first is None else [first]
        until = time.monotonic() + GATHER_S
        while len(batch) < _BATCH:
            wait_s = max(0.0, until - time.monotonic()) if _may_wait(batch) else 0.0
            try:
                incoming = self._queue.get(timeout=wait_s)
            except queue.Empty:
                break
            if incoming is None:
                break
            batch.append(incoming)
        # After a new connection all of them come again: doing them twice would end that one, too.
        return [one for one in batch if not one.is_stale()]

    def _take(self, batch: Sequence[Incoming]) -> None:
        admitted = (self._admit(incoming) for incoming in batch)
        sealed = [one for one in admitted if one is not None]
        stored = self._store(self._believe(sealed))
        for one in stored:
            one.incoming.done()
            self._answer(one.message)
        if stored:
            self._rollouts.touch({one.device for one in stored})

    def _admit(self, incoming: Incoming) -> _Sealed | None:
        """Look at topic and length; what is inside comes later."""
        try:
            topic = topics.parse_up(incoming.topic)
        except ProtocolError as error:
            self._drop("malformed", f"{incoming.topic[:100]}: {error}")
            incoming.done()
            return None
        if topic.kind in {"event", "telemetry"}:
            size = len(incoming.payload)
            if not self._allowance.take(topic.device, size, time.monotonic()):
                self._drop("allowance", f"{topic.device} sends more than a device has to say")
                incoming.done()
                return None
        return _Sealed(incoming, topic)

    def _believe(self, batch: Sequence[_Sealed]) -> list[_Believed]:
        """Check who has signed; outside of any transaction, because it is most of the work."""
        keys = self._patiently(lambda: self._read_keys({one.topic.device for one in batch})) or {}
        believed: list[_Believed] = []
        chunks: list[tuple[_Believed, UploadChunk]] = []
        for one in batch:
            device = one.topic.device
            if device not in keys:
                self._drop("stranger", f"{device} is not enrolled")
                one.incoming.done()
                continue
            key, seen = keys[device]
            try:
                if one.topic.kind == "chunk":
                    chunk = _open_chunk(one)
                    chunks.append((_Believed(one.incoming, device, chunk, key), chunk))
                    continue
                message = self._reports.open(one.topic, one.incoming.payload, key)
            except NotBelieved as error:
                self._drop(error.code, f"{device}: {error.detail}")
                if seen or not one.incoming.retained:  # else of a machine that had the name before
                    self._security.note(device, error.code, error.detail)
                one.incoming.done()
            except NotKnown as error:
                self._drop("unknown", f"{device} is newer than this server: {error}")
                one.incoming.done()
            else:
                believed.append(_Believed(one.incoming, device, message, key))
        return [*believed, *self._asked_for(chunks)]

    def _asked_for(self, chunks: Sequence[tuple[_Believed, UploadChunk]]) -> list[_Believed]:
        """Return the chunks of uploads that somebody asks for; the rest is dropped."""
        if not chunks:
            return []
        names = {(one.device, chunk.upload) for one, chunk in chunks}
        asked = self._patiently(lambda: self._uploads.wanted(names)) or {}
        wanted = []
        for one, chunk in chunks:
            if chunk.number in asked.get((one.device, chunk.upload), ()):
                wanted.append(one)
            else:
                self._drop("upload.unwanted", f"{one.device} sends chunk {chunk.number} unasked")
                one.incoming.done()
        return wanted

    def _read_keys(self, names: set[str]) -> dict[str, tuple[DeviceKey, bool]]:
        """Return the keys of enrolled devices, and whether each was heard since it enrolled."""
        columns = (Device.id, Device.public_key_sha256, Device.certificate_pem, Device.last_seen_at)
        wanted = select(*columns).where(Device.id.in_(names), Device.state == "enrolled")
        with self._database.read() as session:
            return {
                name: (DeviceKey(public_key, certificate), seen_at is not None)
                for name, public_key, certificate, seen_at in session.execute(wanted)
            }

    def _patiently(self, call: Callable[[], T]) -> T | None:
        """Call until the database answers; None when the intake closes before."""
        while not self._closing.is_set():
            try:
                return call()
            except (OperationalError, InterfaceError) as error:
                logger.error("the database does not take messages: %s", error.orig)  # noqa: TRY400
                self._closing.wait(_RETRY_S)
        return None

    def _store(self, batch: Sequence[_Believed]) -> list[_Believed]:
        """Write a batch, or what can be written of it; return what was."""
        if not batch:
            return []
        try:
            return self._patiently(lambda: self._write(batch)) or []
        except Exception as error:  # noqa: BLE001  # whatever it is, it is in the data
            if len(batch) == 1:
                self._drop("refused", f"{batch[0].incoming.topic[:100]}: {error}")
                batch[0].incoming.done()
                return []
            return [stored for one in batch for stored in self._store([one])]

    def _write(self, batch: Sequence[_Believed]) -> list[_Believed]:
        stored: list[_Believed] = []
        strangers: list[_Believed] = []
        outcomes: list[tuple[str, Taken]] = []
        telemetry: list[tuple[Device, TelemetryBatch]] = []
        with self._database.write() as session:
            names = {one.device for one in batch}
            wanted = (
                select(Device)
                .where(Device.id.in_(names), Device.state == "enrolled")
                .order_by(Device.id)
                .with_for_update()
            )
            devices = {device.id: device for device in session.scalars(wanted)}
            for one in batch:
                device = devices.get(one.device)
                if device is None or device.public_key_sha256 != one.key.public_key_sha256:
                    strangers.append(one)  # it left, or enrolled anew, a moment ago
                    continue
                if isinstance(one.message, TelemetryBatch):
                    telemetry.append((device, one.message))
                else:
                    outcomes.append((device.id, self._write_one(session, device, one)))
                stored.append(one)
            self._take_telemetry(session, telemetry)
            self._receipts.take(session, _numbers(stored))
        for name, outcome in outcomes:
            self._tell(name, outcome)
        for one in strangers:
            self._drop("stranger", f"{one.device} is not enrolled")
            one.incoming.done()
        return stored

    def _write_one(self, session: Session, device: Device, one: _Believed) -> Taken:
        """Write a message; return what is suspicious about it, and what to answer."""
        complaint: Reason | None = None
        match one.message:
            case ReportedState() as state:
                complaint = self._fleet.take_state(
                    session,
                    device,
                    state,
                    retained=one.incoming.retained,
                    link_age_s=one.incoming.link_age_s,
                )
                session.flush()
                if state.seq:  # else it is a last will, which says nothing of updates
                    self._missed.state(device.id, state.sent_at)
                    answer = answer_to(device, state)
                    return Taken(complaint, suspicious=complaint is not None, answer=answer)
            case DeviceEvent() as event:
                complaint = self._fleet.take_event(session, device, event)
                if complaint is None:
                    self._missed.event(device.id, event.at, _sent_at(device), time.monotonic())
                    self._benchmarks.take_event(session, device, event)
            case BenchmarkReport() as report:
                complaint = self._benchmarks.take_report(session, device, report)
            case OutcomeReport() as outcome:
                return Taken(self._ground_truth.take(session, device, outcome))
            case UploadOffer() as offer:
                return self._uploads.take_offer(session, device, offer)
            case UploadChunk() as chunk:
                return self._uploads.take_chunk(session, device.id, chunk)
            case LogLines() as lines:
                return Taken(self._log_follows.take(session, device.id, lines))
            case SecurityEvent() as event:
                self._security.take(session, device, event)
            case TelemetryBatch() | SeedRequest():
                pass  # the one is stored with others; of the other, enrolled is all it must be
        return Taken(complaint, suspicious=complaint is not None)

    def _take_telemetry(
        self, session: Session, batches: Sequence[tuple[Device, TelemetryBatch]]
    ) -> None:
        """Write batches, and count what of them cannot be used."""
        if not batches:
            return
        unusable = self._telemetry.take_batches(session, batches)
        problems = self._features.take_batches(session, batches)
        for (device, _), windows, problem in zip(batches, unusable, problems, strict=True):
            if windows:
                self._drop("windows", f"{windows} windows of {device.id}")
            if problem:
                self._drop("features", f"{device.id}: {problem}")

    def _tell(self, device: str, outcome: Taken) -> None:
        """Count what was not believed, and tell the device what it asked."""
        complaint = outcome.complaint
        if complaint is not None:
            self._drop(complaint.code, f"{device}: {complaint.detail}")
            if outcome.suspicious:
                self._security.note(device, complaint.code, complaint.detail)
        if outcome.answer is not None:
            kind = topics.ack if isinstance(outcome.answer, Ack) else topics.wanted
            self._publish(kind(device), outcome.answer)

    def _answer(self, message: Report | UploadChunk) -> None:
        """Tell the device that it need not send it again; it does, if this is lost."""
        match message:
            case ReportedState() | UploadChunk() | LogLines():
                pass
            case SeedRequest():
                self._seed(message)
            case _:
                ack = Ack(boot=message.boot, seq=message.seq)
                self._publish(topics.ack(message.device), ack)

    def _publish(self, topic: str, message: Ack | UploadWanted) -> None:
        try:
            self._link.publish(topic, encode(message), timeout_s=0.1)
        except Unavailable:
            self._drop("ack", "the broker does not take answers")

    def _drop(self, reason: str, detail: str) -> None:
        self.dropped[reason] += 1
        now = time.monotonic()
        if now - self._logged.get(reason, -_LOG_EVERY_S) >= _LOG_EVERY_S:
            self._logged[reason] = now
            logger.warning("dropped (%s): %.300s; %d so far", reason, detail, self.dropped[reason])


def _numbers(stored: Sequence[_Believed]) -> list[tuple[str, int, int]]:
    """Return device, boot and number of what comes from devices' spools."""
    return [
        (one.device, one.message.boot, one.message.seq)
        for one in stored
        if not isinstance(one.message, ReportedState | UploadChunk | SeedRequest | LogLines)
    ]


def _sent_at(device: Device) -> datetime | None:
    """Return when the newest stored state of a device was sent, by its own clock."""
    sent_at: str | None = device.reported.get("sent_at")
    return None if sent_at is None else msgspec.convert(sent_at, datetime)


def _may_wait(batch: Sequence[Incoming]) -> bool:
    """Say whether nobody minds if these are taken in a moment later, with others."""
    patient = all(incoming.topic.endswith("/up/telemetry") for incoming in batch)
    return patient and 0 < len(batch) < _GATHERED


def _open_chunk(sealed: _Sealed) -> UploadChunk:
    """Take a chunk apart; raise `NotBelieved` ``upload.malformed`` for anything else."""
    try:
        return decode_upload_chunk(sealed.incoming.payload)
    except ProtocolError as error:
        raise NotBelieved("upload.malformed", str(error)) from error
