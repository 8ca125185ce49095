"""Between the slots' pointers and the inference process: what runs is what the pointer says.

Rules:

1. The pointer changes first, then the bundle is loaded: both can be done twice.
2. Nothing is loaded whose files were not hashed just before.
3. A slot whose files are found damaged falls back to its previous model where that is sound, and
   is empty otherwise; the update machine is told, and has the damaged files fetched again.
4. A slot whose key is not to be had (an encrypted bundle, the medium with the device's key not
   mounted) waits for it and changes nothing.
5. A content key is forgotten as soon as the inference process has been given it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from typing import Protocol

from edgectl_agent.bundle import Bundle
from edgectl_agent.core.record import SlotPointer
from edgectl_agent.core.steps import HealthSeen, PointerChanged
from edgectl_agent.errors import KeyUnavailable, StepFailed, StepRejected, make_reason
from edgectl_agent.inference.errors import InferenceDown, InferenceError, LoadFailed
from edgectl_agent.store import Store
from edgectl_protocol.messages import InferenceWindow, Installed, Reason

__all__ = ["Inference", "Serving", "SlotCounts"]

_BLAMED = frozenset({"load.invalid", "load.contract", "load.warm_up"})
"""Why a bundle would not load that are the bundle's own fault."""
_log = logging.getLogger(__name__)


class SlotCounts(Protocol):
    """Counts of what serves in a slot, since it was loaded."""

    @property
    def manifest(self) -> str:
        """What serves."""

    @property
    def requests(self) -> int:
        """All requests."""

    @property
    def errors(self) -> int:
        """Those that failed."""

    @property
    def non_finite(self) -> int:
        """Those with a NaN or an infinity among the outputs."""


class Inference(Protocol):
    """What is needed of the inference process."""

    def load(self, bundle: Bundle) -> float:
        """Serve `bundle` in its slot; milliseconds that loading took."""

    def unload(self, slot: str) -> None:
        """Serve nothing in `slot`."""

    def health(self, slot: str) -> SlotCounts:
        """Return the counts of `slot`."""

    def windows(self) -> tuple[InferenceWindow, ...]:
        """Return the counts since the last call, by slot and manifest."""


class Serving:
    """Keeps the inference process at what the pointers say."""

    def __init__(self, store: Store, inference: Inference) -> None:
        self._store = store
        self._inference = inference
        self._loaded: dict[str, str] = {}
        self.silent: dict[str, Reason] = {}
        """Slots that should serve and do not, and why; `restore` tries them again."""
        self.lock = threading.RLock()
        """Held while the inference process changes; a poll that finds it held comes again."""

    def activate(self, slot: str, installed: Installed) -> SlotPointer:
        """Point `slot` to a bundle and load it.

        Raises:
            StepFailed: a file is damaged, or the inference process is down.
            StepRejected: the inference process will not load this bundle.
        """
        with self.lock:
            bundle = self._bundle(slot, installed)
            pointer = self._store.pointers().get(slot, SlotPointer())
            if pointer.running is None or pointer.running.manifest != installed.manifest:
                pointer = SlotPointer(running=installed, previous=pointer.running)
                self._store.point(slot, pointer)
            self._load(bundle)
            return pointer

    def roll_back(self, slot: str, manifest: str) -> SlotPointer:
        """Point `slot` away from `manifest` to what ran before, and serve that.

        Raises:
            StepFailed: the inference process is down.
        """
        with self.lock:
            pointer = self._store.pointers().get(slot, SlotPointer())
            if pointer.running is not None and pointer.running.manifest == manifest:
                pointer = SlotPointer(running=pointer.previous)
                self._store.point(slot, pointer)
            return self._serve(slot, pointer)

    def restore(self, *, fresh: bool, leave: Collection[str] = ()) -> list[PointerChanged]:
        """Serve what the pointers say; return the slots that had to change.

        Args:
            fresh: the inference process has just been started and serves nothing.
            leave: slots that a step is about to change.
        """
        changes = []
        with self.lock:
            if fresh:
                self._loaded.clear()
            self.silent.clear()
            for slot, pointer in sorted(self._store.pointers().items()):
                if slot in leave:
                    continue
                try:
                    now = self._serve(slot, pointer)
                except (StepFailed, OSError) as error:
                    _log.error("slot %s does not serve: %s", slot, error)
                    self.silent[slot] = (
                        make_reason("disk.error", f"cannot be read: {error}")
                        if isinstance(error, OSError)
                        else error.reason
                    )
                    continue
                if now != pointer:
                    reason = StepFailed("store.damaged", f"files of slot {slot} were damaged")
                    changes.append(PointerChanged(slot=slot, pointer=now, reason=reason.reason))
        return changes

    def health(self, slot: str) -> HealthSeen | None:
        """Return the counts of `slot`, or None while the inference process is busy or down."""
        if not self.lock.acquire(blocking=False):
            return None
        try:
            seen = self._inference.health(slot)
        except InferenceError:
            return None
        finally:
            self.lock.release()
        return HealthSeen(
            slot=slot,
            manifest=seen.manifest,
            requests=seen.requests,
            errors=seen.errors,
            non_finite=seen.non_finite,
        )

    def windows(self) -> tuple[InferenceWindow, ...]:
        """Return the counts since the last call; none now while the process is busy or down."""
        if not self.lock.acquire(blocking=False):
            return ()
        try:
            return self._inference.windows()
        except InferenceError:
            return ()
        finally:
            self.lock.release()

    def _bundle(self, slot: str, installed: Installed) -> Bundle:
        return self._store.bundle(
            slot,
            manifest=installed.manifest,
            version=installed.version,
            variant=installed.variant,
        )

    def _serve(self, slot: str, pointer: SlotPointer) -> SlotPointer:
        """Load what `pointer` says, or what it falls back to; return the pointer as it is then."""
        while pointer.running is not None:
            try:
                bundle = self._bundle(slot, pointer.running)
            except KeyUnavailable:
                raise
            except (StepFailed, StepRejected) as error:
                _log.error("slot %s: %s", slot, error)
                pointer = SlotPointer(running=pointer.previous)
                self._store.point(slot, pointer)
                continue
            try:
                self._load(bundle)
            except StepRejected as error:
                # It did load before: the machine is short of something, and may recover.
                raise StepFailed(error.code, error.detail) from error
            return pointer
        try:
            self._inference.unload(slot)
        except InferenceDown as error:
            raise StepFailed(error.code, error.detail) from error
        self._loaded.pop(slot, None)
        return pointer

    def _load(self, bundle: Bundle) -> None:
        try:
            if self._loaded.get(bundle.slot) == bundle.manifest:
                return
            self._inference.load(bundle)
        except InferenceDown as error:
            raise StepFailed(error.code, error.detail) from error
        except LoadFailed as error:
            kind = StepRejected if error.code in _BLAMED else StepFailed
            raise kind(error.code, error.detail) from error
        finally:
            bundle.forget_key()
        self._loaded[bundle.slot] = bundle.manifest
