"""Fetches what an order names, over the broker, for the devices that are to: byte for byte.

Manifest first, then the layers that devices have; chunks of a blob in exact-topic windows, as the
agent's downloader does. Every blob is checked against its digest, and none is kept: what counts is
what the broker has to send. Chunks that do not come are asked for; then it is given up.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Protocol

from edgectl_protocol import topics
from edgectl_protocol.chunks import chunk_count
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.fields import Reason
from edgectl_protocol.manifest import MANIFEST_BYTES_MAX, decode_manifest, device_layers
from edgectl_protocol.messages import Candidate, SeedRequest
from edgectl_protocol.names import hex_of

__all__ = ["Download", "DownloadFailed"]

_WINDOW = 8
"""Topics of one SUBSCRIBE; the smallest broker of interest takes no more."""
_STALLED_S = 15.0
_SEEDS = 4


class DownloadFailed(Exception):
    """It does not come, or is something else."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = Reason(code=code, detail=detail)


class Subscribes(Protocol):
    """What is needed of the connection."""

    def subscribe(self, *topics: str) -> None:
        """Ask for topics; what is retained there comes."""

    def unsubscribe(self, *topics: str) -> None:
        """Ask for them no longer."""


class Download:
    """One bundle on its way to one device."""

    def __init__(
        self,
        device: str,
        candidate: Candidate,
        link: Subscribes,
        seed: Callable[[SeedRequest], None],
    ) -> None:
        """Prepare.

        Args:
            device: who asks.
            candidate: what is fetched.
            link: the connection, which has to stay.
            seed: asks the server for chunks that the broker does not have.
        """
        self._device, self._candidate = device, candidate
        self._link, self._seed = link, seed
        self._came: dict[str, bytes] = {}
        self._stirred = asyncio.Event()
        self._wanted: set[str] = set()
        self.bytes_done = 0

    def take(self, topic: str, payload: bytes) -> None:
        """Take what has come on a topic of a blob."""
        if topic in self._wanted and payload:
            self._came[topic] = payload
            self._stirred.set()

    async def run(self) -> None:
        """Fetch it.

        Raises:
            DownloadFailed: why not.
        """
        content = await self._blob(self._candidate.manifest, MANIFEST_BYTES_MAX, keep=True)
        try:
            manifest = decode_manifest(content)
        except ProtocolError as error:
            raise DownloadFailed("bundle.malformed", str(error)[:1024]) from error
        for layer in device_layers(manifest):
            if layer.size:  # the broker holds no empty messages
                await self._blob(layer.digest, layer.size)

    async def _blob(self, digest: str, length: int, *, keep: bool = False) -> bytes:
        """Fetch a blob and check it; return it if it is to be kept."""
        count = 1 if keep else chunk_count(length)
        digesting, kept = hashlib.sha256(), b""
        for first in range(0, count, _WINDOW):
            for chunk in await self._chunks(digest, range(first, min(first + _WINDOW, count))):
                digesting.update(chunk)
                self.bytes_done += len(chunk)
                kept = chunk if keep else b""
        if digesting.hexdigest() != hex_of(digest):
            raise DownloadFailed("transfer.chunk_altered", f"{digest} has other content")
        return kept

    async def _chunks(self, digest: str, numbers: range) -> list[bytes]:
        wanted = {topics.chunk(digest, number): number for number in numbers}
        self._wanted, self._came = set(wanted), {}
        self._link.subscribe(*wanted)
        try:
            for _ in range(_SEEDS + 1):
                if await self._all_came():
                    return [self._came[topic] for topic in wanted]
                missing = tuple(no for topic, no in wanted.items() if topic not in self._came)
                self._seed(SeedRequest(device=self._device, blob=digest, chunks=missing))
        finally:
            self._link.unsubscribe(*wanted)
            self._wanted = set()
        raise DownloadFailed("transfer.stalled", f"{len(missing)} chunks of {digest} do not come")

    async def _all_came(self) -> bool:
        """Wait while chunks come; say whether all have."""
        while len(self._came) < len(self._wanted):
            self._stirred.clear()
            try:
                await asyncio.wait_for(self._stirred.wait(), _STALLED_S)
            except TimeoutError:
                return False
        return True
