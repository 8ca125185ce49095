"""Makes the rest of a bundle by a delta: its manifest, and all layers of it but the model.

The delta is one file's to one file (`edgectl_protocol.rests`). What comes out is cut up again, and
nothing of it is believed: the manifest is the one that was ordered, each layer is hashed as it is
on the disk and has the digest that the manifest says, or all of it is fetched.

Rules:

1. The layers get their names before the manifest: that it is there is what says that the rest need
   not be made, now or after a power loss.
2. It is made only where nothing of the older bundle's rest is missing.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgectl_agent.delta_fetching import Applies, NotUsed, Wish, apply_task, fetch_delta
from edgectl_agent.deltas import DeltaTask
from edgectl_agent.downloader import Downloader
from edgectl_agent.errors import StepFailed, StepRejected
from edgectl_agent.store import Store
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import Manifest, decode_manifest
from edgectl_protocol.names import digest_of, hex_of
from edgectl_protocol.rests import (
    REST_HEAD_BYTES,
    manifest_length,
    missing_layers,
    rest_layers,
    target_length,
)
from edgectl_protocol.transfers import REST_BYTES_MAX, RestOffer

__all__ = ["make_rest"]

_PIECE_BYTES = 256 * 1024


def make_rest(
    offer: RestOffer, wish: Wish, *, downloader: Downloader, store: Store, process: Applies
) -> bool:
    """Make manifest and layers by the delta; return whether there was anything to make.

    Args:
        offer: the delta that the order names.
        wish: the step that it is for.
        downloader: of all blobs.
        store: what is made goes there.
        process: applies it.

    Raises:
        NotUsed: it cannot be made, and no delta is left.
        StepFailed, StepCancelled, OSError: as of `fetch_delta`.
    """
    manifest = wish.step.update.manifest
    if store.has(manifest):
        return False
    try:
        base = _base(offer, store)
        with process:
            path = fetch_delta(
                offer, manifest, wish, downloader=downloader, store=store, process=process
            )
            task = DeltaTask(
                delta=path,
                base=tuple(store.locate(one) for one in (offer.base, *_digests(base))),
                target=store.locate_made(manifest),
                target_sha256=hex_of(offer.target),
                target_bytes=offer.target_bytes,
            )
            apply_task(process, task, wish.cancelled)
        _cut_up(offer, manifest, base, store)
    except NotUsed:
        store.discard_deltas(manifest)
        raise
    store.discard_deltas(manifest)
    return True


def _base(offer: RestOffer, store: Store) -> Manifest:
    """Return the manifest whose rest is here, if the delta can be used on it."""
    if not offer.consistent or offer.size >= offer.target_bytes:
        raise NotUsed("delta.limit", f"{offer.size} bytes for a rest of {offer.target_bytes}")
    try:
        base = store.manifest(offer.base)
    except (StepFailed, StepRejected) as error:
        raise NotUsed("delta.base_missing", f"it is for {offer.base}: {error.detail}") from error
    missing = [one.file for one in rest_layers(base) if not store.has(one.digest)]
    if missing:
        raise NotUsed("delta.base_missing", f"{', '.join(missing)} of {offer.base} is not here")
    length = sum(one.size for one in rest_layers(base))
    if length > REST_BYTES_MAX:
        raise NotUsed("delta.limit", f"a rest of {length} bytes, at most {REST_BYTES_MAX}")
    try:
        # Once as one file, once as files of their own.
        store.check_space([(offer.delta, offer.size), *2 * [(offer.target, offer.target_bytes)]])
    except StepFailed as error:
        raise NotUsed("delta.space", error.detail) from error
    return base


def _digests(base: Manifest) -> tuple[str, ...]:
    return tuple(one.digest for one in rest_layers(base))


def _cut_up(offer: RestOffer, wanted: str, base: Manifest, store: Store) -> None:
    """Store what is in the file that was made; the manifest last."""
    content = _Pieces(store.made(wanted))
    try:
        manifest = content.take(manifest_length(content.take(REST_HEAD_BYTES)))
        if digest_of(manifest) != wanted:
            raise NotUsed("delta.target", f"it makes another manifest than {wanted}")
        layers = missing_layers(decode_manifest(manifest), base)
    except ProtocolError as error:
        raise NotUsed("delta.target", str(error)) from error
    length = target_length(len(manifest), layers)
    if length != offer.target_bytes:
        raise NotUsed("delta.target", f"it makes {offer.target_bytes} bytes, named are {length}")
    for layer in layers:
        if store.has(layer.digest):
            for _ in content.pieces(layer.size):
                pass
            continue
        store.write_made(layer.digest, content.pieces(layer.size))
        if not store.adopt(layer.digest, layer.size):
            store.discard_deltas(layer.digest)
            raise NotUsed("delta.target", f"what was made as {layer.file} is not what was signed")
    store.add(wanted, manifest)


class _Pieces:
    """A file that is read once, piece by piece."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._left = memoryview(b"")

    def take(self, length: int) -> bytes:
        """Return the next bytes; fewer at the end of the file."""
        while len(self._left) < length and (block := next(self._blocks, b"")):
            self._left = memoryview(b"".join((self._left, block)))
        taken, self._left = bytes(self._left[:length]), self._left[length:]
        return taken

    def pieces(self, length: int) -> Iterator[bytes]:
        """Yield the next bytes in pieces."""
        while length > 0 and (piece := self.take(min(length, _PIECE_BYTES))):
            yield piece
            length -= len(piece)
