"""The update machine: events in, decisions out. No I/O, no clock, no thread, no randomness.

One update is worked on at a time, or one group of slots that switch together. An order lists slots;
the machine takes those that differ from what runs, one after another, by name. What follows from a
state and an event is the table `edgectl_protocol.update.TRANSITIONS`, where a state goes on after a
power loss is its table `RESUME`. Rules:

1. Every answer begins with `Persist` when anything changed: the record is on disk before anything
   that follows from it is done.
2. A candidate whose trial fails is remembered as bad, and the next candidate of the slot is tried.
   So is one that misbehaves while it is observed; but then the order has had its answer, and the
   next candidate is not tried by itself.
3. A failure is the world's fault: the same candidate again, later, a bounded number of times.
4. A newer order that no longer names the target takes the update back, whatever it is doing; what
   is committed only when the order says so. A way back waits for nothing.
5. A model is blamed only for what it did: an update that is taken back, or whose files were found
   damaged, rolls back without its digest being remembered. When the inference process dies, the
   model under observation is blamed unless it is known that only others were computing, or unless
   several are observed and nobody knows which of them it was.
6. What is proved may have to wait (`waiting`); it is parked, and other slots have their turn.
7. A group is in one state from activation to its end, in one record (`coupling`).
8. Success is what is in the record. What a slot runs without one, because the journal was lost, is
   observed as if it had just been activated.
"""

from __future__ import annotations

from msgspec import structs

from edgectl_agent.core import coupling, observation, steps, wishes
from edgectl_agent.core.course import Course
from edgectl_agent.core.orders import (
    choose,
    is_open,
    is_same,
    refuse,
    stands,
    withdrawn,
)
from edgectl_agent.core.record import NO_NONCE, SlotPointer, Update
from edgectl_agent.core.timing import Moment
from edgectl_agent.core.wishes import SWITCHING
from edgectl_protocol.messages import Order, Reason
from edgectl_protocol.update import (
    ENDED,
    PARKED,
    UpdateEvent,
    UpdateState,
)

__all__ = ["Machine"]

_S, _E = UpdateState, UpdateEvent


class Machine(Course):
    """Decides about the updates of one device.

    Every public method returns actions to be done in order. The caller persists before it acts,
    runs at most one step at a time, in the order in which they are asked for, and brings every
    step's result back, also that of a cancelled one.
    """

    # ------------------------------------------------------------ what the caller asks

    def start(self, moment: Moment, jitter: float) -> list[steps.Action]:
        """Resume after a start of the agent; see `handle` for the arguments."""
        clean = self.record.stopped
        if clean:
            self._replace(stopped=False)
        for slot, update in sorted(self.record.updates.items()):
            if update.state is _S.FAILED:
                self._schedule(update, moment, jitter)
            elif update.state not in ENDED | PARKED:
                assert not self._working or self._working[0] in update.members, slot
                self._working = (*self._working, slot)
        if self._working:
            self._resume(moment, jitter, clean=clean)
        self._consider(moment, jitter)
        self._report = self._collect = True
        return self._flush(moment)

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
                self._mourn(event, moment, jitter)
            case steps.PointerChanged():
                self._take_pointer(event, moment, jitter)
            case steps.HoldChanged():
                self._gate.hold(event.held)
            case steps.RollbackAsked():
                self._roll_back_asked(event, moment)
            case steps.InstallAsked():
                self._install_asked(event, moment)
            case steps.Ticked():
                pass
        self._pass_time(moment, jitter)
        self._consider(moment, jitter)
        return self._flush(moment)

    def stop(self, moment: Moment) -> list[steps.Action]:
        """Note that the agent ends in good order."""
        self._replace(stopped=True)
        return self._flush(moment)

    # ------------------------------------------------------------ orders and wishes

    def _take_order(self, arrived: steps.OrderArrived, moment: Moment) -> None:
        order, known = arrived.order, self.record.order
        if known is not None and is_same(order, known):
            # The same once more: it is retained, and comes after every reconnect.
            self._told.append(steps.Accept())
            if order != known:
                self._read_anew(order)
            return
        refusal = refuse(order, self._device, self.record.counter_floor(arrived.keys), moment)
        if refusal is not None:
            self._told.append(steps.Refuse(reason=refusal, counter=order.counter))
            return
        self._told.append(steps.Accept())
        forgiven = set(order.forgive)
        rejected = tuple(one for one in self.record.rejected if one not in forgiven)
        self._replace(order=order, order_key=arrived.key, rejected=rejected, local={})
        reason = Reason(code="update.aborted", detail="a newer order names another model")
        for slot in sorted(self.record.updates):
            update, wanted = self.record.updates[slot], order.slots.get(slot)
            if wanted is None or not update.is_for(wanted):
                self._take_back(update, reason, moment)
            elif stands(update, rejected, forgiven):
                self._put(update.named_by(order))

    def _read_anew(self, order: Order) -> None:
        """Keep what an older version of the agent has read less of; nothing begins anew."""
        self._replace(order=order)
        for slot, update in self.record.updates.items():
            if update.order == order.counter and not update.wish and slot in order.slots:
                self._put(update.named_by(order))

    def _take_back(self, update: Update, reason: Reason, moment: Moment) -> None:
        """Abort what is not wanted any more; what is switched together goes back together."""
        self._retry_at.pop(update.slot, None)
        if update.state is _S.ROLLING_BACK:
            if not update.aborted:
                self._note(update, _E.ABORTED, aborted=True)
        elif update.state in PARKED or update.state is _S.FAILED:
            self._note(update, _E.ABORTED, aborted=True, reason=reason)
        elif update.state not in ENDED:
            self._cancel(moment)
            for one in self._current():
                self._note(one, _E.ABORTED, aborted=True, reason=reason)
            self._go(moment)

    def _install_asked(self, event: steps.InstallAsked, moment: Moment) -> None:
        refusal = wishes.cannot_install(self.record, event.slot, event.wanted)
        self._told.append(steps.Answer(request=event.request, reason=refusal))
        if refusal is not None:
            return
        self._replace(local=wishes.with_wish(self.record, event.slot, event.wanted))
        update = self.record.updates.get(event.slot)
        if update is None:
            return
        if not update.is_for(event.wanted):
            reason = Reason(code="update.aborted", detail="a person at the device wants another")
            self._take_back(update, reason, moment)
        elif stands(update, self.record.rejected, ()):
            self._put(structs.replace(update, wish=self.record.wish(event.slot)))

    def _roll_back_asked(self, event: steps.RollbackAsked, moment: Moment) -> None:
        refusal = wishes.cannot_roll_back(self.record, self.pointers, event.slot)
        self._told.append(steps.Answer(request=event.request, reason=refusal))
        if refusal is not None:
            return
        reason = Reason(code="update.unwanted", detail="a person at the device took it back")
        update = self.record.updates.get(event.slot)
        if update is None or update.state not in SWITCHING:
            self._interrupt(moment)
            self._return(coupling.together(event.slot, self.record, self.pointers))
        elif update.state is _S.ROLLING_BACK:
            self._blame(update.manifest)
            return
        else:
            self._cancel(moment)
        self._breach({event.slot: reason}, moment)

    def _return(self, slots: tuple[str, ...]) -> None:
        """Work on what slots run, to take it back; what was tried there since is forgotten."""
        for slot in slots:
            self._retry_at.pop(slot, None)
            running = self.pointers[slot].running
            assert running is not None, slot
            update = wishes.as_committed(self.record, slot, running)
            together = slots if len(slots) > 1 else ()
            self._put(structs.replace(update, together=together))
        self._work(slots)

    def _interrupt(self, moment: Moment) -> None:
        """Put aside what is worked on and has switched nothing; it goes on at once after that."""
        reason = Reason(code="update.interrupted", detail="something more urgent came between")
        for update in self._current():
            assert update.state not in SWITCHING, update.state
            self._cancel(moment)
            self._note(update, _E.FAILED, reason=reason, attempt=update.attempt - 1)
            self._retry_at[update.slot] = moment.elapsed_s
        self._working = ()

    def _consider(self, moment: Moment, jitter: float) -> None:
        """Begin with the next slot that differs from what is wanted, if nothing is under way."""
        while not self._working:
            if self._adopt(moment):
                return
            if self._withdraw(moment) or self._review(moment, jitter):
                continue
            for slot in self.record.wanted_slots:
                if is_open(slot, self.record, self.pointers.get(slot, SlotPointer())):
                    self._begin(slot, moment, jitter)
                    break
            else:
                return

    def _adopt(self, moment: Moment) -> bool:
        """Observe what runs as it is wanted and is in no record, if anything is."""
        slots = coupling.unknown(self.record, self.pointers)
        for slot in slots:
            update = self._new(slot, _S.OBSERVING)
            self._put(structs.replace(update, together=slots if len(slots) > 1 else ()))
        if slots:
            self._work(slots)
            self._enter(moment)
        return bool(slots)

    def _withdraw(self, moment: Moment) -> bool:
        """Begin to take back what is committed and withdrawn, if anything is."""
        order = self.record.order
        slots = withdrawn(order, self.record, self.pointers) if order else ()
        if not slots:
            return False
        self._return(coupling.together(slots[0], self.record, self.pointers, slots))
        reason = Reason(code="update.withdrawn", detail="an order takes the model back")
        for update in self._current():
            self._note(update, _E.ABORTED, aborted=True, reason=reason)
        self._go(moment)
        return True

    def _review(self, moment: Moment, jitter: float) -> bool:
        """Look at the updates that wait; say whether one of them has gone on."""
        self._look_s = None
        for slot, update in sorted(self.record.updates.items()):
            if update.state is not _S.WAITING:
                continue
            spoiled = coupling.spoiled(slot, self.record, self.pointers, self._retry_at)
            if spoiled is not None:
                self._end_for_partner(update, spoiled)
                return True
            expired = self._expiry(update, moment)
            if expired is not None:
                self._note(update, _E.FAILED, reason=expired)
                self._schedule(self.record.updates[slot], moment, jitter)
                return True
            reason = self._obstacle(update, moment)
            if reason is None:
                self._switch(slot, moment)
                return True
            if reason != update.reason:
                self._put(structs.replace(update, reason=reason))
            if reason.code == "update.window":
                self._look_s = moment.elapsed_s + self._gate.look_s(self.record, moment)
        return False

    def _begin(self, slot: str, moment: Moment, jitter: float) -> None:
        before = self.record.updates.get(slot)
        update = self._new(slot, _S.IDLE if before is None else before.state)
        self._retry_at.pop(slot, None)
        self._seen.pop(slot, None)
        self._work((slot,))
        self._note(update, _E.ORDERED)
        spoiled = coupling.spoiled(slot, self.record, self.pointers, self._retry_at)
        if choose(update.wanted, self.record.rejected) is None:
            detail = "every candidate was found bad before; forgive it to try again"
            self._reject(Reason(code="update.remembered", detail=detail), moment)
        elif spoiled is not None:
            self._end_for_partner(self.record.updates[slot], spoiled)
            self._go(moment)
        else:
            self._go(moment)
            self._check_expiry(moment, jitter)

    def _new(self, slot: str, state: UpdateState) -> Update:
        """Return an update of `slot` to what is wanted there."""
        wanted = self.record.wanted(slot)
        assert wanted is not None, slot
        candidate = choose(wanted, self.record.rejected)
        return Update(
            slot=slot,
            order=self.record.counter,
            nonce=self.record.nonce or NO_NONCE,
            wish=self.record.wish(slot),
            wanted=wanted,
            manifest=(candidate or wanted.candidates[0]).manifest,
            state=state,
        )

    # ------------------------------------------------------------ results of steps

    def _take_result(
        self,
        event: steps.StepDone | steps.StepFailed | steps.StepRejected,
        moment: Moment,
        jitter: float,
    ) -> None:
        self._watch.returned(event.step, moment.elapsed_s)
        if event.pointers:  # also of a step that was overtaken: it is what it is
            self.pointers.update(event.pointers)
            self._report = True
        updates = self._current()
        if event.step != self._step or not updates:
            return
        update = updates[0]
        switching = update.state is _S.ACTIVATING
        match event:
            case steps.StepDone():
                self._take_done(event, update, moment, jitter)
            case steps.StepFailed():
                self._fail(event.reason, moment, jitter, slot=event.slot)
            case steps.StepRejected() if switching:
                self._breach({event.slot: event.reason}, moment)
            case steps.StepRejected():
                self._reject(event.reason, moment, event.trial)

    def _take_done(
        self, event: steps.StepDone, update: Update, moment: Moment, jitter: float
    ) -> None:
        match update.state:
            case _S.TRIAL:
                self._proved(update, moment, event.trial)
            case _S.SHADOWING if event.shadowless:
                self._proved(update, moment, update.trial)
            case _S.SHADOWING:
                self._until_s = moment.elapsed_s + self.policy.shadow_s
            case _S.ACTIVATING:
                for one in self._current():
                    self._note(one, _E.OK, swap=event.swaps.get(one.slot))
                self._go(moment)
            case _S.ROLLING_BACK:
                self._be_back(moment, jitter)
            case _S.DOWNLOADING:
                self._move(update, _E.OK, moment, transfer=event.transfer)
            case _:
                if event.floor is not None:
                    self._replace(floor=event.floor)  # lower after a rotation of keys
                self._move(update, _E.OK, moment)

    # ------------------------------------------------------------ observation

    def _observe(self, health: steps.HealthSeen, moment: Moment) -> None:
        if self.observed.get(health.slot) == health.manifest:
            self._seen[health.slot] = observation.report(health, self.policy)
            reason = observation.judge(health, self.policy)
            if reason is not None:
                self._breach({health.slot: reason}, moment)
        elif health.companion and self.shadowed.get(health.slot) == health.companion:
            self._seen[health.slot] = observation.report_shadow(health, self.policy)
            reason = observation.judge_shadow(health, self.policy)
            if reason is not None:
                self._reject(reason, moment)

    def _mourn(self, event: steps.InferenceDied, moment: Moment, jitter: float) -> None:
        """The inference process has died: blame who was under observation, if anybody was."""
        observed = self.observed
        if observed:
            suspects = {
                slot: event.reason for slot, digest in observed.items() if digest in event.suspects
            }
            if suspects:
                self._breach(suspects, moment)
            elif not event.suspects:
                everybody = dict.fromkeys(observed, event.reason)
                self._breach(everybody, moment, blame=len(everybody) == 1)
            return
        current = self._current()
        if current and current[0].state is _S.SHADOWING:
            if self._until_s is None:
                self._cancel(moment)
            if event.suspects and current[0].manifest not in event.suspects:
                self._fail(event.reason, moment, jitter)  # the shadow is gone with the process
            else:
                self._reject(event.reason, moment)

    def _take_pointer(self, event: steps.PointerChanged, moment: Moment, jitter: float) -> None:
        self.pointers[event.slot] = event.pointer
        self._report = True
        running = event.pointer.running
        observed = self.observed.get(event.slot)
        if observed is not None and (running is None or running.manifest != observed):
            self._fail(event.reason, moment, jitter, slot=event.slot)

    def _pass_time(self, moment: Moment, jitter: float) -> None:
        self._check_overrun(moment, jitter)
        if self._working:
            if self._until_s is not None and moment.elapsed_s >= self._until_s:
                self._end_phase(moment)
            return
        for slot, at in sorted(self._retry_at.items(), key=lambda item: item[1]):
            if at <= moment.elapsed_s:
                del self._retry_at[slot]
                update = self._named_anew(self.record.updates[slot])
                self._work((slot,))
                attempt = update.attempt + 1
                self._move(update, _E.RETRY, moment, attempt=attempt, reason=None, together=())
                self._check_expiry(moment, jitter)
                return

    def _named_anew(self, update: Update) -> Update:
        """Return a failed update as the newest order names it, where that is of the same target."""
        order = self.record.order
        wanted = None if order is None or update.wish else order.slots.get(update.slot)
        if order is None or wanted is None or not update.is_for(wanted):
            return update
        return update.named_by(order)

    def _end_phase(self, moment: Moment) -> None:
        updates = self._current()
        match updates[0].state:
            case _S.OBSERVING:
                self._end_observation(moment)
            case _S.SHADOWING:
                self._proved(updates[0], moment, updates[0].trial)
            case _:
                assert updates[0].state is _S.ROLLING_BACK, updates[0].state
                self._enter(moment)

    def _end_observation(self, moment: Moment) -> None:
        """Commit what was seen serving; what was not is waited for, and goes back in the end."""
        updates = self._current()
        unseen = [one.slot for one in updates if one.slot not in self._seen]
        if not unseen:
            for update in updates:
                self._note(update, _E.OK)
            self._go(moment)
            return
        if self._unseen_until_s is None:
            self._unseen_until_s = moment.elapsed_s + self._limits.unseen_s
        if moment.elapsed_s < self._unseen_until_s:
            self._until_s = min(moment.elapsed_s + self._limits.unseen_look_s, self._unseen_until_s)
            return
        detail = "it was not seen serving for as long as it was observed, and longer"
        reason = Reason(code="observe.unseen", detail=detail)
        self._breach(dict.fromkeys(unseen, reason), moment, blame=False)
