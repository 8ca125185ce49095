"""One page of memory in which the inference process shows that it lives and what it computes.

The child writes, the supervisor reads, and neither waits for the other. What it shows is the event
loop's life, not a thread's: a model that computes for ever on the loop stops the beat, and its name
stays on the page. So it does after a crash. The page is a file without a name (memfd_create(2)),
inherited by number.

Rules:

* The supervisor counts only time in which it has looked itself: a machine that was asleep or too
  busy for both of them is no sign of a hung child.
* Reading is never torn where it matters: a child that hangs or is dead does not write.
"""

from __future__ import annotations

import mmap
import os

__all__ = ["BEAT_S", "Place", "Pulse", "Silence", "make_page", "padded"]

BEAT_S = 1.0
"""The event loop says so often that it lives."""
LOOK_S_MAX = 1.0
"""What one look counts at most."""
_PAGE_BYTES = 4096
_BEATS = slice(0, 8)
_NAME_BYTES = 128


class Place:
    """Where a model may compute: the offset of its name on the page."""

    LOOP = 64
    WORKER = LOOP + _NAME_BYTES
    MIRROR = WORKER + _NAME_BYTES
    """A companion, with a copy of a request."""
    ALL = (LOOP, WORKER, MIRROR)


def make_page() -> int:
    """Return a descriptor of an empty page; raise `OSError`."""
    descriptor = os.memfd_create("edgectl-pulse", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, _PAGE_BYTES)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class Pulse:
    """The page, on either side."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Map `descriptor`, which stays the caller's; None for a page that nobody else sees."""
        self._page = mmap.mmap(-1 if descriptor is None else descriptor, _PAGE_BYTES)

    def beat(self) -> None:
        """Say that the event loop lives."""
        self._page[_BEATS] = (self.beats() + 1).to_bytes(8, "little")

    def beats(self) -> int:
        """Return how often it has said so."""
        return int.from_bytes(self._page[_BEATS], "little")

    def begin(self, place: int, name: bytes) -> None:
        """Say that the model of that manifest computes at `place` from now on.

        Args:
            place: one of `Place`.
            name: the manifest's digest, padded by `padded`.
        """
        self._page[place : place + _NAME_BYTES] = name

    def end(self, place: int) -> None:
        """Say that nothing computes at `place` any more."""
        self._page[place] = 0

    def computing(self, *places: int) -> tuple[str, ...]:
        """Return the manifests of what computes at `places`, or did when the child died."""
        names = []
        for place in places:
            name = self._page[place : place + _NAME_BYTES]
            if name[0]:
                names.append(name.rstrip(b"\0").decode("ascii", "replace"))
        return tuple(names)

    def close(self) -> None:
        """Give the mapping back."""
        self._page.close()


def padded(manifest: str) -> bytes:
    """Return a manifest's digest as `Pulse.begin` takes it."""
    name = manifest.encode("ascii", "replace")
    assert len(name) <= _NAME_BYTES, manifest
    return name.ljust(_NAME_BYTES, b"\0")


class Silence:
    """How long no beat has been seen, in time in which somebody looked."""

    def __init__(self) -> None:
        self._beats = -1
        self._looked_s = 0.0
        self._silent_s = 0.0

    def look(self, beats: int, elapsed_s: float) -> float:
        """Return the seconds of silence.

        Args:
            beats: as `Pulse.beats` says now.
            elapsed_s: seconds on a clock that only grows.
        """
        if beats != self._beats:
            self._beats, self._silent_s = beats, 0.0
        else:
            self._silent_s += min(elapsed_s - self._looked_s, LOOK_S_MAX)
        self._looked_s = elapsed_s
        return self._silent_s
