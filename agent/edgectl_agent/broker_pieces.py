"""Brings pieces of blobs from retained MQTT topics.

What to ask for and when is `edgectl_agent.core.transfer`; this module moves the bytes.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from msgspec.structs import replace

from edgectl_agent.core.pacing import Pacer
from edgectl_agent.core.transfer import Outcome, Transfer, TransferFailure, TransferLimits
from edgectl_agent.errors import StepCancelled, TokenAway, make_reason
from edgectl_agent.pieces import INDEX, BadPiece, SourceFailed, Want
from edgectl_protocol import topics
from edgectl_protocol.chunks import CHUNK_BYTES
from edgectl_protocol.messages import Reason, SeedRequest

__all__ = ["BrokerPieces", "Transport"]

OFFLINE_S = 10.0
"""Without a connection for so long, somebody else gets a turn."""
_STALLS_BESIDE_OTHERS = 1
"""Nothing comes: it is asked for again; again nothing: somebody else gets a turn."""
_WAIT_S = 0.5
_HEARD_BYTES = 512
"""So many bytes more are a piece that is coming; fewer may be the connection's own talk."""
_log = logging.getLogger(__name__)


class Transport(Protocol):
    """Retained topics, as one user of the connection sees them."""

    def connected(self) -> bool:
        """Say whether there is a connection now."""

    def subscribe(self, topics: Sequence[str]) -> None:
        """Ask for the topics; a retained message comes anew at every call."""

    def came(self, topic: str) -> None:
        """Note that it is not to be asked for at another connection."""

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """Ask for them no longer."""

    def bytes_in(self) -> int:
        """Return how many bytes of long messages have come, also of those not whole yet."""

    def unasked(self) -> int:
        """Return how many messages came on topics of blobs that nobody had asked for."""

    def receive(self, timeout_s: float) -> tuple[str, bytes] | None:
        """Return the next message of a topic that was subscribed to, or None."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Send, if there is a connection."""


class BrokerPieces:
    """A `Source`: the broker."""

    name = "mqtt"

    def __init__(
        self,
        device: str,
        transport: Transport,
        *,
        seal: Callable[[SeedRequest], bytes],
        alarm: Callable[[Reason], None],
        elapsed: Callable[[], float] = time.monotonic,
        limits: TransferLimits | None = None,
        pacer: Pacer | None = None,
    ) -> None:
        """Take the connection; the arguments are those of the downloader."""
        self._device = device
        self._transport = transport
        self._seal = seal
        self._alarm = alarm
        self._elapsed = elapsed
        self._pacer = pacer or Pacer(0)
        self._limits = _within(limits or TransferLimits(), self._pacer.bytes_per_s)
        self._bytes_received = 0
        self._bad: Counter[str] = Counter()

    @property
    def bytes_received(self) -> int:
        """Payload bytes since the start, also of those not believed."""
        return self._bytes_received

    @property
    def bad_pieces(self) -> Counter[str]:
        """What came and was not wanted, since the start, by `BadPiece`."""
        unasked = self._transport.unasked()
        return self._bad + Counter({BadPiece.UNASKED.value: unasked})

    def fetch(
        self, want: Want, *, alone: bool, cancelled: Callable[[], bool], pause: Callable[[], None]
    ) -> None:
        """Bring what is missing; see `Source`."""
        limits = self._limits
        if not alone:
            limits = replace(limits, stalls_max=min(limits.stalls_max, _STALLS_BESIDE_OTHERS))
        transfer = Transfer(
            want.blob, want.missing, want.expected, elapsed_s=self._elapsed(), limits=limits
        )
        transport, names = self._transport, _Names(want.blob)
        try:
            self._run(want, names, transfer, alone=alone, cancelled=cancelled, pause=pause)
        except TransferFailure as failure:
            raise SourceFailed(failure.reason) from failure
        finally:
            transport.unsubscribe(names.topics(transfer.asked))

    def _run(
        self,
        want: Want,
        names: _Names,
        transfer: Transfer,
        *,
        alone: bool,
        cancelled: Callable[[], bool],
        pause: Callable[[], None],
    ) -> None:
        """Do what the transfer wishes until it is done."""
        transport = self._transport
        connected_s = self._elapsed()
        hold_until_s = connected_s
        bytes_in = transport.bytes_in()
        while not transfer.done:
            if cancelled():
                raise StepCancelled
            now_s = self._elapsed()
            if transport.connected():
                connected_s = now_s
            elif not alone and now_s - connected_s >= OFFLINE_S:
                raise SourceFailed(
                    make_reason("transfer.stalled", "there is no connection to the broker"),
                    waits=True,
                )
            if transport.bytes_in() - bytes_in >= _HEARD_BYTES:
                bytes_in = transport.bytes_in()
                transfer.heard(now_s)
            if connected_s != now_s or hold_until_s > now_s:
                transfer.pause(now_s)
            if hold_until_s <= now_s:
                self._do_wishes(names, transfer)
            wait_s = max(transfer.next_s(), hold_until_s) - self._elapsed()
            message = transport.receive(max(0.0, min(_WAIT_S, wait_s)))
            if message is None:
                pause()
                continue
            size = self._take(want, names, transfer, message)
            hold_until_s = self._elapsed() + self._pacer.spend(size, self._elapsed())

    def _do_wishes(self, names: _Names, transfer: Transfer) -> None:
        wishes = transfer.poll(self._elapsed())
        if wishes.unsubscribe:
            self._transport.unsubscribe(names.topics(wishes.unsubscribe))
        if wishes.subscribe:
            self._transport.subscribe(names.topics(wishes.subscribe))
        if wishes.missing:
            self._request_seed(names.blob, wishes.missing, wishes.refused)

    def _take(
        self, want: Want, names: _Names, transfer: Transfer, message: tuple[str, bytes]
    ) -> int:
        """Judge what came; return its size."""
        topic, payload = message
        number = names.number(topic)
        if number is None:
            self._bad[BadPiece.UNASKED] += 1
            return 0  # of the blob before this one
        self._bytes_received += len(payload)
        try:
            outcome = transfer.receive(number, payload, self._elapsed())
        except TransferFailure as failure:
            self._alarm(failure.reason)
            self._bad[want.fault(number, payload)] += 1
            raise
        if outcome is Outcome.IGNORED:
            self._bad[BadPiece.DUPLICATE if payload else BadPiece.EMPTY] += 1
        elif outcome is Outcome.ACCEPTED:
            if transfer.has_overtaken:
                self._bad[BadPiece.OVERTAKING] += 1
            self._transport.came(topic)
            want.take(number, payload)
        else:
            self._bad[want.fault(number, payload)] += 1
            detail = f"chunk {number} of {want.blob} came with another content than the signed one"
            self._alarm(make_reason("transfer.chunk_altered", detail))
        return len(payload)

    def _request_seed(self, blob: str, missing: tuple[int, ...], refused: tuple[int, ...]) -> None:
        request = SeedRequest(device=self._device, blob=blob, chunks=missing, refused=refused)
        try:
            sealed = self._seal(request)
        except TokenAway as error:  # what is missing is asked for again
            _log.warning("chunks cannot be asked for: %s", error)
            return
        self._transport.publish(topics.seed(self._device), sealed)


def _within(limits: TransferLimits, bytes_per_s: int) -> TransferLimits:
    """Return limits whose window comes in a few seconds at the bound on bytes per second."""
    if not bytes_per_s:
        return limits
    window = max(1, min(limits.window_max, int(bytes_per_s * limits.drain_slow_s) // CHUNK_BYTES))
    return replace(limits, window_max=window, window_first=min(window, limits.window_first))


class _Names:
    """The topics of one blob's pieces."""

    def __init__(self, blob: str) -> None:
        self.blob = blob
        self._index = topics.chunk_index(blob)
        self._prefix = topics.chunk(blob, 0).removesuffix("0")

    def topics(self, numbers: Iterable[int]) -> list[str]:
        """Return their topics."""
        return [self._index if one == INDEX else f"{self._prefix}{one}" for one in numbers]

    def number(self, topic: str) -> int | None:
        """Return which piece comes on a topic that was asked for; None: it is another blob's."""
        if topic == self._index:
            return INDEX
        return int(topic[len(self._prefix) :]) if topic.startswith(self._prefix) else None
