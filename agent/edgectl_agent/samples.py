"""Samples that wait for their upload, on disk, and what of them may leave in a day.

Rules:

1. Nothing is kept or sent that no policy of the newest order asks for, and nothing at all where the
   device's own setting forbids it (`samples = false`): then what was kept before is deleted, also
   what was on offer already.
2. Each sample is a file ``samples/<sha256>`` of mode 0600, which says itself what it is of. All
   together stay within a budget; the oldest of the reason that takes the most room goes first.
   What was not redacted goes where the settings want redaction, and what is not sealed where the
   policy has a key; so also what was kept, or was on offer, before these did.
3. What may leave in a day is counted by model and day of UTC in ``samples/spent.json``, written
   before the sample is offered: a restart, or a power cut in between, never gives more. A clock
   that jumps to another day and back finds what that day has spent.
4. A few at a time are handed to `edgectl_agent.uploads`, and none for which something else would
   have to go.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, ParamSpec

import msgspec

from edgectl_agent.core.timing import Moment
from edgectl_agent.durable import PRIVATE, Disk
from edgectl_agent.uploads import Uploads
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.names import digest_of, hex_of
from edgectl_protocol.samples import (
    SAMPLE_HEAD_BYTES_MAX,
    SAMPLE_MEDIA_TYPE,
    SampleNote,
    SamplePolicy,
    read_sample_head,
)
from edgectl_protocol.sealed_samples import (
    SEALED_MEDIA_TYPE,
    SEALED_SAMPLE_BYTES_MAX,
    is_sealed,
    read_sealed_head,
)

__all__ = ["OFFERED_MAX", "Samples"]

OFFERED_MAX = 4
"""Samples that are on offer at a time, so that a log finds its place beside them."""
_DAYS_KEPT = 8
_FOLDER = "samples"
_SPENT = "spent.json"
_SPENT_BYTES_MAX = 64 * 1024
_NAME = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)
P = ParamSpec("P")


class _Kept(NamedTuple):
    note: SampleNote
    length: int
    media_type: str


class Samples:
    """The samples of one device; used by the main thread."""

    def __init__(
        self, disk: Disk, uploads: Uploads, *, allowed: bool, bytes_max: int, redacts: bool = False
    ) -> None:
        """Begin with what is on the disk.

        Args:
            disk: the state directory.
            uploads: sends them.
            allowed: the device's own setting; False wins over every policy.
            bytes_max: budget of what waits here.
            redacts: the device's own setting; what was not redacted is not kept then.
        """
        self._disk = disk
        self._uploads = uploads
        self._allowed = allowed
        self._bytes_max = bytes_max
        self._redacts = redacts
        self._kept: dict[str, _Kept] = {}
        self._spent: dict[str, dict[str, int]] = {}
        """Bytes by model and day."""
        try:
            self._load()
        except OSError as error:
            _log.warning("samples cannot be read: %s", error)

    def policies(self, ordered: Mapping[str, SamplePolicy]) -> dict[str, SamplePolicy]:
        """Return which of the order's policies hold on this device, by slot."""
        return {slot: one for slot, one in ordered.items() if one.on} if self._allowed else {}

    def key_of(self, content: bytes, policies: Mapping[str, SamplePolicy]) -> bytes | None:
        """Return the key to which a sample that was taken is to be sealed; None: it is not."""
        try:
            note = read_sample_head(content[:SAMPLE_HEAD_BYTES_MAX], len(content)).note
        except ProtocolError:
            return None  # `keep` says what is wrong
        policy = policies.get(note.model)
        return None if policy is None else policy.key

    def keep(self, content: bytes, policies: Mapping[str, SamplePolicy]) -> None:
        """Keep a sample that was taken, if `policies` still ask for it."""
        try:
            kept = _describe(content[:SAMPLE_HEAD_BYTES_MAX], len(content))
        except ProtocolError as error:
            _log.warning("a sample is not kept: %s", error)
            return
        if not self._wanted(kept.note, kept.media_type, policies) or len(content) > self._bytes_max:
            return
        self._guarded(self._store, hex_of(digest_of(content)), kept, content)

    @property
    def waiting(self) -> int:
        """How many samples wait here."""
        return len(self._kept)

    def tidy(self, policies: Mapping[str, SamplePolicy]) -> None:
        """Delete what nobody asks for any more, also of what is on offer; first at each start."""
        for held in self._uploads.held("sample"):
            if held.sample is None or not self._wanted(held.sample, held.media_type, policies):
                self._uploads.withdraw(held)
        for name, kept in list(self._kept.items()):
            if not self._wanted(kept.note, kept.media_type, policies):
                self._guarded(self._remove, name)

    def pump(self, policies: Mapping[str, SamplePolicy], moment: Moment) -> None:
        """Delete what nobody asks for any more, and offer what is due."""
        self.tidy(policies)
        day = f"{moment.wall:%Y-%m-%d}"
        for name, kept in sorted(self._kept.items(), key=lambda one: one[1].note.taken_at):
            if len(self._uploads.held("sample")) >= OFFERED_MAX:
                return
            policy = policies[kept.note.model]
            spent = self._spent.get(kept.note.model, {}).get(day, 0)
            if spent + kept.length > policy.bytes_per_day:
                continue
            if not self._uploads.has_room(kept.length):
                return
            self._guarded(self._offer, name, day, moment)

    def _offer(self, name: str, day: str, moment: Moment) -> None:
        kept = self._kept[name]
        try:
            content = self._disk.read(_path(name), SEALED_SAMPLE_BYTES_MAX)
        except OSError:
            del self._kept[name]  # else it would be tried for ever
            raise
        days = self._spent.setdefault(kept.note.model, {})
        days[day] = days.get(day, 0) + kept.length
        while len(days) > _DAYS_KEPT:
            del days[next(iter(days))]
        self._disk.write_atomic(_path(_SPENT), msgspec.json.encode(self._spent), PRIVATE)
        self._uploads.add(
            "sample",
            content,
            kept.media_type,
            at=moment.wall,
            elapsed_s=moment.elapsed_s,
            sample=kept.note,
        )
        self._remove(name)

    def _wanted(
        self, note: SampleNote, media_type: str, policies: Mapping[str, SamplePolicy]
    ) -> bool:
        """Say whether a sample may lie here and leave."""
        policy = policies.get(note.model)
        if policy is None or note.reason not in policy.reasons:
            return False
        if self._redacts and not note.redacted:
            return False
        return policy.key is None or media_type == SEALED_MEDIA_TYPE

    def _store(self, name: str, kept: _Kept, content: bytes) -> None:
        while sum(one.length for one in self._kept.values()) + len(content) > self._bytes_max:
            self._remove(self._first_to_go())
        self._disk.make_directory(_FOLDER)
        self._disk.write_atomic(_path(name), content, PRIVATE)
        self._kept[name] = kept

    def _first_to_go(self) -> str:
        """Return the oldest of the reason that takes the most room."""
        room: dict[str, int] = {}
        for kept in self._kept.values():
            room[kept.note.reason] = room.get(kept.note.reason, 0) + kept.length
        largest = max(room, key=lambda reason: room[reason])
        names = [name for name, kept in self._kept.items() if kept.note.reason == largest]
        return min(names, key=lambda name: self._kept[name].note.taken_at)

    def _remove(self, name: str) -> None:
        self._kept.pop(name, None)
        self._disk.unlink_durably(_path(name))

    def _guarded(self, act: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do something with the disk, which may be full: no sample is worth the agent."""
        try:
            act(*args, **kwargs)
        except OSError as error:
            _log.warning("the samples' folder cannot be changed: %s", error)

    def _load(self) -> None:
        """Read what is there, and remove what is no sample."""
        names = self._disk.list(_FOLDER)
        if _SPENT in names:
            try:
                content = self._disk.read(_path(_SPENT), _SPENT_BYTES_MAX)
                self._spent = msgspec.json.decode(content, type=dict[str, dict[str, int]])
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                _log.warning("what samples have spent today is not known any more: %s", error)
        for name in names:
            if name == _SPENT:
                continue
            length = self._disk.size(_path(name)) or 0
            head = self._disk.read(_path(name), SAMPLE_HEAD_BYTES_MAX)
            try:
                kept = _describe(head, length)
            except ProtocolError:
                self._disk.unlink(_path(name))
                continue
            if _NAME.fullmatch(name):
                self._kept[name] = kept
            else:
                self._disk.unlink(_path(name))  # it was not written to its end


def _path(name: str) -> str:
    return f"{_FOLDER}/{name}"


def _describe(head: bytes, length: int) -> _Kept:
    """Return what a file says of itself; raise `ProtocolError` for what is no sample.

    Args:
        head: its first `SAMPLE_HEAD_BYTES_MAX` bytes, or all that it has.
        length: of the whole.
    """
    if is_sealed(head):
        return _Kept(read_sealed_head(head, length).note, length, SEALED_MEDIA_TYPE)
    return _Kept(read_sample_head(head, length).note, length, SAMPLE_MEDIA_TYPE)
