"""Brings blobs into the store, from whatever source has them.

Every blob is a file of chunks, each checked before it is written; the digests of the chunks are the
blob's own digest where there is one chunk, else they are in the chunk index, whose digest is signed
in the manifest. The manifest itself is one chunk.

Sources (`edgectl_agent.pieces`) take turns: one is asked until it cannot go on, then the next one
for what is missing, chunk by chunk in the same file. The broker is asked first, unless there is a
mirror, because there a chunk costs the server nothing however many devices want it; what has given
one file of a bundle is asked first for its next one. It is a failure when every source has had
`ROUNDS_MAX` turns without bringing anything, or one where content came altered; turns without a
connection to the broker do not count.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from msgspec import Struct

from edgectl_agent.broker_pieces import BrokerPieces, Transport
from edgectl_agent.checkpoints import CHECKPOINT_CHUNKS, Checkpoints
from edgectl_agent.core.pacing import Pacer
from edgectl_agent.core.transfer import TransferLimits
from edgectl_agent.errors import StepCancelled, StepFailed, StepRejected
from edgectl_agent.pieces import INDEX, Source, SourceFailed, Want
from edgectl_agent.store import Partial, Store
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
from edgectl_protocol.pulls import blob_path, manifest_path

__all__ = ["Downloader", "Progress", "Transport"]

ROUNDS_MAX = 4
_log = logging.getLogger(__name__)


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
        background: Executor | None = None,
        pacer: Pacer | None = None,
        before: Sequence[Source] = (),
        after: Sequence[Source] = (),
        broker: bool = True,
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
            background: waits for the disk meanwhile, one call at a time; None: the caller does.
            pacer: bound on bytes per second.
            before: sources that are asked before the broker.
            after: sources that are asked after it.
            broker: whether the broker is asked at all.
        """
        self._store = store
        self._elapsed = elapsed
        self._checkpoint_chunks = checkpoint_chunks
        self._background = background
        retained = BrokerPieces(
            device,
            transport,
            seal=seal,
            alarm=alarm,
            elapsed=elapsed,
            limits=limits,
            pacer=pacer,
        )
        self._sources: tuple[Source, ...] = (*before, *((retained,) if broker else ()), *after)
        assert self._sources
        self._first = 0
        """The source that gave the last file of this bundle."""

    @property
    def bytes_received(self) -> int:
        """Payload bytes of chunks and indexes since the start, also of those not believed."""
        return sum(one.bytes_received for one in self._sources)

    @property
    def bad_pieces(self) -> dict[str, int]:
        """What came and was not wanted, since the start, by `BadPiece`; for any thread."""
        return dict(sum((one.bad_pieces for one in self._sources), Counter[str]()))

    def fetch(
        self,
        manifest_digest: str,
        *,
        model: str,
        progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ) -> None:
        """Bring the manifest and every layer that a device needs into the store.

        Args:
            manifest_digest: of the bundle.
            model: whose bundle it is.
            progress: told how far it has come.
            cancelled: whether to give up.

        Raises:
            StepFailed: ``transfer.stalled``, ``transfer.chunk_altered``, ``transfer.refused``,
                ``disk.full``.
            StepRejected: ``bundle.malformed``: what was signed is outside the contract.
            StepCancelled: `cancelled` said so; what has come is kept.
            OSError: the disk.
        """
        self.fetch_manifest(manifest_digest, model=model, cancelled=cancelled)
        layers = device_layers(self._store.manifest(manifest_digest))
        self._store.check_space((layer.digest, layer.size) for layer in layers)
        total = sum(layer.size for layer in layers)
        done = 0
        for layer in layers:
            if not self._store.has(layer.digest):
                self.fetch_blob(
                    layer,
                    model,
                    lambda count, before=done: progress(  # type: ignore[misc]
                        Progress(bytes_done=before + count, bytes_total=total)
                    ),
                    cancelled,
                )
            done += layer.size
            progress(Progress(bytes_done=done, bytes_total=total))

    def fetch_manifest(
        self, manifest_digest: str, *, model: str, cancelled: Callable[[], bool]
    ) -> None:
        """Bring the manifest alone; arguments and errors as of `fetch`."""
        if self._store.has(manifest_digest):
            return
        self._first = 0
        content = self._fetch_small(
            manifest_digest,
            {0: manifest_digest},
            manifest_path(model, manifest_digest),
            MANIFEST_BYTES_MAX,
            cancelled,
        )
        try:
            decode_manifest(content)
        except ProtocolError as error:
            raise StepRejected("bundle.malformed", str(error)) from error
        self._store.add(manifest_digest, content)

    def fetch_blob(
        self,
        layer: Descriptor,
        model: str,
        progress: Callable[[int], None],
        cancelled: Callable[[], bool],
        partial: Partial | None = None,
    ) -> None:
        """Bring one blob; errors as of `fetch`.

        Args:
            layer: digest, size and chunk index.
            model: in whose repository it is.
            progress: told how many of its bytes have come.
            cancelled: whether to give up.
            partial: where it is kept; None: among the blobs.
        """
        if layer.size == 0:
            if layer.digest != digest_of(b""):
                raise StepRejected("bundle.malformed", f"{layer.file} is empty and {layer.digest}")
            self._store.add(layer.digest, b"")
            return
        if chunk_count(layer.size) == 1:
            path = blob_path(model, layer.digest)
            content = self._fetch_small(
                layer.digest, {0: layer.digest}, path, layer.size, cancelled
            )
            if len(content) != layer.size:
                raise StepRejected("bundle.malformed", f"{layer.file}: {len(content)} bytes")
            if partial is None:
                self._store.add(layer.digest, content)
            else:
                partial.write(0, content)
                partial.finish(checked=True)
            return
        hashes = self._fetch_index(layer, model, cancelled)
        partial = partial or self._store.partial(layer.digest, layer.size)
        share = layer.size / len(hashes)
        checkpoints = Checkpoints(
            partial,
            chunks=self._checkpoint_chunks,
            elapsed=self._elapsed,
            background=self._background,
        )

        def accept(number: int, payload: bytes) -> None:
            partial.write(number, payload)
            checkpoints.wrote()
            progress(min(layer.size, round(partial.bitmap.done() * share)))

        want = Want(
            layer.digest,
            path=blob_path(model, layer.digest),
            length=layer.size,
            missing=partial.bitmap.missing(),
            expected=hashes.__getitem__,
            accept=accept,
        )
        try:
            self._bring(want, cancelled, checkpoints.pause)
        except (StepFailed, StepCancelled):
            checkpoints.wait()
            partial.checkpoint()
            raise
        finally:
            checkpoints.wait()
            partial.close()
        partial.finish(checked=True)

    def _fetch_index(
        self, layer: Descriptor, model: str, cancelled: Callable[[], bool]
    ) -> Sequence[bytes]:
        """Return the signed digest of each chunk of a layer."""
        assert layer.chunk_index is not None, layer.file  # decode_manifest saw to it
        index = self._fetch_small(
            layer.digest,
            {INDEX: layer.chunk_index},
            blob_path(model, layer.chunk_index),
            32 * chunk_count(layer.size),
            cancelled,
        )
        try:
            return parse_index(index, digest=layer.chunk_index, length=layer.size)
        except ProtocolError as error:
            raise StepRejected("bundle.malformed", str(error)) from error

    def _fetch_small(
        self,
        blob: str,
        piece: dict[int, str],
        path: str,
        bytes_max: int,
        cancelled: Callable[[], bool],
    ) -> bytes:
        """Fetch one piece into memory."""
        received: list[bytes] = []
        (number,) = piece
        expected = bytes.fromhex(hex_of(piece[number]))
        want = Want(
            blob,
            path=path,
            length=bytes_max,
            missing=(number,),
            expected=lambda _: expected,
            accept=lambda _, payload: received.append(payload),
            whole=True,
        )
        self._bring(want, cancelled)
        (content,) = received
        if len(content) > bytes_max:
            raise StepRejected("bundle.malformed", f"{blob}: {len(content)} bytes")
        return content

    def _bring(
        self,
        want: Want,
        cancelled: Callable[[], bool],
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        """Let the sources take turns until everything is there."""
        alone = len(self._sources) == 1
        idle = 0
        while want.missing:
            taken = want.bytes_taken
            reasons: dict[str, Reason] = {}
            waiting = False
            for number, source in self._in_turn():
                try:
                    source.fetch(want, alone=alone, cancelled=cancelled, pause=pause)
                except SourceFailed as failure:
                    _log.warning("%s gives no more of it now: %s", source.name, failure)
                    reasons[source.name] = failure.reason
                    waiting = waiting or failure.waits
                if not want.missing:
                    self._first = number
                    return
            if want.bytes_taken > taken:
                idle = 0
            elif not waiting:
                idle += 1
            altered = any(one.code == "transfer.chunk_altered" for one in reasons.values())
            if idle >= ROUNDS_MAX or (idle and altered) or (alone and reasons):
                raise _failed(reasons)

    def _in_turn(self) -> list[tuple[int, Source]]:
        """Return the sources by number, what gave the last file first."""
        numbered = list(enumerate(self._sources))
        return numbered[self._first :] + numbered[: self._first]


def _failed(reasons: dict[str, Reason]) -> StepFailed:
    """Return what is reported: what was altered, before what the broker said, before the rest."""
    found = list(reasons.values())
    altered = [one for one in found if one.code == "transfer.chunk_altered"]
    first = next(iter(altered), None) or reasons.get("mqtt") or found[0]
    others = [one.detail for one in found if one is not first]
    return StepFailed(first.code, "; ".join([first.detail, *others]))
