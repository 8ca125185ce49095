"""The update machine: events in, decisions out. No I/O, no clock, no thread, no randomness.

One update is worked on at a time. An order lists slots; the machine takes those that differ from
what runs, one after another, by name. What follows from a state and an event is the table
`edgectl_protocol.update.TRANSITIONS`, where a state goes on after a power loss is its table
`RESUME`. Rules:

1. Every answer begins with `Persist` when anything changed: the record is on disk before anything
   that follows from it is done.
2. A candidate whose trial fails is remembered as bad, and the next candidate of the slot is tried.
   So is one that misbehaves while it is observed; but then the order has had its answer, and the
   next candidate is not tried by itself.
3. A failure is the world's fault: the same candidate again, later, a bounded number of times.
4. A newer order that no longer names the target takes the update back, whatever it is doing; what
   is committed only when the order says so.
5. A model is blamed only for what it did: an update that is taken back, or whose files were found
   damaged, rolls back without its digest being remembered. When the inference process dies, the
   model under observation is blamed unless it is known that only others were computing.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import structs

from edgectl_agent.core import steps
from edgectl_agent.core.orders import (
    choose,
    expiry,
    is_open,
    judge_health,
    needed,
    refuse,
    stands,
    withdrawn,
)
from edgectl_agent.core.record import EMPTY, REJECTED_MAX, Record, SlotPointer, Update
from edgectl_agent.core.timing import Moment, delay_s
from edgectl_protocol.messages import (
    Installed,
    Order,
    Reason,
    SlotReport,
    TrialReport,
    UpdatePolicy,
)
from edgectl_protocol.update import (
    ENDED,
    RESUMES_MAX,
    UpdateEvent,
    UpdateState,
    next_state,
    resume_state,
)

__all__ = ["FIRST_DELAY_S", "Machine"]

FIRST_DELAY_S = 2.0
"""Longest wait after the first failure."""

_S, _E = UpdateState, UpdateEvent


class Machine:
    """Decides about the updates of one device.

    Every public method returns actions to be done in order. The caller persists before it acts,
    runs at most one step at a time, in the order in which they are asked for, and brings every
    step's result back, also that of a cancelled one.
    """

    def __init__(
        self, device: str, record: Record = EMPTY, pointers: Mapping[str, SlotPointer] | None = None
    ) -> None:
        """Take up where `record` ended, with what the slots' pointers say."""
        self.record = record
        self.pointers: dict[str, SlotPointer] = dict(pointers or {})
        self._device = device
        self._step = 0
        self._working: str | None = None
        """Slot of the update that is neither ended nor waiting."""
        self._retry_at: dict[str, float] = {}
        """Slot to elapsed seconds of its next attempt."""
        self._until_s: float | None = None
        """Elapsed seconds at which the present observation or pause ends."""
        self._setbacks = 0
        """How often the present rollback has failed."""
        self._persisted = record
        self._told: list[steps.Action] = []
        self._wanted: steps.Step | None = None
        self._report = False
        self._collect = False

    @property
    def busy(self) -> bool:
        """Whether an update is under way, also while its model is observed."""
        return self._working is not None

    # ------------------------------------------------------------ what the caller asks

    def start(self, moment: Moment, jitter: float) -> list[steps.Action]:
        """Resume after a start of the agent; see `handle` for the arguments."""
        clean = self.record.stopped
        if clean:
            self._replace(stopped=False)
        for slot, update in sorted(self.record.updates.items()):
            if update.state is _S.FAILED:
                self._schedule(update, moment, jitter)
            if update.state in ENDED:
                continue
            assert self._working is None, (slot, self._working)
            self._working = slot
            self._resume(update, moment, jitter, clean=clean)
        self._consider(moment, jitter)
        self._report = self._collect = True
        return self._flush()

    def handle(self, event: steps.Event, moment: Moment, jitter: float) -> list[steps.Action]:
        """Decide what follows from `event`.

        Args:
            event: what happened.
            moment: now.
            jitter: a random number from 0 to 1.
        """
        match event:
            case steps.OrderArrived():
                self._take_order(event, moment)
            case steps.OrderRefused():
                self._told.append(steps.Refuse(reason=event.reason))
            case steps.StepDone() | steps.StepFailed() | steps.StepRejected():
                self._take_result(event, moment, jitter)
            case steps.HealthSeen():
                self._observe(event, moment)
            case steps.InferenceDied():
                observed = self.observed
                if observed and (not event.suspects or observed[1] in event.suspects):
                    self._breach(event.reason, moment)
            case steps.PointerChanged():
                self._take_pointer(event, moment)
            case steps.Ticked():
                pass
        self._pass_time(moment, jitter)
        self._consider(moment, jitter)
        return self._flush()

    def stop(self) -> list[steps.Action]:
        """Note that the agent ends in good order."""
        self._replace(stopped=True)
        return self._flush()

    @property
    def observed(self) -> tuple[str, str] | None:
        """Slot and manifest of the model under observation, whose health is wanted."""
        update = self._current()
        if update is None or update.state is not _S.OBSERVING:
            return None
        return update.slot, update.manifest

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
        update = self._current()
        if update is None:
            return min(self._retry_at.values(), default=None)
        return self._until_s

    @property
    def idle(self) -> bool:
        """Whether nothing is being done and nothing is waited for."""
        return self._working is None and not self._retry_at

    def slots(self) -> dict[str, SlotReport]:
        """Return the slots as they are reported; bytes transferred are not known here."""
        reports = {}
        for slot in sorted({*self.pointers, *self.record.updates}):
            pointer = self.pointers.get(slot, SlotPointer())
            update = self.record.updates.get(slot)
            reports[slot] = SlotReport(
                running=pointer.running,
                previous=pointer.previous,
                update=None if update is None else update.report(),
            )
        return reports

    # ------------------------------------------------------------ orders

    def _take_order(self, arrived: steps.OrderArrived, moment: Moment) -> None:
        order = arrived.order
        if order.counter == self.record.counter and order == self.record.order:
            # The same once more: it is retained, and comes after every reconnect.
            self._told.append(steps.Accept())
            return
        refusal = refuse(order, self._device, self.record.counter_floor(arrived.keys), moment)
        if refusal is not None:
            self._told.append(steps.Refuse(reason=refusal, counter=order.counter))
            return
        self._told.append(steps.Accept())
        forgiven = set(order.forgive)
        rejected = tuple(one for one in self.record.rejected if one not in forgiven)
        self._replace(order=order, order_key=arrived.key, rejected=rejected)
        for slot, update in sorted(self.record.updates.items()):
            wanted = order.slots.get(slot)
            if wanted is None or not update.is_for(wanted):
                self._take_back(update, moment)
            elif stands(update, rejected, forgiven):
                self._put(update.named_by(order))

    def _take_back(self, update: Update, moment: Moment) -> None:
        """Abort what a newer order no longer names."""
        self._retry_at.pop(update.slot, None)
        if update.state is _S.FAILED:
            self._move(update, _E.ABORTED, moment, aborted=True)
        elif update.state not in ENDED and update.state is not _S.ROLLING_BACK:
            self._told.append(steps.Cancel())
            reason = Reason(code="update.aborted", detail="a newer order names another model")
            self._move(update, _E.ABORTED, moment, aborted=True, reason=reason)

    def _consider(self, moment: Moment, jitter: float) -> None:
        """Begin with the next slot that differs from the order, if nothing is under way."""
        order = self.record.order
        while self._working is None and order is not None:
            for slot in withdrawn(order, self.record, self.pointers):
                self._withdraw(self.record.updates[slot], moment)
                return
            for slot, wanted in sorted(order.slots.items()):
                pointer = self.pointers.get(slot, SlotPointer())
                if is_open(slot, wanted, self.record, pointer):
                    self._begin(slot, order, moment, jitter)
                    break
            else:
                return

    def _withdraw(self, update: Update, moment: Moment) -> None:
        """Begin to take back what is committed."""
        reason = Reason(code="update.withdrawn", detail="an order takes the model back")
        self._working = update.slot
        self._move(update, _E.ABORTED, moment, aborted=True, reason=reason)

    def _begin(self, slot: str, order: Order, moment: Moment, jitter: float) -> None:
        wanted = order.slots[slot]
        candidate = choose(wanted, self.record.rejected)
        before = self.record.updates.get(slot)
        update = Update(
            slot=slot,
            order=order.counter,
            nonce=order.nonce,
            wanted=wanted,
            manifest=(candidate or wanted.candidates[0]).manifest,
            state=_S.IDLE if before is None else before.state,
        )
        self._retry_at.pop(slot, None)
        self._working = slot
        self._move(update, _E.ORDERED, moment, enter=candidate is not None)
        if candidate is None:
            reason = Reason(
                code="update.remembered",
                detail="every candidate was found bad before; forgive it to try again",
            )
            self._reject(reason, moment)
        else:
            self._check_expiry(moment, jitter)

    # ------------------------------------------------------------ results of steps

    def _take_result(
        self,
        event: steps.StepDone | steps.StepFailed | steps.StepRejected,
        moment: Moment,
        jitter: float,
    ) -> None:
        if event.pointer is not None:  # also of a step that was overtaken: it is what it is
            self.pointers[event.slot] = event.pointer
            self._report = True
        update = self._current()
        if event.step != self._step or update is None:
            return
        match event:
            case steps.StepDone():
                if event.floor is not None:
                    self._replace(floor=event.floor)  # lower after a rotation of keys
                trial = event.trial or update.trial
                self._move(update, _E.OK, moment, trial=trial)
            case steps.StepFailed() if update.state is _S.ACTIVATING:
                self._move(update, _E.BREACHED, moment, reason=event.reason)
            case steps.StepFailed():
                self._fail(event.reason, moment, jitter)
            case steps.StepRejected() if update.state is _S.ACTIVATING:
                self._breach(event.reason, moment)
            case steps.StepRejected():
                self._reject(event.reason, moment, event.trial)

    def _fail(self, reason: Reason, moment: Moment, jitter: float) -> None:
        update = self._working_update()
        if update.state is _S.ROLLING_BACK:
            self._move(update, _E.FAILED, moment, enter=False)
            self._setbacks += 1
            self._until_s = moment.elapsed_s + self._delay_s(self._setbacks, jitter)
            return
        self._move(update, _E.FAILED, moment, reason=reason)
        self._schedule(self.record.updates[update.slot], moment, jitter)

    def _reject(self, reason: Reason, moment: Moment, trial: TrialReport | None = None) -> None:
        update = self._working_update()
        self._remember(update.manifest)
        self._move(update, _E.REJECTED, moment, reason=reason, trial=trial or update.trial)

    def _breach(self, reason: Reason, moment: Moment) -> None:
        """Roll back, and blame the model."""
        update = self._working_update()
        self._remember(update.manifest)
        self._move(update, _E.BREACHED, moment, reason=reason)

    def _remember(self, digest: str) -> None:
        others = (one for one in self.record.rejected if one != digest)
        self._replace(rejected=(*others, digest)[-REJECTED_MAX:])

    # ------------------------------------------------------------ observation

    def _observe(self, health: steps.HealthSeen, moment: Moment) -> None:
        if self.observed != (health.slot, health.manifest):
            return
        reason = judge_health(health, self._policy)
        if reason is not None:
            self._breach(reason, moment)

    def _take_pointer(self, event: steps.PointerChanged, moment: Moment) -> None:
        self.pointers[event.slot] = event.pointer
        self._report = True
        running = event.pointer.running
        if self.observed is not None and self.observed[0] == event.slot:
            slot_runs_it = running is not None and running.manifest == self.observed[1]
            if not slot_runs_it:
                self._move(self._working_update(), _E.BREACHED, moment, reason=event.reason)

    def _pass_time(self, moment: Moment, jitter: float) -> None:
        update = self._current()
        if update is not None:
            if self._until_s is None or moment.elapsed_s < self._until_s:
                return
            if update.state is _S.OBSERVING:
                self._move(update, _E.OK, moment)
            else:
                assert update.state is _S.ROLLING_BACK, update.state
                self._enter(update, moment)
            return
        for slot, at in sorted(self._retry_at.items(), key=lambda item: item[1]):
            if at <= moment.elapsed_s:
                del self._retry_at[slot]
                waiting = self.record.updates[slot]
                self._working = slot
                self._move(waiting, _E.RETRY, moment, attempt=waiting.attempt + 1, reason=None)
                self._check_expiry(moment, jitter)
                return

    # ------------------------------------------------------------ transitions

    def _resume(self, update: Update, moment: Moment, jitter: float, *, clean: bool) -> None:
        following = resume_state(update.state, update.resumes)
        if following is update.state:
            resumed = structs.replace(update, resumes=update.resumes + (0 if clean else 1))
            self._put(resumed)
            self._enter(resumed, moment)
            return
        reason = Reason(
            code="update.resumes",
            detail=f"the agent died {RESUMES_MAX} times while it was {update.state}",
        )
        match following:
            case _S.FAILED:
                self._fail(reason, moment, jitter)
            case _S.REJECTED:
                self._reject(reason, moment)
            case _:
                self._breach(reason, moment)

    def _move(
        self,
        update: Update,
        event: UpdateEvent,
        moment: Moment,
        *,
        enter: bool = True,
        **changes: object,
    ) -> None:
        """Follow the table, note it, and enter the new state unless `enter` is False."""
        after = next_state(update.state, event)
        moved = structs.replace(update, state=after, resumes=0, **changes)
        self._put(moved)
        self._told.append(steps.Announce(update=moved, before=update.state, event=event))
        if self._working in {None, update.slot}:
            self._step += 1  # what still runs has been overtaken
            self._wanted = None
            self._until_s = None
            if update.state is not after:
                self._setbacks = 0
        if after in ENDED:
            self._collect = True
            if self._working == update.slot:
                self._working = None
        elif enter:
            self._enter(moved, moment)

    def _enter(self, update: Update, moment: Moment) -> None:
        """Ask for the work of the update's state."""
        self._step += 1
        self._until_s = None
        step, order = self._step, self.record.order
        match update.state:
            case _S.REFRESHING:
                self._wanted = steps.Refresh(step=step, update=update, floor=self.record.floor)
            case _S.DOWNLOADING:
                key = None if order is None else order.keys.get(update.manifest)
                keep = needed(self.record, self.pointers)
                self._wanted = steps.Download(step=step, update=update, key=key, keep=keep)
            case _S.VERIFYING:
                self._wanted = steps.Verify(step=step, update=update)
            case _S.TRIAL:
                self._wanted = steps.Trial(step=step, update=update)
            case _S.ACTIVATING:
                installed = Installed(
                    version=update.version,
                    variant=update.candidate.variant,
                    manifest=update.manifest,
                    since=moment.wall,
                )
                self._wanted = steps.Activate(step=step, update=update, installed=installed)
            case _S.ROLLING_BACK:
                self._wanted = steps.RollBack(step=step, update=update)
            case _:
                assert update.state is _S.OBSERVING, update.state
                self._until_s = moment.elapsed_s + self._policy.observe_s

    def _check_expiry(self, moment: Moment, jitter: float) -> None:
        """Fail an update that an order asks for which has expired since it was accepted."""
        order = self.record.order
        reason = None if order is None else expiry(order, moment)
        if reason is not None:
            self._fail(reason, moment, jitter)

    # ------------------------------------------------------------ small things

    @property
    def _policy(self) -> UpdatePolicy:
        order = self.record.order
        assert order is not None
        return order.policy

    def _delay_s(self, attempt: int, jitter: float) -> float:
        limit = self._policy.retry_delay_s_max
        return delay_s(attempt, first_s=FIRST_DELAY_S, max_s=limit, jitter=jitter)

    def _schedule(self, update: Update, moment: Moment, jitter: float) -> None:
        """Plan the next attempt of a failed update, if one is left."""
        if update.attempt < self._policy.attempts_max:
            wait_s = self._delay_s(update.attempt, jitter)
            self._retry_at[update.slot] = moment.elapsed_s + wait_s

    def _current(self) -> Update | None:
        return None if self._working is None else self.record.updates[self._working]

    def _working_update(self) -> Update:
        update = self._current()
        assert update is not None
        return update

    def _replace(self, **changes: object) -> None:
        self.record = structs.replace(self.record, **changes)

    def _put(self, update: Update) -> None:
        self._replace(updates={**self.record.updates, update.slot: update})

    def _flush(self) -> list[steps.Action]:
        """Return what was decided, in the order in which it must be done."""
        actions: list[steps.Action] = []
        if self.record is not self._persisted:
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
        self._told, self._wanted = [], None
        self._report = self._collect = False
        return actions
