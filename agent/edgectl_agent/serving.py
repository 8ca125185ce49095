"""Between the slots' pointers and the inference process: what runs is what the pointer says.

Rules:

1. The pointers change first, then the bundles are loaded: both can be done twice. Slots that belong
   together change together: one change of the pointers, one switch in the inference process.
2. Nothing is loaded whose files were not hashed just before.
3. A slot whose files are found damaged falls back to its previous model where that is sound, and
   is empty otherwise, and with it the slots that were switched together with it: what belongs
   together is never mixed. The update machine is told, and has the damaged files fetched again.
4. A slot whose key is not to be had (an encrypted bundle, the medium with the device's key not
   mounted) waits for it and changes nothing.
5. Files that the disk does not give back are tried again, because that may be a moment's trouble;
   after `UNREADABLE_MAX` times they count as damaged.
6. A content key is forgotten as soon as the inference process has been given it.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, Self

from edgectl_agent.bundle import Bundle
from edgectl_agent.core.record import SlotPointer
from edgectl_agent.core.steps import HealthSeen, PointerChanged
from edgectl_agent.errors import KeyUnavailable, StepFailed, StepRejected, make_reason
from edgectl_agent.inference.control import SlotHealth, Taken
from edgectl_agent.inference.errors import InferenceDown, InferenceError, LoadFailed
from edgectl_agent.store import Store
from edgectl_protocol.messages import InferenceWindow, Installed, Reason, SwapReport
from edgectl_protocol.samples import SamplePolicy
from edgectl_protocol.watching import FeatureWindow, WatchPolicy

__all__ = ["UNREADABLE_MAX", "Inference", "Serving", "Switched"]

UNREADABLE_MAX = 10
"""Of `restore`, which the keeper calls every half minute."""

_BLAMED = frozenset({"load.invalid", "load.contract", "load.warm_up"})
"""Why a bundle would not load that are the bundle's own fault."""
_log = logging.getLogger(__name__)


class Inference(Protocol):
    """What is needed of the inference process."""

    def switch(self, bundles: Sequence[Bundle]) -> Mapping[str, SwapReport]:
        """Serve these bundles in their slots, all at once or none; what it took, by slot."""

    def exchange(self, manifests: Mapping[str, str]) -> Mapping[str, SwapReport] | None:
        """Serve the companions of these manifests, all at once; None where one is not there."""

    def accompany(self, bundle: Bundle, *, share: float, cpu_max: float) -> SwapReport:
        """Load `bundle` beside what serves in its slot, and mirror requests to it."""

    def mirror(self, slot: str, *, share: float, cpu_max: float) -> bool:
        """Mirror requests of `slot` to its companion, if there is one."""

    def release(self, slot: str) -> None:
        """Free the companion of `slot`."""

    def unload(self, slot: str) -> None:
        """Serve nothing in `slot`."""

    def health(self, slot: str) -> SlotHealth:
        """Return the counts of `slot`."""

    def windows(self) -> tuple[InferenceWindow, ...]:
        """Return the counts since the last call, by slot and manifest."""

    def watched(self, policy: WatchPolicy) -> tuple[FeatureWindow, ...]:
        """Return the windows of features that have ended since the last call."""

    def sampled(self, policies: Mapping[str, SamplePolicy]) -> tuple[Taken, ...]:
        """Return samples that were taken since the last call."""


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
        self._unreadable: Counter[str] = Counter()
        """How often in a row the files of a slot could not be read."""
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
                bundles.append(self._store.installed(slot, one))
            self._store.settle()
            pointers = self._store.pointers()
            changed = {}
            together = tuple(sorted(installed)) if len(installed) > 1 else ()
            for slot, one in installed.items():
                pointer = pointers.get(slot, SlotPointer())
                if pointer.running is None or pointer.running.manifest != one.manifest:
                    changed[slot] = SlotPointer(
                        running=one, previous=pointer.running, together=together
                    )
            if changed:
                self._store.point(changed)
            now = {slot: {**pointers, **changed}[slot] for slot in installed}
            return Switched(now, self._load(bundles))

    def roll_back(self, manifests: Mapping[str, str]) -> Switched:
        """Point slots away from what they run to what ran before, and serve that.

        What ran before answers again at once where it is still in memory: that comes before the
        pointers, because it was hashed when it was loaded, and because the disk may be slow or
        broken. A power loss in between finds the old pointers, and the rollback in the journal.

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
            swaps = self._exchange(changed)
            if changed:
                self._store.point(changed)
            after = {slot: {**pointers, **changed}.get(slot, SlotPointer()) for slot in manifests}
            if swaps is None or set(swaps) != set(after):
                try:
                    return self._serve(after)
                except (StepFailed, OSError) as error:
                    # It is tried again, also when nobody asks any more.
                    self.silent.update(dict.fromkeys(after, _reason_of(error)))
                    raise
            return Switched(after, swaps)

    def accompany(
        self, slot: str, installed: Installed, *, share: float, cpu_max: float
    ) -> SwapReport:
        """Load a candidate beside what serves in `slot`, and let it answer copies of requests.

        Args:
            slot: where.
            installed: the candidate.
            share: of the live requests that are copied.
            cpu_max: what copies may cost, as a share of one processor core.

        Raises:
            StepFailed: a file is damaged, nothing serves there (``slot.empty``), memory does not
                hold both (``load.memory_low``), or the inference process is down.
            StepRejected: the inference process will not load it.
        """
        with self.lock, _Keys() as bundles:
            bundles.append(self._store.installed(slot, installed))
            try:
                return self._inference.accompany(bundles[0], share=share, cpu_max=cpu_max)
            except LoadFailed as error:
                kind = StepRejected if error.code in _BLAMED else StepFailed
                raise kind(error.code, error.detail, slot=slot) from error
            except InferenceError as error:
                raise StepFailed(error.code, error.detail, slot=slot) from error

    def mirror(self, slot: str, *, share: float, cpu_max: float) -> bool:
        """Mirror requests of `slot` to what is in memory beside it; say whether something is.

        A share of 0 ends that. Where the inference process is down there is nothing.
        """
        with self.lock:
            try:
                return self._inference.mirror(slot, share=share, cpu_max=cpu_max)
            except InferenceError:
                return False

    def release(self, slot: str) -> None:
        """Free what is in memory beside what serves in `slot`; nothing is lost by failing."""
        with self.lock:
            try:
                self._inference.release(slot)
            except InferenceError as error:
                _log.warning("the companion of %s is not freed: %s", slot, error)

    def restore(self, *, fresh: bool, leave: frozenset[str] = frozenset()) -> list[PointerChanged]:
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
            pointers = self._store.pointers()
            for unit in _units(pointers):
                if not leave.isdisjoint(unit):
                    continue
                before = {slot: pointers[slot] for slot in unit}
                try:
                    now = self._serve(before).pointers
                except (StepFailed, OSError) as error:
                    _log.error("%s does not serve: %s", ", ".join(unit), error)
                    self.silent.update(dict.fromkeys(unit, _reason_of(error)))
                    continue
                damaged = make_reason("store.damaged", f"files of {', '.join(unit)} were damaged")
                changes += [
                    PointerChanged(slot=slot, pointer=now[slot], reason=damaged)
                    for slot in unit
                    if now[slot] != before[slot]
                ]
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
            latency=seen.latency,
            classes=seen.classes,
            before=seen.before,
            companion=seen.companion,
            copies=seen.copies,
            comparable=seen.comparable,
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

    def watched(self, policy: WatchPolicy) -> tuple[FeatureWindow, ...]:
        """Return the windows of features that have ended; none now while the process is busy."""
        if not self.lock.acquire(blocking=False):
            return ()
        try:
            return self._inference.watched(policy)
        except InferenceError:
            return ()
        finally:
            self.lock.release()

    def sampled(self, policies: Mapping[str, SamplePolicy]) -> tuple[Taken, ...]:
        """Return samples that were taken; none now while the process is busy."""
        if not self.lock.acquire(blocking=False):
            return ()
        try:
            return self._inference.sampled(policies)
        except InferenceError:
            return ()
        finally:
            self.lock.release()

    def _serve(self, pointers: Mapping[str, SlotPointer]) -> Switched:
        """Load what the pointers say, or what they fall back to; return them as they are then."""
        with _Keys() as bundles:
            now = self._sound(pointers, bundles)
            self._empty(sorted(slot for slot, one in now.items() if one.running is None))
            try:
                swaps = self._load(bundles)
            except StepRejected as error:
                # It did load before: the machine is short of something, and may recover.
                raise StepFailed(error.code, error.detail, slot=error.slot) from error
        return Switched(now, swaps)

    def _empty(self, slots: Sequence[str]) -> None:
        """Serve nothing in these slots; before others of their group serve something else."""
        for slot in slots:
            try:
                self._inference.unload(slot)
            except InferenceDown as error:
                raise StepFailed(error.code, error.detail) from error
            self._loaded.pop(slot, None)

    def _exchange(self, changed: Mapping[str, SlotPointer]) -> dict[str, SwapReport] | None:
        """Let what ran before serve again, where it is in memory for all these slots."""
        manifests = {slot: one.running.manifest for slot, one in changed.items() if one.running}
        if not manifests or len(manifests) != len(changed):
            return None
        try:
            swaps = self._inference.exchange(manifests)
        except InferenceError:
            return None  # it is found to be down when something is to be loaded
        if swaps is None:
            return None
        self._loaded.update(manifests)
        for slot in manifests:
            self.release(slot)  # what was there is not wanted any more
        return dict(swaps)

    def _sound(
        self, pointers: Mapping[str, SlotPointer], bundles: list[Bundle]
    ) -> dict[str, SlotPointer]:
        """Collect the bundles that slots run or fall back to; return the pointers as they are then.

        What was switched together falls back together, in one change of the pointers.
        """
        now = dict(pointers)
        found: dict[str, Bundle] = {}
        while True:
            damaged: set[str] = set()
            for slot, pointer in sorted(now.items()):
                if pointer.running is None or slot in found:
                    continue
                try:
                    found[slot] = self._read(slot, pointer.running)
                except KeyUnavailable:
                    bundles.extend(found.values())
                    raise
                except (StepFailed, StepRejected) as error:
                    _log.error("slot %s: %s", slot, error)
                    damaged.update(_partners(slot, now))
            if not damaged:
                break
            for slot in damaged:
                now[slot] = SlotPointer(running=now[slot].previous)
                bundle = found.pop(slot, None)
                if bundle is not None:
                    bundle.forget_key()
            self._store.point({slot: now[slot] for slot in damaged})
        bundles.extend(found.values())
        return now

    def _read(self, slot: str, installed: Installed) -> Bundle:
        """Return what a slot runs; remove what of it could not be read too often."""
        try:
            bundle = self._store.installed(slot, installed)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self._unreadable[slot] += 1
            if self._unreadable[slot] < UNREADABLE_MAX:
                raise
            self._store.discard_unreadable(installed.manifest)
            bundle = self._store.installed(slot, installed)
        self._unreadable.pop(slot, None)
        return bundle

    def _load(self, bundles: Sequence[Bundle]) -> dict[str, SwapReport]:
        """Load what is not loaded yet, together; return what it took, by slot of all of them."""
        missing = [one for one in bundles if self._loaded.get(one.slot) != one.manifest]
        try:
            swaps = self._inference.switch(missing) if missing else {}
        except InferenceDown as error:
            raise StepFailed(error.code, error.detail) from error
        except LoadFailed as error:
            for bundle in missing:  # where memory was short, what served may be gone
                self._loaded.pop(bundle.slot, None)
            kind = StepRejected if error.code in _BLAMED else StepFailed
            raise kind(error.code, error.detail, slot=error.slot) from error
        self._loaded.update({one.slot: one.manifest for one in missing})
        return {one.slot: swaps.get(one.slot, SwapReport()) for one in bundles}


def _reason_of(error: StepFailed | OSError) -> Reason:
    """Return why a slot does not serve."""
    if isinstance(error, OSError):
        return make_reason("disk.error", f"cannot be read: {error}")
    return error.reason


def _partners(slot: str, pointers: Mapping[str, SlotPointer]) -> tuple[str, ...]:
    """Return the slots that still run what they got in one step with `slot`, itself among them."""
    together = pointers[slot].together
    others = (one for one in together if one in pointers and pointers[one].together == together)
    return tuple(sorted({slot, *others}))


def _units(pointers: Mapping[str, SlotPointer]) -> tuple[tuple[str, ...], ...]:
    """Return all slots, those together that fall back together."""
    return tuple(sorted({_partners(slot, pointers) for slot in pointers}))
