"""Brings blobs from retained MQTT topics into the store.

What to ask for and what to believe is `edgectl_agent.core.transfer`; this module moves the bytes.
Every blob is a file of chunks, each checked before it is written; the digests of the chunks are the
blob's own digest where there is one chunk, else they are in the chunk index, whose digest is signed
in the manifest. The manifest itself is one chunk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from edgectl_agent.core.transfer import Outcome, Transfer, TransferFailure, TransferLimits
from edgectl_agent.errors import StepCancelled, StepFailed, StepRejected, TokenAway, make_reason
from edgectl_agent.store import Partial, Store
from edgectl_protocol import topics
from edgectl_protocol.chunks import chunk_count, parse_index
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import (
    MANIFEST_BYTES_MAX,
    Descriptor,
    decode_manifest,
    device_layers,
)
from edgectl_protocol.messages import Reason, SeedRequest
from edgectl_protocol.names import digest_of, hex_of

__all__ = ["Downloader", "Progress", "Transport"]

CHECKPOINT_CHUNKS = 16
"""Chunks between two checkpoints of the bitmap, fewer where the transport pauses: at most 1 MiB is
fetched again after a power loss."""
_WAIT_S = 0.5
_INDEX = -1
_log = logging.getLogger(__name__)


class Transport(Protocol):
    """Retained topics, as one user of the connection sees them."""

    def connected(self) -> bool:
        """Say whether there is a connection now."""

    def subscribe(self, topics: Sequence[str]) -> None:
        """Ask for the topics; a retained message comes anew at every call."""

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """Ask for them no longer."""

    def receive(self, timeout_s: float) -> tuple[str, bytes] | None:
        """Return the next message of a topic that was subscribed to, or None."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Send, if there is a connection."""


class Progress(Struct, frozen=True, kw_only=True):
    """How far a bundle has come."""

    bytes_done: int
    """Bytes of the bundle that are on the device and checked."""
    bytes_total: int


class Downloader:
    """Fetches one bundle at a time; used by one thread."""

    def __init__(
        self,
        device: str,
        store: Store,
        transport: Transport,
        *,
        seal: Callable[[SeedRequest], bytes],
        alarm: Callable[[Reason], None] = lambda _: None,
        elapsed: Callable[[], float] = time.monotonic,
        limits: TransferLimits | None = None,
        checkpoint_chunks: int = CHECKPOINT_CHUNKS,
    ) -> None:
        """Take the store and the network.

        Args:
            device: our name.
            store: where the blobs go.
            transport: retained topics.
            seal: signs a request for the wire.
            alarm: told of each piece that came altered, from the downloader's thread.
            elapsed: seconds of a clock that only goes forward.
            limits: the defaults unless a test wants others.
            checkpoint_chunks: how many chunks are written between two waits for the disk.
        """
        self._seal = seal
        self._alarm = alarm
        self._checkpoint_chunks = checkpoint_chunks
        self._device = device
        self._store = store
        self._transport = transport
        self._elapsed = elapsed
        self._limits = limits
        self.bytes_received = 0
        """Payload bytes of chunks and indexes since the start, also of those not believed."""

    def fetch(
        self,
        manifest_digest: str,
        *,
        progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ) -> None:
        """Bring the manifest and every layer that a device needs into the store.

        Raises:
            StepFailed: ``transfer.stalled``, ``transfer.chunk_altered``, ``disk.full``.
            StepRejected: ``bundle.malformed``: what was signed is outside the contract.
            StepCancelled: `cancelled` said so; what has come is kept.
            OSError: the disk.
        """
        if not self._store.has(manifest_digest):
            content = self._fetch_small(
                manifest_digest, {0: manifest_digest}, MANIFEST_BYTES_MAX, cancelled
            )
            try:
                decode_manifest(content)
            except ProtocolError as error:
                raise StepRejected("bundle.malformed", str(error)) from error
            self._store.add(manifest_digest, content)
        layers = device_layers(self._store.manifest(manifest_digest))
        self._store.check_space((layer.digest, layer.size) for layer in layers)
        total = sum(layer.size for layer in layers)
        done = 0
        for layer in layers:
            if not self._store.has(layer.digest):
                self._fetch_layer(
                    layer,
                    lambda count, before=done: progress(  # type: ignore[misc]
                        Progress(bytes_done=before + count, bytes_total=total)
                    ),
                    cancelled,
                )
            done += layer.size
            progress(Progress(bytes_done=done, bytes_total=total))

    def _fetch_layer(
        self, layer: Descriptor, progress: Callable[[int], None], cancelled: Callable[[], bool]
    ) -> None:
        if layer.size == 0:
            if layer.digest != digest_of(b""):
                raise StepRejected("bundle.malformed", f"{layer.file} is empty and {layer.digest}")
            self._store.add(layer.digest, b"")
            return
        hashes: Sequence[bytes] = (bytes.fromhex(hex_of(layer.digest)),)
        if chunk_count(layer.size) > 1:
            assert layer.chunk_index is not None, layer.file  # decode_manifest saw to it
            index = self._fetch_small(
                layer.digest,
                {_INDEX: layer.chunk_index},
                32 * chunk_count(layer.size),
                cancelled,
            )
            try:
                hashes = parse_index(index, digest=layer.chunk_index, length=layer.size)
            except ProtocolError as error:
                raise StepRejected("bundle.malformed", str(error)) from error
        partial = self._store.partial(layer.digest, layer.size)
        transfer = self._begin(layer.digest, tuple(partial.bitmap.missing()), hashes.__getitem__)
        share = layer.size / len(hashes)

        def accept(number: int, payload: bytes) -> None:
            partial.write(number, payload)
            if partial.unsynchronized >= self._checkpoint_chunks:
                partial.checkpoint()
            progress(min(layer.size, round(partial.bitmap.done() * share)))

        self._run_checkpointed(layer.digest, transfer, partial, accept, cancelled)
        partial.finish()

    def _run_checkpointed(
        self,
        blob: str,
        transfer: Transfer,
        partial: Partial,
        accept: Callable[[int, bytes], None],
        cancelled: Callable[[], bool],
    ) -> None:
        try:
            self._run(blob, transfer, accept, cancelled, partial.checkpoint)
        except (StepFailed, StepCancelled):
            partial.checkpoint()
            raise

    def _fetch_small(
        self,
        blob: str,
        piece: dict[int, str],
        bytes_max: int,
        cancelled: Callable[[], bool],
    ) -> bytes:
        """Fetch one piece into memory."""
        received: list[bytes] = []
        (number,) = piece
        expected = bytes.fromhex(hex_of(piece[number]))
        transfer = self._begin(blob, (number,), lambda _: expected)
        self._run(blob, transfer, lambda _, payload: received.append(payload), cancelled)
        (content,) = received
        if len(content) > bytes_max:
            raise StepRejected("bundle.malformed", f"{blob}: {len(content)} bytes")
        return content

    def _begin(
        self, blob: str, missing: Sequence[int], expected: Callable[[int], bytes]
    ) -> Transfer:
        return Transfer(blob, missing, expected, elapsed_s=self._elapsed(), limits=self._limits)

    def _run(
        self,
        blob: str,
        transfer: Transfer,
        accept: Callable[[int, bytes], None],
        cancelled: Callable[[], bool],
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        """Do what the transfer wishes until it is done; `pause` is called when nothing comes."""
        transport = self._transport
        try:
            while not transfer.done:
                if cancelled():
                    raise StepCancelled
                if not transport.connected():
                    transfer.pause(self._elapsed())
                wishes = transfer.poll(self._elapsed())
                transport.unsubscribe([_topic(blob, number) for number in wishes.unsubscribe])
                transport.subscribe([_topic(blob, number) for number in wishes.subscribe])
                if wishes.missing:
                    self._request_seed(blob, wishes.missing, wishes.refused)
                wait_s = transfer.next_s() - self._elapsed()
                message = transport.receive(max(0.0, min(_WAIT_S, wait_s)))
                if message is not None:
                    self._take(blob, transfer, message, accept)
                else:
                    pause()
        except TransferFailure as failure:
            raise StepFailed(failure.reason.code, failure.reason.detail) from failure
        finally:
            transport.unsubscribe([_topic(blob, number) for number in transfer.asked])

    def _take(
        self,
        blob: str,
        transfer: Transfer,
        message: tuple[str, bytes],
        accept: Callable[[int, bytes], None],
    ) -> None:
        topic, payload = message
        prefix, _, last = topic.rpartition("/")
        if prefix != topics.chunk(blob, 0).rpartition("/")[0]:
            return  # of the blob before this one
        self.bytes_received += len(payload)
        number = _INDEX if last == "index" else int(last)
        try:
            outcome = transfer.receive(number, payload, self._elapsed())
        except TransferFailure as failure:
            self._alarm(failure.reason)
            raise
        if outcome is Outcome.ACCEPTED:
            accept(number, payload)
        elif outcome is Outcome.REFUSED:
            detail = f"chunk {number} of {blob} came with another content than the signed one"
            self._alarm(make_reason("transfer.chunk_altered", detail))

    def _request_seed(self, blob: str, missing: tuple[int, ...], refused: tuple[int, ...]) -> None:
        request = SeedRequest(device=self._device, blob=blob, chunks=missing, refused=refused)
        try:
            sealed = self._seal(request)
        except TokenAway as error:  # what is missing is asked for again
            _log.warning("chunks cannot be asked for: %s", error)
            return
        self._transport.publish(topics.seed(self._device), sealed)


def _topic(blob: str, number: int) -> str:
    return topics.chunk_index(blob) if number == _INDEX else topics.chunk(blob, number)
