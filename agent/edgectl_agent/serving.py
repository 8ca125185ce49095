"""Between the slots' pointers and the inference process: what runs is what the pointer says.

Rules:

1. The pointers change first, then the bundles are loaded: both can be done twice. Slots that belong
   together change together: one change of the pointers, one switch in the inference process.
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
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, Self

from edgectl_agent.bundle import Bundle
from edgectl_agent.core.record import SlotPointer
from edgectl_agent.core.steps import HealthSeen, PointerChanged
from edgectl_agent.errors import KeyUnavailable, StepFailed, StepRejected, make_reason
from edgectl_agent.inference.errors import InferenceDown, InferenceError, LoadFailed
from edgectl_agent.store import Store
from edgectl_protocol.messages import InferenceWindow, Installed, Reason, SwapReport

__all__ = ["Inference", "Serving", "SlotCounts", "Switched"]

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

    def switch(self, bundles: Sequence[Bundle]) -> Mapping[str, SwapReport]:
        """Serve these bundles in their slots, all at once or none; what it took, by slot."""

    def unload(self, slot: str) -> None:
        """Serve nothing in `slot`."""

    def health(self, slot: str) -> SlotCounts:
        """Return the counts of `slot`."""

    def windows(self) -> tuple[InferenceWindow, ...]:
        """Return the counts since the last call, by slot and manifest."""


class _Keys(list[Bundle]):
    """Bundles whose content keys are forgotten when the block ends."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for bundle in self:
            bundle.forget_key()


class Switched(NamedTuple):
    """What slots run after a change, and what the change took; both by slot."""

    pointers: dict[str, SlotPointer]
    swaps: dict[str, SwapReport]
    """Of the slots that run something; all zero where it was loaded already."""


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

    def activate(self, installed: Mapping[str, Installed]) -> Switched:
        """Point slots to bundles and load them: all of them, or none is loaded.

        Args:
            installed: by slot; those that belong together.

        Raises:
            StepFailed: a file is damaged, or the inference process is down.
            StepRejected: the inference process will not load one of them; `slot` says which.
        """
        with self.lock, _Keys() as bundles:
            for slot, one in sorted(installed.items()):
                bundles.append(self._bundle(slot, one))
            self._store.settle()
            pointers = self._store.pointers()
            changed = {}
            for slot, one in installed.items():
                pointer = pointers.get(slot, SlotPointer())
                if pointer.running is None or pointer.running.manifest != one.manifest:
                    changed[slot] = SlotPointer(running=one, previous=pointer.running)
            if changed:
                self._store.point(changed)
            now = {slot: {**pointers, **changed}[slot] for slot in installed}
            return Switched(now, self._load(bundles))

    def roll_back(self, manifests: Mapping[str, str]) -> Switched:
        """Point slots away from what they run to what ran before, and serve that.

        Args:
            manifests: by slot, what must not run; a slot that runs something else stays as it is.

        Raises:
            StepFailed: the inference process is down.
        """
        with self.lock:
            self._store.settle()
            pointers = self._store.pointers()
            changed = {}
            for slot, manifest in manifests.items():
                pointer = pointers.get(slot, SlotPointer())
                if pointer.running is not None and pointer.running.manifest == manifest:
                    changed[slot] = SlotPointer(running=pointer.previous)
            if changed:
                self._store.point(changed)
            after = {**pointers, **changed}
            return self._serve({slot: after.get(slot, SlotPointer()) for slot in manifests})

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
                    now = self._serve({slot: pointer}).pointers[slot]
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

    def _serve(self, pointers: Mapping[str, SlotPointer]) -> Switched:
        """Load what the pointers say, or what they fall back to; return them as they are then."""
        now = {}
        with _Keys() as bundles:
            for slot, pointer in sorted(pointers.items()):
                bundle, now[slot] = self._sound(slot, pointer)
                if bundle is not None:
                    bundles.append(bundle)
            try:
                swaps = self._load(bundles)
            except StepRejected as error:
                # It did load before: the machine is short of something, and may recover.
                raise StepFailed(error.code, error.detail, slot=error.slot) from error
        for slot in sorted(set(now) - set(swaps)):
            try:
                self._inference.unload(slot)
            except InferenceDown as error:
                raise StepFailed(error.code, error.detail) from error
            self._loaded.pop(slot, None)
        return Switched(now, swaps)

    def _sound(self, slot: str, pointer: SlotPointer) -> tuple[Bundle | None, SlotPointer]:
        """Return the bundle that a slot runs or falls back to, and the pointer as it is then."""
        while pointer.running is not None:
            try:
                return self._bundle(slot, pointer.running), pointer
            except KeyUnavailable:
                raise
            except (StepFailed, StepRejected) as error:
                _log.error("slot %s: %s", slot, error)
                pointer = SlotPointer(running=pointer.previous)
                self._store.point({slot: pointer})
        return None, pointer

    def _load(self, bundles: Sequence[Bundle]) -> dict[str, SwapReport]:
        """Load what is not loaded yet, together; return what it took, by slot of all of them."""
        missing = [one for one in bundles if self._loaded.get(one.slot) != one.manifest]
        try:
            swaps = self._inference.switch(missing) if missing else {}
        except InferenceDown as error:
            raise StepFailed(error.code, error.detail) from error
        except LoadFailed as error:
            kind = StepRejected if error.code in _BLAMED else StepFailed
            raise kind(error.code, error.detail, slot=error.slot) from error
        self._loaded.update({one.slot: one.manifest for one in missing})
        return {one.slot: swaps.get(one.slot, SwapReport()) for one in bundles}
