"""What follows from how the work of a state has ended: on, back, again later, or never again.

`Course` knows which way an update or a group goes; `edgectl_agent.core.machine.Machine` hears what
happens and picks what is worked on.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import structs

from edgectl_agent.core import coupling, steps
from edgectl_agent.core.bookkeeping import Bookkeeping
from edgectl_agent.core.orders import expiry
from edgectl_agent.core.record import SlotPointer, Update
from edgectl_agent.core.step_watch import Overrun
from edgectl_agent.core.timing import Moment
from edgectl_agent.core.wishes import SWITCHING
from edgectl_protocol.messages import Reason, TrialReport
from edgectl_protocol.update import RESUMES_MAX, UpdateEvent, UpdateState, resume_state

__all__ = ["Course"]

_S, _E = UpdateState, UpdateEvent


class Course(Bookkeeping):
    """Where updates go."""

    # ------------------------------------------------------------ proved, and its turn

    def _proved(self, update: Update, moment: Moment, trial: TrialReport | None) -> None:
        """Go on from a trial or a shadow: to the shadow, to the switch, or wait for it."""
        shadow = self.policy.shadow_s > 0 and not update.wish
        serving = self.pointers.get(update.slot, SlotPointer()).running
        if update.state is _S.TRIAL and shadow and serving is not None:
            self._move(update, _E.SHADOW, moment, trial=trial)
            return
        self._put(structs.replace(self._with_seen(update), trial=trial))
        update = self.record.updates[update.slot]
        spoiled = coupling.spoiled(update.slot, self.record, self.pointers, self._retry_at)
        reason = spoiled or self._obstacle(update, moment)
        if reason is None:
            self._working = ()
            self._switch(update.slot, moment)
        else:
            self._move(update, _E.WAIT, moment, reason=reason)

    def _obstacle(self, update: Update, moment: Moment) -> Reason | None:
        return self._gate.obstacle(update, self.record, self.pointers, self._retry_at, moment)

    def _switch(self, slot: str, moment: Moment) -> None:
        """Begin to activate a slot, and with it those that are coupled with it and wait."""
        slots = []
        for one in coupling.coupled(self.record, slot):
            update = self.record.updates.get(one)
            if update is not None and (one == slot or update.state is _S.WAITING):
                slots.append(one)
        together = tuple(slots) if len(slots) > 1 else ()
        for one in slots:
            self._note(self.record.updates[one], _E.OK, together=together, reason=None)
        self._work(tuple(slots))
        self._go(moment)

    def _end_for_partner(self, update: Update, reason: Reason) -> None:
        """End an update whose group cannot be completed any more."""
        if reason.code == "update.partner_failed":
            last = max(update.attempt, self.policy.attempts_max)
            self._note(update, _E.FAILED, reason=reason, attempt=last)
        else:
            self._note(update, _E.REJECTED, reason=reason)

    # ------------------------------------------------------------ back, again, never again

    def _be_back(self, moment: Moment, jitter: float) -> None:
        """The pointers are switched back: end, or try again where the model is not to blame."""
        for update in self._current():
            again = update.again and not update.aborted
            self._note(update, _E.RETRY if again else _E.OK, again=False)
            if again:
                self._schedule(self.record.updates[update.slot], moment, jitter)
        self._go(moment)

    def _fail(self, reason: Reason, moment: Moment, jitter: float, *, slot: str = "") -> None:
        """Note that what is under way cannot be done now; `slot` says whose fault it is."""
        updates = self._current()
        state = updates[0].state
        if state is _S.ROLLING_BACK:
            for update in updates:
                self._note(update, _E.FAILED)
            self._step += 1
            self._wanted = None
            self._setbacks += 1
            if self._setbacks >= self._limits.setbacks_max and not self.unsettled:
                self._be_back(moment, jitter)
            else:
                self._until_s = moment.elapsed_s + self._delay_s(self._setbacks, jitter)
            return
        for update in updates:
            whose = reason
            if slot and slot != update.slot:
                whose = coupling.partner_reason(slot, reason)
            self._note(update, _E.FAILED, reason=whose, again=state in SWITCHING)
        self._go(moment)
        if state not in SWITCHING:
            self._schedule(self.record.updates[updates[0].slot], moment, jitter)

    def _reject(self, reason: Reason, moment: Moment, trial: TrialReport | None = None) -> None:
        (update,) = self._current()
        self._blame(update.manifest)
        self._move(update, _E.REJECTED, moment, reason=reason, trial=trial or update.trial)

    def _breach(self, guilty: Mapping[str, Reason], moment: Moment, *, blame: bool = True) -> None:
        """Roll back what is worked on, and blame the guilty of it.

        Args:
            guilty: by slot, what it did; the others go back with it.
            moment: now.
            blame: whether their digests are remembered.
        """
        first = next(iter(guilty))
        for update in self._current():
            reason = guilty.get(update.slot)
            if reason is None:
                reason = coupling.partner_reason(first, guilty[first])
            elif blame:
                self._blame(update.manifest)
            self._note(update, _E.BREACHED, reason=reason)
        self._go(moment)

    # ------------------------------------------------------------ resuming, and limits of time

    def _resume(self, moment: Moment, jitter: float, *, clean: bool) -> None:
        updates = self._current()
        state = updates[0].state
        resumes = max(one.resumes for one in updates)
        fallen = self._fallen()
        if fallen:
            detail = "something else runs in its place: files were damaged, or it was taken back"
            reason = Reason(code="store.damaged", detail=detail)
            self._fail(reason, moment, jitter, slot=fallen)
            return
        following = resume_state(state, resumes)
        reason = Reason(
            code="update.resumes",
            detail=f"the agent died {RESUMES_MAX} times while it was {state}",
        )
        if following is state:
            for update in updates:
                self._put(structs.replace(update, resumes=resumes + (0 if clean else 1)))
            if state is _S.ROLLING_BACK and resumes >= RESUMES_MAX and not self.unsettled:
                self._be_back(moment, jitter)  # the pointers are back; loading is nobody's update
            else:
                self._enter(moment)
        elif following is _S.FAILED:
            self._fail(reason, moment, jitter)
        elif following is _S.REJECTED:
            self._reject(reason, moment)
        else:
            guilty = dict.fromkeys(self._working, reason)
            self._breach(guilty, moment, blame=len(guilty) == 1)

    def _fallen(self) -> str:
        """Return a slot under observation that runs something else, or nothing; ``""`` for none.

        It fell back, and the agent died before the record said so.
        """
        for update in self._current():
            running = self.pointers.get(update.slot, SlotPointer()).running
            if update.state is _S.OBSERVING and (
                running is None or running.manifest != update.manifest
            ):
                return update.slot
        return ""

    def _check_overrun(self, moment: Moment, jitter: float) -> None:
        """Cancel a step that takes too long; give up on one that does not come back even then."""
        overrun, running = self._watch.check(moment.elapsed_s), self._watch.running
        if overrun is None:
            return
        if overrun is Overrun.STUCK:
            detail = f"a step does not end, {self._limits.cancel_s:.0f} s after it was told to"
            self._told.append(steps.GiveUp(reason=Reason(code="update.stuck", detail=detail)))
            self._watch.cancelled(moment.elapsed_s)  # said again after as long, if nobody listens
            return
        self._cancel(moment)
        if running == self._step and self._working:
            detail = f"{self._current()[0].state} took too long and was cancelled"
            self._fail(Reason(code="update.timeout", detail=detail), moment, jitter)

    def _check_expiry(self, moment: Moment, jitter: float) -> None:
        """Fail an update that an order asks for which has expired since it was accepted."""
        reason = self._expiry(self._current()[0], moment)
        if reason is not None:
            self._fail(reason, moment, jitter)

    def _expiry(self, update: Update, moment: Moment) -> Reason | None:
        order = self.record.order
        return None if order is None or update.wish else expiry(order, moment)
