"""What the update machine keeps in mind, and how a transition is noted.

`Bookkeeping` decides nothing: it follows the tables, notes what must be persisted and told, and
asks for the work of a state. `edgectl_agent.core.machine.Machine` decides.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import structs

from edgectl_agent.core import steps
from edgectl_agent.core.limits import Limits
from edgectl_agent.core.orders import needed, remember
from edgectl_agent.core.record import EMPTY, Record, SlotPointer, Update
from edgectl_agent.core.step_watch import StepWatch
from edgectl_agent.core.timing import Moment, delay_s
from edgectl_agent.core.waiting import Gate
from edgectl_agent.core.windows import Windows
from edgectl_protocol.messages import (
    Installed,
    ObservationReport,
    Reason,
    SlotReport,
    UpdatePolicy,
)
from edgectl_protocol.samples import SamplePolicy
from edgectl_protocol.update import ENDED, PARKED, UpdateEvent, UpdateState, next_state
from edgectl_protocol.watching import WatchPolicy

__all__ = ["Bookkeeping"]

_S, _E = UpdateState, UpdateEvent
_WITH_COMPANION = frozenset({_S.SHADOWING, _S.OBSERVING, _S.ROLLING_BACK})
"""States in which a second model may be kept beside the one that serves."""


class Bookkeeping:
    """The state of a machine."""

    def __init__(
        self,
        device: str,
        record: Record = EMPTY,
        pointers: Mapping[str, SlotPointer] | None = None,
        *,
        maintenance: Windows = (),
        held: Reason | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Take up where `record` ended.

        Args:
            device: its name; orders for another are refused.
            record: what was persisted last.
            pointers: what the slots run.
            maintenance: when the device itself allows models to be switched; empty is always.
            held: the hold that is in force, or None.
            limits: the defaults unless a test wants others.
        """
        self.record = record
        self.pointers: dict[str, SlotPointer] = dict(pointers or {})
        self._device = device
        self._limits = limits or Limits()
        self._gate = Gate(maintenance, held)
        self._watch = StepWatch(self._limits)
        self._step = 0
        self._working: tuple[str, ...] = ()
        """Slots of the update or group that has neither ended nor waits."""
        self._retry_at: dict[str, float] = {}
        """Slot to elapsed seconds of its next attempt."""
        self._until_s: float | None = None
        """Elapsed seconds at which the present observation, shadow or pause ends."""
        self._unseen_until_s: float | None = None
        """Elapsed seconds until which a model that was not seen serving is waited for."""
        self._look_s: float | None = None
        """Elapsed seconds at which a closed maintenance window is looked at again."""
        self._setbacks = 0
        """How often the present rollback has failed."""
        self._seen: dict[str, ObservationReport] = {}
        """What was seen of models under observation, and of shadows."""
        self._persisted = record
        self._told: list[steps.Action] = []
        self._wanted: steps.Step | None = None
        self._report = False
        self._collect = False

    @property
    def busy(self) -> bool:
        """Whether an update is under way, also while its model is observed."""
        return bool(self._working)

    @property
    def observed(self) -> dict[str, str]:
        """Slots and manifests of the models under observation, whose health is wanted."""
        return {one.slot: one.manifest for one in self._current() if one.state is _S.OBSERVING}

    @property
    def shadowed(self) -> dict[str, str]:
        """Slots and manifests of shadows, whose health is wanted."""
        if self._until_s is None:
            return {}  # it is not loaded yet
        return {one.slot: one.manifest for one in self._current() if one.state is _S.SHADOWING}

    @property
    def compared(self) -> dict[str, Installed]:
        """Slots under observation, and what ran there before: it is what they return to.

        True before `start` as well.
        """
        found = {}
        for slot, update in self.record.updates.items():
            pointer = self.pointers.get(slot, SlotPointer())
            running, previous = pointer.running, pointer.previous
            if update.state is not _S.OBSERVING or running is None or previous is None:
                continue
            if running.manifest == update.manifest:
                found[slot] = previous
        return found

    @property
    def policy(self) -> UpdatePolicy:
        """The newest order's; the defaults before the first."""
        order = self.record.order
        return UpdatePolicy() if order is None else order.policy

    @property
    def watch(self) -> WatchPolicy:
        """How closely inputs are described: as the newest order says."""
        order = self.record.order
        return WatchPolicy() if order is None else order.watch

    @property
    def samples(self) -> Mapping[str, SamplePolicy]:
        """What may leave the device as it is, by slot: as the newest order says."""
        order = self.record.order
        return {} if order is None else order.samples

    @property
    def unsettled(self) -> frozenset[str]:
        """Slots that must not serve what their pointer says until the step under way has run."""
        slots = set()
        for slot, update in self.record.updates.items():
            if update.state in {_S.ACTIVATING, _S.ROLLING_BACK}:
                running = self.pointers.get(slot, SlotPointer()).running
                if running is not None and running.manifest == update.manifest:
                    slots.add(slot)
        return frozenset(slots)

    @property
    def due_s(self) -> float | None:
        """Elapsed seconds at which `Ticked` has something to do; None if nothing is waited for."""
        dues = [self._watch.due_s]
        if self._working:
            dues.append(self._until_s)
        else:
            dues += [self._look_s, *self._retry_at.values()]
        return min((one for one in dues if one is not None), default=None)

    @property
    def idle(self) -> bool:
        """Whether nothing is being done and no time is waited for."""
        return not self._working and not self._retry_at and self._look_s is None

    def slots(self) -> dict[str, SlotReport]:
        """Return the slots as they are reported; bytes transferred are not known here."""
        reports = {}
        for slot in sorted({*self.pointers, *self.record.updates}):
            pointer = self.pointers.get(slot, SlotPointer())
            update = self.record.updates.get(slot)
            reports[slot] = SlotReport(
                running=pointer.running,
                previous=pointer.previous,
                update=None if update is None else self._with_seen(update).report(),
            )
        return reports

    # ------------------------------------------------------------ transitions

    def _note(self, update: Update, event: UpdateEvent, **changes: object) -> None:
        """Follow the table and tell of it; nothing is entered yet."""
        after = next_state(update.state, event)
        moved = structs.replace(self._with_seen(update), state=after, resumes=0, **changes)
        self._put(moved)
        self._told.append(steps.Announce(update=moved, before=update.state, event=event))
        if update.state in _WITH_COMPANION and after not in {_S.ACTIVATING, _S.ROLLING_BACK}:
            self._told.append(steps.Release(slots=(update.slot,)))
        if after in ENDED:
            self._collect = True

    def _move(self, update: Update, event: UpdateEvent, moment: Moment, **changes: object) -> None:
        """Follow the table with the one update that is worked on, and enter its new state."""
        self._note(update, event, **changes)
        self._go(moment)

    def _go(self, moment: Moment) -> None:
        """Enter the state in which what is worked on is now, or be done with it."""
        self._step += 1  # what still runs has been overtaken
        self._wanted = None
        self._until_s = None
        self._setbacks = 0
        if self._current()[0].state in ENDED | PARKED:
            self._working = ()
        else:
            self._enter(moment)

    def _enter(self, moment: Moment) -> None:
        """Ask for the work of the state in which what is worked on is."""
        self._step += 1
        self._until_s = None
        step, order, updates = self._step, self.record.order, self._current()
        update = updates[0]
        assert all(one.state is update.state for one in updates), updates
        match update.state:
            case _S.REFRESHING:
                self._wanted = steps.Refresh(step=step, update=update, floor=self.record.floor)
            case _S.DOWNLOADING:
                key = None if order is None else order.keys.get(update.manifest)
                delta = None if order is None else order.deltas.get(update.manifest)
                rest = None if order is None else order.rests.get(update.manifest)
                keep = needed(self.record, self.pointers)
                self._wanted = steps.Download(
                    step=step, update=update, key=key, delta=delta, rest=rest, keep=keep
                )
            case _S.VERIFYING:
                self._wanted = steps.Verify(step=step, update=update)
            case _S.TRIAL:
                self._wanted = steps.Trial(step=step, update=update)
            case _S.SHADOWING:
                self._seen.pop(update.slot, None)
                self._wanted = steps.Accompany(
                    step=step,
                    update=update,
                    installed=update.installed(moment.wall),
                    policy=self.policy,
                )
            case _S.ACTIVATING:
                installed = {one.slot: one.installed(moment.wall) for one in updates}
                self._wanted = steps.Activate(
                    step=step, updates=updates, installed=installed, policy=self.policy
                )
            case _S.ROLLING_BACK:
                self._wanted = steps.RollBack(step=step, updates=updates)
            case _:
                assert update.state is _S.OBSERVING, update.state
                for one in updates:
                    self._seen.pop(one.slot, None)
                self._unseen_until_s = None
                self._until_s = moment.elapsed_s + self.policy.observe_s

    # ------------------------------------------------------------ small things

    def _delay_s(self, attempt: int, jitter: float) -> float:
        return delay_s(
            attempt,
            first_s=self._limits.first_delay_s,
            max_s=self.policy.retry_delay_s_max,
            jitter=jitter,
        )

    def _schedule(self, update: Update, moment: Moment, jitter: float) -> None:
        """Plan the next attempt of a failed update, if one is left."""
        if update.attempt < self.policy.attempts_max:
            wait_s = self._delay_s(update.attempt, jitter)
            self._retry_at[update.slot] = moment.elapsed_s + wait_s

    def _current(self) -> tuple[Update, ...]:
        """Return what is worked on, by slot; none is nothing."""
        return tuple(self.record.updates[slot] for slot in self._working)

    def _work(self, slots: tuple[str, ...]) -> None:
        """Work on these slots from now on."""
        assert not self._working, self._working
        self._working = slots

    def _cancel(self, moment: Moment) -> None:
        """Have the step that is out end early; its result is not wanted any more."""
        self._told.append(steps.Cancel())
        self._watch.cancelled(moment.elapsed_s)

    def _blame(self, digest: str) -> None:
        self._replace(rejected=remember(self.record, digest))

    def _with_seen(self, update: Update) -> Update:
        """Return the update with what has been seen of its model in the present state."""
        seen = self._seen.get(update.slot)
        if seen is not None and update.state is _S.OBSERVING:
            return structs.replace(update, observation=seen)
        if seen is not None and update.state is _S.SHADOWING:
            return structs.replace(update, shadow=seen)
        return update

    def _replace(self, **changes: object) -> None:
        self.record = structs.replace(self.record, **changes)

    def _put(self, update: Update) -> None:
        self._replace(updates={**self.record.updates, update.slot: update})

    def _flush(self, moment: Moment) -> list[steps.Action]:
        """Return what was decided, in the order in which it must be done."""
        actions: list[steps.Action] = []
        if self.record is not self._persisted:
            self._replace(at=moment.wall)
            self._persisted = self.record
            self._report = True
            actions.append(steps.Persist(record=self.record))
        actions.extend(self._told)
        if self._report:
            actions.append(steps.Report())
        if self._collect:
            actions.append(steps.Collect(keep=needed(self.record, self.pointers)))
        if self._wanted is not None:
            actions.append(self._wanted)
            self._watch.submitted(self._wanted, moment.elapsed_s)
        self._told, self._wanted = [], None
        self._report = self._collect = False
        return actions
