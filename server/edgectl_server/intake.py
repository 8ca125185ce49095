"""What devices say, from the broker into the database: one thread, in batches.

Rules:

1. The network thread only puts messages into a queue, which holds more than the broker may send
   unacknowledged. Mosquitto 2.0 was seen to send more all the same: then the thread waits for a
   place, so that TCP holds the broker back, but never so long that the connection is given up.
   What has no place then is dropped, unacknowledged: it comes again after the next reconnect.
2. One transaction a batch. Only after its commit is a message acknowledged to the broker, and an
   `Ack` sent to the device: also for what was there already.
3. The topic says who sends, because the broker checks that; a payload that names another device is
   dropped. So is what cannot be decoded, and what comes from devices that are not enrolled.
4. A message that the database refuses must not stop the others: when a batch fails, its messages
   are tried one by one, and the bad one is dropped. When the database does not answer, the batch
   is tried again until it does.
5. Events and telemetry are stored within each device's allowance (`edgectl_server.allowance`);
   beyond it they are dropped, and the device sends them again later.
6. What is dropped is counted by reason, and logged at most once a second and reason.
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
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from edgectl_protocol import topics
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.messages import (
    Ack,
    DeviceEvent,
    ReportedState,
    SeedRequest,
    TelemetryBatch,
    decode,
    encode,
)
from edgectl_server.allowance import Allowance
from edgectl_server.distribution.link import RECEIVE_MAX, BrokerLink, Incoming
from edgectl_server.errors import Unavailable
from edgectl_server.fleet import Fleet
from edgectl_server.rollouts import Rollouts
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device
from edgectl_server.telemetry import Telemetry

__all__ = ["QUEUE_MAX", "Intake"]

logger = logging.getLogger(__name__)

QUEUE_MAX = 2 * RECEIVE_MAX
_PLACE_S = 2.0
"""A tenth of the keep-alive."""
_BATCH = 256
_RETRY_S = 1.0
_LOG_EVERY_S = 1.0
_KINDS: dict[str, type[Any]] = {
    "state": ReportedState,
    "event": DeviceEvent,
    "telemetry": TelemetryBatch,
    "seed": SeedRequest,
}
_Message = ReportedState | DeviceEvent | TelemetryBatch | SeedRequest


@dataclass(frozen=True)
class _Decoded:
    incoming: Incoming
    message: _Message


class Intake:
    """Takes in messages; `put` is for the network thread, the rest for whoever owns it."""

    def __init__(
        self,
        *,
        database: Database,
        fleet: Fleet,
        telemetry: Telemetry,
        rollouts: Rollouts,
    ) -> None:
        self._database = database
        self._fleet = fleet
        self._telemetry = telemetry
        self._rollouts = rollouts
        self._queue: queue.Queue[Incoming | None] = queue.Queue(QUEUE_MAX)
        self._link: BrokerLink
        self._seed: Callable[[SeedRequest], None]
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)
        self._allowance = Allowance()
        self._logged: dict[str, float] = {}
        self.dropped: Counter[str] = Counter()
        """How many messages were dropped, by reason."""

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
        if not incoming.payload:
            incoming.done()  # a retained message was cleared
            return
        try:
            self._queue.put(incoming, timeout=_PLACE_S)
        except queue.Full:
            self._drop("queue", "the database is too slow")

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
        while len(batch) < _BATCH:
            try:
                incoming = self._queue.get_nowait()
            except queue.Empty:
                break
            if incoming is not None:
                batch.append(incoming)
        return batch

    def _take(self, batch: Sequence[Incoming]) -> None:
        decoded = []
        for incoming in batch:
            one = self._decode(incoming)
            if one is None:
                incoming.done()
            else:
                decoded.append(one)
        stored = self._store(decoded)
        for one in stored:
            one.incoming.done()
            self._answer(one.message)
        if stored:
            self._rollouts.touch({one.message.device for one in stored})

    def _decode(self, incoming: Incoming) -> _Decoded | None:
        try:
            topic = topics.parse_up(incoming.topic)
            message: _Message = decode(_KINDS[topic.kind], incoming.payload)
        except ProtocolError as error:
            self._drop("malformed", f"{incoming.topic[:100]}: {error}")
            return None
        if message.device != topic.device:
            self._drop("device", f"{topic.device} sends in the name of {message.device}")
            return None
        if isinstance(message, DeviceEvent | TelemetryBatch):
            size = len(incoming.payload)
            if not self._allowance.take(topic.device, size, time.monotonic()):
                self._drop("allowance", f"{topic.device} sends more than a device has to say")
                return None
        return _Decoded(incoming, message)

    def _store(self, batch: Sequence[_Decoded]) -> list[_Decoded]:
        """Write a batch, or what can be written of it; return what was."""
        while batch and not self._closing.is_set():
            try:
                return self._write(batch)
            except (OperationalError, InterfaceError) as error:
                logger.error("the database does not take messages: %s", error.orig)  # noqa: TRY400
                self._closing.wait(_RETRY_S)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is in the data
                if len(batch) == 1:
                    self._drop("refused", f"{batch[0].incoming.topic[:100]}: {error}")
                    batch[0].incoming.done()
                    return []
                return [stored for one in batch for stored in self._store([one])]
        return []

    def _write(self, batch: Sequence[_Decoded]) -> list[_Decoded]:
        stored = []
        strangers = []
        with self._database.write() as session:
            names = {one.message.device for one in batch}
            wanted = (
                select(Device)
                .where(Device.id.in_(names), Device.state == "enrolled")
                .order_by(Device.id)
                .with_for_update()
            )
            devices = {device.id: device for device in session.scalars(wanted)}
            for one in batch:
                device = devices.get(one.message.device)
                if device is None:
                    strangers.append(one)
                    continue
                self._write_one(session, device, one)
                stored.append(one)
        for one in strangers:
            self._drop("stranger", f"{one.message.device} is not enrolled")
            one.incoming.done()
        return stored

    def _write_one(self, session: Session, device: Device, one: _Decoded) -> None:
        match one.message:
            case ReportedState() as state:
                self._fleet.take_state(session, device, state, retained=one.incoming.retained)
                session.flush()
            case DeviceEvent() as event:
                self._fleet.take_event(session, device, event)
            case TelemetryBatch() as telemetry:
                unusable = self._telemetry.take_batch(session, device, telemetry)
                if unusable:
                    self._drop("windows", f"{unusable} windows of {device.id}")
            case SeedRequest():
                pass  # nothing to store; enrolled is all that it must be

    def _answer(self, message: _Message) -> None:
        """Tell the device that it need not send it again; it does, if this is lost."""
        match message:
            case DeviceEvent() | TelemetryBatch():
                ack = encode(Ack(boot=message.boot, seq=message.seq))
                try:
                    self._link.publish(topics.ack(message.device), ack, timeout_s=0.1)
                except Unavailable:
                    self._drop("ack", "the broker does not take acknowledgements")
            case SeedRequest():
                self._seed(message)
            case ReportedState():
                pass

    def _drop(self, reason: str, detail: str) -> None:
        self.dropped[reason] += 1
        now = time.monotonic()
        if now - self._logged.get(reason, -_LOG_EVERY_S) >= _LOG_EVERY_S:
            self._logged[reason] = now
            logger.warning("dropped (%s): %.300s; %d so far", reason, detail, self.dropped[reason])
