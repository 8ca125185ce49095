"""The hold: somebody at the device says "not now", and no model is switched until it ends.

``<state>/hold`` is the truth, so that a hold survives a restart and that a script which may write
there needs no agent to talk to. It holds JSON, a holder by name, or a single one::

    {"holds": {"person": {"reason": "night shift", "at": "…", "until": "…", "for_s": 7200}}}
    {"reason": "calibrating", "for_s": 600}

Rules:

1. A file that is empty, or not understood, is a hold without end: who makes one means "not now".
   What is there and is no file counts the same. `touch` is enough.
2. A hold with an end ends by whichever clock says so first: at `until` by the wall clock, or
   `for_s` seconds after this start of the agent has seen it first. So it ends under a wrong clock
   too, and never later than `HOLD_S_MAX` after it was seen.
3. The file is looked at by name and times (one stat), and read when those have changed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from edgectl_agent.core.timing import Moment
from edgectl_agent.durable import READABLE, Disk
from edgectl_agent.errors import Refused, make_reason
from edgectl_agent.local_messages import HOLD_S_MAX, Who, Words
from edgectl_protocol.messages import Reason

__all__ = ["HOLD_FILE", "Held", "HoldFile", "decode_holds"]

HOLD_FILE = "hold"
HOLDS_MAX = 16
_BYTES_MAX = 16 * 1024
_NOT_UNDERSTOOD = "the file is not understood"


class Held(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One hold; every field may be left out."""

    reason: Words = ""
    at: Annotated[datetime, Meta(tz=True)] | None = None
    until: Annotated[datetime, Meta(tz=True)] | None = None
    for_s: Annotated[float, Meta(gt=0, le=HOLD_S_MAX)] | None = None

    @property
    def ends(self) -> bool:
        """Whether it ends by itself."""
        return self.until is not None or self.for_s is not None


class _Holds(Struct, frozen=True, kw_only=True):
    holds: Annotated[dict[Who, Held], Meta(max_length=HOLDS_MAX)]


class HoldFile:
    """The holds of one device; used by the main thread."""

    def __init__(self, disk: Disk, *, changes: bool = True) -> None:
        """Take the state directory; without `changes` a hold that is over is not removed."""
        self._disk = disk
        self._changes = changes
        self._seen: tuple[int, ...] | None = None
        self._holds: dict[str, Held] = {}
        self._ends_s: dict[str, float] = {}
        """By holder: elapsed seconds at which it ends at the latest."""
        self._over: frozenset[str] = frozenset()
        """Holders whose hold has ended, should the file not be writable."""

    def look(self, moment: Moment) -> Reason | None:
        """Return why nothing may be switched now; None: nobody holds."""
        mark = self._mark()
        if mark != self._seen:
            self._read(mark, moment)
        over = {name for name in self._holds if self._is_over(name, moment)} - self._over
        if over:
            self._over |= over
            if self._changes:
                kept = {k: v for k, v in self._holds.items() if k not in self._over}
                self._write(kept, moment)
        return self._reason()

    def put(self, name: str, held: Held, moment: Moment) -> None:
        """Take a hold, in place of an older one of the same name.

        Raises:
            Refused: ``hold.many``.
            OSError: the disk.
        """
        end = None if held.for_s is None else moment.wall + timedelta(seconds=held.for_s)
        held = msgspec.structs.replace(held, at=moment.wall, until=end)
        self.look(moment)
        if len({*self._holds, name}) > HOLDS_MAX:
            raise Refused(
                "hold.many", f"{HOLDS_MAX} hold already", hint="end one: edgectl-agent hold --off"
            )
        self._write({**self._holds, name: held}, moment, raising=True)

    def remove(self, name: str | None, moment: Moment) -> bool:
        """End the hold of `name`, or everybody's; say whether there was one; raise `OSError`."""
        self.look(moment)
        kept = {} if name is None else {k: v for k, v in self._holds.items() if k != name}
        had = len(kept) != len(self._holds) or (name is None and self._mark() is not None)
        if had:
            self._write(kept, moment, raising=True)
        return had

    def shown(self, moment: Moment) -> dict[str, Any]:
        """Return the holds as plain values, with the seconds that are left at most."""
        return {
            name: {
                "reason": held.reason,
                "until": None if held.until is None else held.until.isoformat(),
                "left_s": None
                if name not in self._ends_s
                else round(max(0.0, self._left_s(name, moment)), 1),
            }
            for name, held in sorted(self._holds.items())
            if name not in self._over
        }

    def _left_s(self, name: str, moment: Moment) -> float:
        left_s = self._ends_s[name] - moment.elapsed_s
        until = self._holds[name].until
        return left_s if until is None else min(left_s, (until - moment.wall).total_seconds())

    def _is_over(self, name: str, moment: Moment) -> bool:
        return name in self._ends_s and self._left_s(name, moment) <= 0

    def _reason(self) -> Reason | None:
        holds = {name: held for name, held in self._holds.items() if name not in self._over}
        if not holds:
            return None
        told = "; ".join(_told(name, held) for name, held in sorted(holds.items()))
        return make_reason("update.held", told)

    def _read(self, mark: tuple[int, ...] | None, moment: Moment) -> None:
        self._seen = mark
        before = self._holds
        self._holds = {} if mark is None else self._content(mark)
        kept = {name for name, held in self._holds.items() if before.get(name) == held}
        self._over = frozenset(self._over & kept)
        self._ends_s = {
            name: self._ends_s[name] if name in kept else _end_s(held, moment)
            for name, held in self._holds.items()
            if held.ends
        }

    def _content(self, mark: tuple[int, ...]) -> dict[str, Held]:
        if not stat.S_ISREG(mark[0]):
            return {"file": Held(reason=_NOT_UNDERSTOOD)}
        try:
            return decode_holds(self._disk.read(HOLD_FILE, _BYTES_MAX + 1))
        except OSError:
            return {"file": Held(reason="the file cannot be read")}

    def _write(self, holds: Mapping[str, Held], moment: Moment, *, raising: bool = False) -> None:
        try:
            if holds:
                content = msgspec.json.encode(_Holds(holds=dict(holds)))
                self._disk.write_atomic(HOLD_FILE, content, READABLE)
            else:
                self._disk.unlink_durably(HOLD_FILE)
        except OSError:
            if raising:
                raise
            return  # it is over all the same: `_over` remembers
        self._read(self._mark(), moment)

    def _mark(self) -> tuple[int, ...] | None:
        try:
            seen = os.lstat(self._disk.locate(HOLD_FILE))
        except FileNotFoundError:
            return None
        except OSError:
            return (0,)
        return (seen.st_mode, seen.st_ino, seen.st_size, seen.st_mtime_ns)


def decode_holds(content: bytes) -> dict[str, Held]:
    """Return the holders in a file; whatever is not understood is one without end."""
    if not content.strip():
        return {"file": Held()}
    try:
        if len(content) <= _BYTES_MAX:
            raw: Any = msgspec.json.decode(content)
            if isinstance(raw, dict) and "holds" in raw:
                found = msgspec.convert(raw, _Holds).holds
                return found or {"file": Held()}
            return {"file": msgspec.convert(raw, Held)}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError):
        pass
    return {"file": Held(reason=_NOT_UNDERSTOOD)}


def _end_s(held: Held, moment: Moment) -> float:
    """Return the elapsed second at which the hold ends at the latest, seen now."""
    left_s = HOLD_S_MAX
    if held.until is not None:
        left_s = min(left_s, (held.until - moment.wall).total_seconds())
    if held.for_s is not None:
        left_s = min(left_s, held.for_s)
    return moment.elapsed_s + max(0.0, left_s)


def _told(name: str, held: Held) -> str:
    told = f"held by {name}" + (f": {held.reason}" if held.reason else "")
    return told if held.until is None else f"{told}, until {held.until:%Y-%m-%d %H:%M} UTC"
