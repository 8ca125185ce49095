"""What the device offers to the server, on disk until the server has it or does not want it.

Rules:

1. Each content is a file ``uploads/<sha256>`` of mode 0600 with what is said of it beside it, in
   ``uploads/<sha256>.json``, which is written last: a file without it was never offered and is
   removed at the next start.
2. All of them together stay within a budget; the oldest goes first.
3. What is held is offered again after each start, and when the server has not spoken of it for
   `OFFER_AGAIN_S`, until it says that it has it or refuses it. Both end it.
4. Nothing is sent but what is on offer here and was asked for; a wish counts once. Who writes
   wishes cannot make the device speak faster than `bytes_per_s`, and a few chunks at most are on
   their way, so that states and events never stand behind megabytes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from edgectl_agent.durable import PRIVATE, TEMPORARY_SUFFIX, Disk
from edgectl_protocol import topics
from edgectl_protocol.chunks import CHUNK_BYTES, chunk_count, make_index
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.messages import decode
from edgectl_protocol.names import Digest, digest_of, hex_of
from edgectl_protocol.samples import SampleNote
from edgectl_protocol.uploads import (
    INDEX_NUMBER,
    UPLOAD_BYTES_MAX,
    UploadAnswer,
    UploadKind,
    UploadWanted,
    encode_upload_chunk,
)

__all__ = ["UPLOADS_MAX", "Held", "Uploads"]

UPLOADS_MAX = 16
"""Contents that are held at once."""
OFFER_AGAIN_S = 600.0
_WISHES_MAX = 64
"""Chunks that wait for their turn; the server asks again for what is forgotten."""
_BURST_S = 0.3
"""Of the rate: a little more than one turn of the main loop."""
_FOLDER = "uploads"
_NAME = re.compile(r"[0-9a-f]{64}")
_BESIDE = ".json"
_BESIDE_BYTES_MAX = 64 * 1024
_log = logging.getLogger(__name__)


class Held(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is written beside a content."""

    kind: UploadKind
    upload: Digest
    length: int
    media_type: str
    at: datetime
    index: bytes = b""
    """The chunk index; empty for content of one chunk."""
    request: UploadAnswer | None = None
    sample: SampleNote | None = None

    @property
    def chunk_index(self) -> str | None:
        """Digest of the chunk index, as it is offered."""
        return digest_of(self.index) if self.index else None


class Voice(Protocol):
    """The connection, as it is used here."""

    def connected(self) -> bool:
        """Say whether there is a connection now."""

    def publish_bulk(self, topic: str, payload: bytes) -> bool:
        """Send, unless enough is on its way."""


class Uploads:
    """The contents of one device; used by the main thread."""

    def __init__(
        self,
        device: str,
        disk: Disk,
        *,
        bytes_max: int,
        bytes_per_s: int,
        offer: Callable[[Held], None],
        voice: Voice,
        say: Callable[[dict[str, Any]], None],
    ) -> None:
        """Begin with what is on the disk; nothing is offered before `start`.

        Args:
            device: our name.
            disk: the state directory.
            bytes_max: budget of all contents.
            bytes_per_s: how fast chunks are sent.
            offer: tells the server, until that has acknowledged it.
            voice: the connection.
            say: for whoever watches the process.
        """
        self._topic = topics.upload_chunk(device)
        self._disk = disk
        self._bytes_max = bytes_max
        self._bytes_per_s = bytes_per_s
        self._offer = offer
        self._voice = voice
        self._say = say
        self._held: dict[str, Held] = {}
        self._heard_s: dict[str, float] = {}
        self._wishes: dict[tuple[str, int], None] = {}
        self._next_s = 0.0
        try:
            self._load()
        except OSError as error:
            _log.warning("what was to be uploaded cannot be read: %s", error)

    def start(self, elapsed_s: float) -> None:
        """Offer everything that is held."""
        for held in self._held.values():
            self._heard_s[held.upload] = elapsed_s
            self._offer(held)

    def add(
        self,
        kind: UploadKind,
        content: bytes,
        media_type: str,
        *,
        at: datetime,
        elapsed_s: float,
        request: UploadAnswer | None = None,
        sample: SampleNote | None = None,
    ) -> Held | None:
        """Hold and offer `content`; None, and a warning in the log, where that cannot be."""
        if not 0 < len(content) <= min(UPLOAD_BYTES_MAX, self._bytes_max):
            _log.warning("%d bytes of %s are not to be uploaded", len(content), kind)
            return None
        parts = (content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES))
        held = Held(
            kind=kind,
            upload=digest_of(content),
            length=len(content),
            media_type=media_type,
            at=at,
            index=make_index(parts) if chunk_count(len(content)) > 1 else b"",
            request=request,
            sample=sample,
        )
        path = _path(held.upload)
        try:
            self._forget(held.upload)
            while self._held and not self.has_room(len(content)):
                oldest = min(self._held.values(), key=lambda one: one.at)
                _log.warning("no room: %s of %s is not uploaded", oldest.kind, oldest.at)
                self._forget(oldest.upload)
            self._disk.make_directory(_FOLDER)
            self._disk.write_atomic(path, content, PRIVATE)
            self._disk.write_atomic(path + _BESIDE, msgspec.json.encode(held), PRIVATE)
        except OSError as error:
            _log.warning("%s cannot be kept for the server: %s", kind, error)
            return None
        self._held[held.upload] = held
        self._heard_s[held.upload] = elapsed_s
        self._offer(held)
        return held

    def held(self, kind: UploadKind) -> tuple[Held, ...]:
        """Return what is held of a kind, the oldest first."""
        return tuple(one for one in self._held.values() if one.kind == kind)

    def has_room(self, length: int) -> bool:
        """Say whether a content of so many bytes can be added without another one going."""
        used = sum(one.length for one in self._held.values())
        return used + length <= self._bytes_max and len(self._held) < UPLOADS_MAX

    def withdraw(self, held: Held) -> None:
        """Send no more of a content, and remove it."""
        try:
            self._forget(held.upload)
        except OSError as error:
            _log.warning("%s cannot be removed: %s", held.upload, error)

    def take(self, payload: bytes, elapsed_s: float) -> None:
        """Take what the server says of an upload."""
        try:
            wanted = decode(UploadWanted, payload)
        except ProtocolError as error:
            _log.warning("%s", error)
            return
        held = self._held.get(wanted.upload)
        if held is None:
            return
        self._heard_s[held.upload] = elapsed_s
        if wanted.done or wanted.refused is not None:
            self._end(held, wanted)
            return
        for number in wanted.chunks:
            first = INDEX_NUMBER if held.index else 0
            if first <= number < chunk_count(held.length) and len(self._wishes) < _WISHES_MAX:
                self._wishes[held.upload, number] = None

    def pump(self, elapsed_s: float) -> None:
        """Send what is wanted and due now; offer again what nobody has spoken of."""
        if not self._voice.connected():
            return
        for held in list(self._held.values()):
            if elapsed_s - self._heard_s.get(held.upload, elapsed_s) >= OFFER_AGAIN_S:
                self._heard_s[held.upload] = elapsed_s
                self._offer(held)
        self._next_s = max(self._next_s, elapsed_s - _BURST_S)
        while self._wishes and self._next_s <= elapsed_s:
            upload, number = next(iter(self._wishes))
            content = self._read(self._held[upload], number)
            if content is None:
                del self._wishes[upload, number]
                continue
            if not self._voice.publish_bulk(
                self._topic, encode_upload_chunk(upload, number, content)
            ):
                return
            del self._wishes[upload, number]
            self._next_s += len(content) / self._bytes_per_s

    def _read(self, held: Held, number: int) -> bytes | None:
        """Return a chunk; None where it cannot be read."""
        if number == INDEX_NUMBER:
            return held.index
        try:
            with open(self._disk.locate(_path(held.upload)), "rb") as file:  # noqa: PTH123
                file.seek(number * CHUNK_BYTES)
                return file.read(CHUNK_BYTES) or None
        except OSError as error:
            _log.warning("%s cannot be read: %s", held.upload, error)
            return None

    def _end(self, held: Held, wanted: UploadWanted) -> None:
        line: dict[str, Any] = {"event": "upload", "upload": held.upload, "state": "done"}
        if wanted.refused is not None:
            reason = wanted.refused
            line |= {
                "state": "refused",
                "reason": {"code": reason.code, "detail": reason.detail},
            }
            _log.warning("the server does not take %s: %s", held.kind, reason.detail)
        self.withdraw(held)
        self._say(line)

    def _forget(self, upload: str) -> None:
        """Remove a content; one that is not there is no error."""
        self._held.pop(upload, None)
        self._heard_s.pop(upload, None)
        for wish in [one for one in self._wishes if one[0] == upload]:
            del self._wishes[wish]
        path = _path(upload)
        self._disk.unlink_durably(path + _BESIDE)  # first: what has none is removed anyway
        self._disk.unlink_durably(path)

    def _load(self) -> None:
        """Read what is there, and remove what belongs to nothing."""
        names = set(self._disk.list(_FOLDER))
        found = []
        for name in names:
            if not _NAME.fullmatch(name) or name + _BESIDE not in names:
                continue
            content = self._disk.read(f"{_FOLDER}/{name}{_BESIDE}", _BESIDE_BYTES_MAX)
            try:
                held = msgspec.json.decode(content, type=Held)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
            if hex_of(held.upload) == name and self._disk.size(f"{_FOLDER}/{name}") == held.length:
                found.append(held)
        self._held = {one.upload: one for one in sorted(found, key=lambda one: one.at)}
        known = {hex_of(upload) for upload in self._held}
        for name in names:
            plain = name.removesuffix(TEMPORARY_SUFFIX).removesuffix(_BESIDE)
            if plain not in known or name.endswith(TEMPORARY_SUFFIX):
                self._disk.unlink(f"{_FOLDER}/{name}")


def _path(upload: str) -> str:
    return f"{_FOLDER}/{hex_of(upload)}"
