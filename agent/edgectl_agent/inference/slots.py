"""The models in memory, by slot, and how one takes another's place.

A slot has what serves, and perhaps a *companion* beside it: what served before, ready to serve
again at once, or a candidate that answers copies. Rules:

1. The new models of one command are loaded and warmed up beside the old ones, in a thread of their
   own; then all references are switched in one step of the event loop. A request that is in an old
   model ends there. A failure at any point before leaves the old ones serving.
2. What served before stays as the companion where memory allows. What is a companion already is
   not loaded: the two exchange their places.
3. Where memory forbids two models, companions go first. Where that is not enough, the old models go
   before the new ones are loaded: requests for these slots wait meanwhile, and the gap is measured.
4. A companion whose run hangs is left where it is: it neither serves nor is freed.

Everything but loading, freeing and copies runs on the event loop, so that no lock is needed. One
command is carried out at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.control import RESERVE_BYTES, SlotHealth, Swap, Taken, Tally
from edgectl_agent.inference.counts import Counts
from edgectl_agent.inference.errors import LoadFailed, SlotEmpty
from edgectl_agent.inference.hub_messages import Look
from edgectl_agent.inference.memory import available_bytes, needed_bytes
from edgectl_agent.inference.mirror import Mirror, comparable
from edgectl_agent.inference.pulse import Pulse
from edgectl_agent.inference.reference import Opened
from edgectl_agent.inference.sample_parts import Sample
from edgectl_agent.inference.served import Served, load_beside
from edgectl_agent.inference.watch import Watch
from edgectl_agent.runtime import free, trim_memory
from edgectl_protocol.samples import SAMPLE_BYTES_MAX, SamplePolicy
from edgectl_protocol.watching import FeatureCounts, FeatureWindow, WatchPolicy

__all__ = ["Served", "Slots"]

log = logging.getLogger(__name__)

DRAIN_SECONDS_MAX = 10.0
FILL_AGAIN_S_MAX = 60.0
MIRROR_END_S_MAX = 0.5
"""A copy under way is stopped, and may take so long to end."""


@dataclass
class _Slot:
    """What belongs to one slot."""

    serving: Served | None = None
    companion: Served | None = None
    before: Served | None = None
    """What served before: the companion, or closed already and known by its counts only."""
    mirror: Mirror | None = None
    """From what serves to the companion."""


@dataclass
class _Gap:
    """A time in which slots serve nothing, because what is to serve needs the memory."""

    gone: dict[str, Served]
    successor: asyncio.Future[None]
    began_s: float


class Slots:
    """What serves in which slot, and what is ready beside it."""

    def __init__(
        self,
        *,
        pulse: Pulse | None = None,
        available: Callable[[], int | None] = available_bytes,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        """Begin with empty slots.

        Args:
            pulse: shows what companions compute.
            available: bytes of memory that may still be taken; None where nobody knows.
            reserve_bytes: of these, what must stay free.
        """
        self._slots: dict[str, _Slot] = {}
        self._retired: list[Served] = []
        self._pulse = pulse or Pulse()
        self._available = available
        self.reserve_bytes = reserve_bytes
        self._tasks: set[asyncio.Task[None]] = set()
        self._late: dict[str, tuple[Bundle, Counts]] = {}
        self._ended: list[FeatureWindow] = []
        """Of what has been retired."""
        self._late_watches: dict[str, Watch] = {}
        """Of what had gone before its applications have told their last counts."""
        self.switched: Callable[[str], object] = lambda _: None
        """Called with the slot when another model serves there."""
        self.looked: Callable[[], object] = lambda: None
        """Called when applications are to look otherwise at what they ask."""
        self.watch_policy: WatchPolicy | None = None
        """By which models are watched; None before that was said."""
        self.sample_policies: Mapping[str, SamplePolicy] = {}
        """By which samples are taken; slots that are not named give none."""

    # ------------------------------------------------------------ what requests ask

    def get(self, slot: str) -> Served | None:
        """Return what serves in `slot`, or None. In a gap it has a `successor` to be waited for."""
        found = self._slots.get(slot)
        return None if found is None else found.serving

    def __len__(self) -> int:
        """How many slots serve."""
        return sum(one.serving is not None for one in self._slots.values())

    def __iter__(self) -> Iterator[Served]:
        """Go through what serves, by slot."""
        found = (self._slots[slot].serving for slot in sorted(self._slots))
        return iter([served for served in found if served is not None])

    # ------------------------------------------------------------ commands

    async def load(
        self, bundles: Sequence[Bundle], deadline: float, *, hung: Collection[str] = ()
    ) -> dict[str, Swap]:
        """Put bundles into their slots, all in one step of the event loop, or none.

        Args:
            bundles: verified files; at most one for each slot.
            deadline: `time.monotonic` after which nothing is put anywhere any more.
            hung: manifests that must not compute on the event loop.

        Returns:
            What it took, by slot; loading and warming up were one after the other.

        Raises:
            LoadFailed: what served before still does, but for encrypted models that had to go
                first.
        """
        assert len({one.slot for one in bundles}) == len(bundles), "two bundles for one slot"
        ready: dict[str, Served] = {}
        wanted = []
        for bundle in bundles:
            found = self._of(bundle.slot)
            if found.serving is not None and found.serving.bundle.manifest == bundle.manifest:
                continue
            if await self._is_ready(bundle.slot, bundle.manifest):
                assert found.companion is not None
                ready[bundle.slot] = found.companion
            else:
                await self._drop_companion(found)  # it would go anyway; never three models
                wanted.append(bundle)
        load_ms = dict.fromkeys((one.slot for one in bundles), 0.0)
        gap: _Gap | None = None
        try:
            if not await self._fits(wanted, keep=ready.values()):
                gap = await self._empty([one.slot for one in wanted])
            for bundle in wanted:
                began_s = time.monotonic()
                ready[bundle.slot] = await load_beside(
                    bundle, deadline, inline=bundle.manifest not in hung
                )
                load_ms[bundle.slot] = (time.monotonic() - began_s) * 1000
        except LoadFailed:
            for bundle in wanted:
                if bundle.slot in ready:
                    await asyncio.to_thread(free, ready[bundle.slot].model)
            if gap is not None:
                await self._fill_again(gap)
            raise
        gaps_ms = await self._switch(ready, gap)
        await asyncio.to_thread(trim_memory)
        return {
            slot: Swap(
                load_ms=load_ms[slot],
                gap_ms=gaps_ms.get(slot, 0.0),
                resident=self._of(slot).companion is not None,
            )
            for slot in load_ms
        }

    async def exchange(self, manifests: Mapping[str, str]) -> dict[str, Swap]:
        """Let companions serve, all at once, without loading anything.

        Args:
            manifests: of the companions, by slot.

        Raises:
            SlotEmpty: ``slot.companion``: one of them is not there; nothing has changed.
        """
        ready = {}
        for slot, manifest in manifests.items():
            companion = self._of(slot).companion
            if companion is None or not await self._is_ready(slot, manifest):
                raise SlotEmpty("slot.companion", f"{manifest} is not ready in {slot!r}")
            ready[slot] = companion
        await self._switch(ready)
        return {slot: Swap(resident=self._of(slot).companion is not None) for slot in manifests}

    async def accompany(
        self, bundle: Bundle, deadline: float, *, inline: bool, share: float, cpu_max: float
    ) -> Swap:
        """Load a bundle as the companion of what serves in its slot, and mirror requests to it.

        Raises:
            SlotEmpty: nothing serves there.
            LoadFailed: also ``load.memory_low``: two models do not fit.
        """
        slot = self._of(bundle.slot)
        if slot.serving is None:
            raise SlotEmpty("slot.empty", f"no model is loaded in {bundle.slot!r}")
        began = time.monotonic()
        if slot.companion is None or slot.companion.bundle.manifest != bundle.manifest:
            await self._drop_companion(slot)
            if not await self._fits([bundle]):
                raise LoadFailed(
                    "load.memory_low", "two models do not fit into memory", slot=bundle.slot
                )
            slot.companion = await load_beside(bundle, deadline, inline=inline)
            await asyncio.to_thread(trim_memory)
        await self.mirror(bundle.slot, share, cpu_max)
        return Swap(load_ms=(time.monotonic() - began) * 1000, resident=True)

    async def mirror(self, slot: str, share: float, cpu_max: float) -> bool:
        """Mirror requests of `slot` to its companion, or stop that; say whether they are now."""
        found = self._of(slot)
        if not await self._end_mirror(found):
            return False
        if share <= 0 or found.serving is None or found.companion is None:
            return False
        found.mirror = found.serving.mirror = Mirror(
            found.serving,
            found.companion,
            self._pulse,
            share=share,
            cpu_max=cpu_max,
            disagreed=found.serving.sampler.disagreed,
        )
        return True

    async def release(self, slot: str) -> None:
        """Free the companion of `slot`, and forget what it is compared with."""
        found = self._of(slot)
        await self._end_mirror(found)
        companion, found.companion, found.before = found.companion, None, None
        if companion is not None:  # it may still have to finish requests: nobody waits for that
            task = asyncio.create_task(self._retire(companion))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def unload(self, slot: str) -> None:
        """Empty `slot`; requests in the model finish first."""
        await self.release(slot)
        found = self._of(slot)
        old, found.serving = found.serving, None
        await self._retire(old)

    def health(self, slot: str) -> SlotHealth:
        """Return how a slot has fared; raise `SlotEmpty` where nothing serves."""
        found = self._of(slot)
        if found.serving is None:
            raise SlotEmpty("slot.empty", f"no model is loaded in {slot!r}")
        serving, before = found.serving, found.before
        own = serving.counts.totals(serving.bundle.manifest)
        other = found.companion or before
        return SlotHealth(
            manifest=own.manifest,
            requests=own.requests,
            errors=own.errors,
            non_finite=own.non_finite,
            latency=own.latency,
            classes=own.classes,
            before=None if before is None else before.counts.totals(before.bundle.manifest),
            companion="" if found.companion is None else found.companion.bundle.manifest,
            copies=None if found.mirror is None else found.mirror.copies(),
            comparable=other is not None and comparable(serving.bundle.config, other.bundle.config),
        )

    def take(self) -> Iterator[tuple[Bundle, Tally]]:
        """Return the counts since the last call, of all that served since."""
        inside = [
            one
            for slot in self._slots.values()
            for one in (slot.companion, slot.serving)
            if one is not None
        ]
        for served in (*self._retired, *inside):
            tally = served.counts.take()
            if tally.requests or tally.refused:
                yield served.bundle, tally
        self._retired.clear()
        for bundle, counts in self._late.values():
            yield bundle, counts.take()
        self._late.clear()

    def watched(self, policy: WatchPolicy) -> list[FeatureWindow]:
        """Return the windows of features that have ended since the last call."""
        if policy != self.watch_policy:
            self.watch_policy = policy
            self.looked()
        for served in self:
            if served.watch is not None:
                self._ended += served.watch.take(policy)
        for watch in self._late_watches.values():
            self._ended += watch.take(policy, last=True)
        self._late_watches.clear()
        ended, self._ended = self._ended, []
        return ended

    def sampled(self, policies: Mapping[str, SamplePolicy]) -> list[Taken]:
        """Return samples that were taken since the last call, as many as one answer holds.

        Args:
            policies: to go by from now on; a slot that is not named gives none.
        """
        if policies != self.sample_policies:
            self.sample_policies = dict(policies)
            self.looked()
        found, room = list[Taken](), SAMPLE_BYTES_MAX
        for served in self:
            policy = policies.get(served.bundle.slot, SamplePolicy())
            if served.sampler.waiting_bytes <= room:
                found += served.sampler.take(policy)
            room = SAMPLE_BYTES_MAX - sum(len(one.content) for one in found)
        return found

    def count(self, bundle: Bundle, tally: Tally) -> None:
        """Add what an application has counted to the counts of that very model."""
        found = self._of(bundle.slot)
        for served in (found.serving, found.companion, *self._retired):
            if served is not None and served.bundle.manifest == bundle.manifest:
                served.counts.add(tally)
                return
        late = self._late.setdefault(bundle.manifest, (bundle, Counts(bundle.config)))
        late[1].add(tally)

    def look_at(self, slot: str) -> Look:
        """Return how closely applications shall look at what they ask the model of a slot."""
        if self.watch_policy is None:
            return Look()
        samples = self.sample_policies.get(slot, SamplePolicy())
        return Look(watch=self.watch_policy, samples=samples)

    def described(self, bundle: Bundle, opened: Opened, counts: FeatureCounts) -> None:
        """Add what an application has described to the window of that very model.

        Args:
            bundle: of the model.
            opened: its reference.
            counts: checked against that.
        """
        found = self._of(bundle.slot)
        for served in (found.serving, found.companion):
            if served is not None and served.bundle.manifest == bundle.manifest and served.watch:
                served.watch.add(counts)
                return
        if self.watch_policy is not None and self.watch_policy.rows_per_s > 0:
            late = self._late_watches.setdefault(bundle.manifest, Watch(bundle, *opened))
            late.add(counts)

    def sample_given(self, bundle: Bundle, sample: Sample) -> None:
        """Take a sample that an application has taken, of what serves, within the policy."""
        serving = self._of(bundle.slot).serving
        if serving is not None and serving.bundle.manifest == bundle.manifest:
            serving.sampler.give(sample.content, sample.reason)

    # ------------------------------------------------------------ how it is done

    def _of(self, slot: str) -> _Slot:
        return self._slots.setdefault(slot, _Slot())

    async def _switch(
        self, ready: Mapping[str, Served], gap: _Gap | None = None
    ) -> dict[str, float]:
        """Let `ready` serve, in one step; return the milliseconds of the gap, by slot that had one.

        What served before becomes the companion where memory allows.
        """
        gone = {} if gap is None else gap.gone
        for slot in ready:
            await self._end_mirror(self._of(slot))
        dropped = []
        for slot, served in ready.items():  # one step: nothing here waits
            found = self._of(slot)
            if found.companion is not None and found.companion is not served:
                dropped.append(found.companion)
            served.counts.restart()
            found.before, found.serving = found.serving, served
            found.companion = None if slot in gone else found.before
            self.switched(slot)
        gaps_ms = {}
        if gap is not None:
            gaps_ms = dict.fromkeys(gone, (time.monotonic() - gap.began_s) * 1000)
            gap.successor.set_result(None)
        for companion in dropped:
            await self._retire(companion)
        for slot in ready:
            if not self._enough(0):
                await self._drop_companion(self._of(slot))
        return gaps_ms

    async def _empty(self, slots: Sequence[str]) -> _Gap | None:
        """Free what serves in `slots`, so that there is room; their requests wait from now on."""
        gone = {}
        successor = asyncio.get_running_loop().create_future()
        for slot in slots:
            serving = self._of(slot).serving
            if serving is not None:
                gone[slot], serving.successor = serving, successor
        if not gone:
            return None
        gap = _Gap(gone, successor, time.monotonic())
        for served in gone.values():
            await self._retire(served)
        return gap

    async def _fill_again(self, gap: _Gap) -> None:
        """Load what had to go for something that does not load; an encrypted model cannot be."""
        for slot, served in gap.gone.items():
            found = self._of(slot)
            again: Served | None = None  # until that is known, requests wait for a successor
            if served.bundle.key is None:
                deadline = time.monotonic() + FILL_AGAIN_S_MAX
                try:
                    again = await load_beside(served.bundle, deadline, inline=served.inline)
                except LoadFailed:
                    log.exception("what served in %s before does not load any more", slot)
            found.serving = again
        gap.successor.set_result(None)

    def _enough(self, needed_bytes: int) -> bool:
        available = self._available()
        return available is None or available - needed_bytes >= self.reserve_bytes

    async def _fits(self, bundles: Sequence[Bundle], *, keep: Collection[Served] = ()) -> bool:
        """Say whether these fit beside what serves; companions but `keep` are freed for them."""
        needed = sum(needed_bytes(one) for one in bundles)
        if not bundles or self._enough(needed):
            return True
        own = {one.slot for one in bundles}
        for _, found in sorted(self._slots.items(), key=lambda item: item[0] not in own):
            if found.companion is not None and found.companion not in keep:
                await self._drop_companion(found)
                if self._enough(needed):
                    return True
        return False

    async def _is_ready(self, slot: str, manifest: str) -> bool:
        """Say whether `manifest` is the companion and can serve; copies to it have ended then."""
        found = self._of(slot)
        if found.companion is None or found.companion.bundle.manifest != manifest:
            return False
        return await self._end_mirror(found)

    async def _end_mirror(self, found: _Slot) -> bool:
        """Copy nothing more; say whether the companion, if there is one, is still of use."""
        mirror, found.mirror = found.mirror, None
        if mirror is None:
            return True
        if found.serving is not None:
            found.serving.mirror = None
        if await mirror.close(MIRROR_END_S_MAX):
            return True
        found.companion = None  # its run goes on: it can neither serve nor be freed
        return False

    async def _drop_companion(self, found: _Slot) -> None:
        await self._end_mirror(found)
        companion, found.companion = found.companion, None
        await self._retire(companion)

    async def _retire(self, old: Served | None) -> None:
        if old is None:
            return
        try:
            async with asyncio.timeout(DRAIN_SECONDS_MAX):
                await old.drained()
        except TimeoutError:
            pass  # the request that is still in it keeps the session alive until it ends
        else:
            await asyncio.to_thread(free, old.model)
        self._retired.append(old)
        if old.watch is not None:
            self._ended += old.watch.take(WatchPolicy(), last=True)
