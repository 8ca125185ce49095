"""How the updates of a simulated device go: decided from the contract's own table. No I/O.

The states, their order and what may follow from what are `edgectl_protocol.update`, as on a real
device; here is only what chance and a device's faults decide instead of files and models. One
slot's update does not wait for another's, maintenance windows and holds are not kept, and coupled
slots switch each for itself: `docs/simulation.md` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from edgectl_protocol.fields import Reason
from edgectl_protocol.messages import (
    Candidate,
    Installed,
    ObservationReport,
    Order,
    SwapReport,
    TrialReport,
    UpdatePolicy,
)
from edgectl_protocol.update import ENDED, UpdateEvent, UpdateState, next_state
from edgectl_simulator.draws import Draws
from edgectl_simulator.memory import REJECTED_MAX, Memory, Update
from edgectl_simulator.profiles import Profile, Traits

__all__ = ["NEEDS_NETWORK", "Course", "Transition"]

_S, _E = UpdateState, UpdateEvent

NEEDS_NETWORK = frozenset({_S.REFRESHING, _S.DOWNLOADING})
"""States that stand still while there is no connection."""
_RETRY_FIRST_S = 5.0
_LATENCY_US = 400.0
_LOAD_MS = 60.0
_RSS_BYTES = 48_000_000


def _simulated(code: str, detail: str) -> Reason:
    return Reason(code=code, detail=f"simulated: {detail}")


_FAILURES: dict[UpdateState, tuple[str, UpdateEvent, Reason]] = {
    _S.DOWNLOADING: (
        "downloading",
        _E.FAILED,
        _simulated("disk.full", "there is no room"),
    ),
    _S.TRIAL: (
        "trial",
        _E.REJECTED,
        _simulated("trial.golden", "other answers than the golden ones"),
    ),
    _S.OBSERVING: (
        "observing",
        _E.BREACHED,
        _simulated("observe.error_rate", "too many errors"),
    ),
}


class Transition:
    """One thing that has happened to an update."""

    __slots__ = ("after", "before", "event", "update")

    def __init__(self, update: Update, before: UpdateState, event: UpdateEvent) -> None:
        self.update, self.before, self.event = update, before, event
        self.after = update.state


class Course:
    """Decides about the updates of one device; what it does to `memory` is all that it does."""

    def __init__(self, memory: Memory, profile: Profile, traits: Traits, draws: Draws) -> None:
        self._memory, self._profile, self._traits, self._draws = memory, profile, traits, draws

    # ------------------------------------------------------------ an order has come

    def obey(self, order: Order) -> Iterator[Transition]:
        """Take a new order, which was not refused; take back what it does not want any more."""
        memory = self._memory
        memory.order = order
        memory.rejected = tuple(one for one in memory.rejected if one not in order.forgive)
        for update in list(memory.updates.values()):
            wanted = order.slots.get(update.slot)
            if wanted is None or not update.is_for(wanted):
                yield from self._take_back(update)
            elif self._stands(update):
                update.order, update.nonce, update.wanted = order.counter, order.nonce, wanted
        yield from self.consider()

    def consider(self) -> Iterator[Transition]:
        """Begin whatever differs from what is wanted and is not under way."""
        order = self._memory.order
        if order is None:
            return
        for slot in set(order.withdrawn) - set(order.slots):
            update, running = self._memory.updates.get(slot), self._memory.running.get(slot)
            if update is None or running is None or update.state is not _S.COMMITTED:
                continue
            if running.manifest == update.manifest:
                detail = "an order takes the model back"
                update.aborted = True
                yield self._note(update, _E.ABORTED, Reason(code="update.withdrawn", detail=detail))
        for slot, wanted in order.slots.items():
            candidate = self._open(order, slot)
            if candidate is None:
                continue
            before = self._memory.updates.get(slot)
            update = Update(
                slot=slot,
                wanted=wanted,
                candidate=candidate,
                order=order.counter,
                nonce=order.nonce,
                state=_S.IDLE if before is None else before.state,
                attempt=1,
            )
            self._memory.updates[slot] = update
            yield self._note(update, _E.ORDERED)

    def _open(self, order: Order, slot: str) -> Candidate | None:
        """Return what is to be installed in a slot now, if anything is."""
        memory, wanted = self._memory, order.slots[slot]
        usable = (one for one in wanted.candidates if one.manifest not in memory.rejected)
        candidate = next(usable, None)
        running, update = memory.running.get(slot), memory.updates.get(slot)
        if candidate is None or (running and running.manifest == candidate.manifest):
            return None
        if update is None:
            return candidate
        if update.state not in ENDED:
            return None
        if update.is_for(wanted) and update.order == order.counter:
            again = {
                _S.REJECTED: update.manifest in memory.rejected,  # then the next candidate
                _S.ROLLED_BACK: update.aborted,
                _S.COMMITTED: True,
            }
            return candidate if again.get(update.state, False) else None
        return candidate

    def _stands(self, update: Update) -> bool:
        if update.state in {_S.FAILED, _S.IDLE}:
            return False
        if update.state in {_S.REJECTED, _S.ROLLED_BACK}:
            return update.manifest in self._memory.rejected
        return True

    def _take_back(self, update: Update) -> Iterator[Transition]:
        if update.state is _S.ROLLING_BACK:
            update.aborted = True
        elif update.state is _S.FAILED or update.state not in ENDED:
            update.aborted = True
            detail = "a newer order wants something else"
            yield self._note(update, _E.ABORTED, Reason(code="update.aborted", detail=detail))

    # ------------------------------------------------------------ time passes

    def lasts_s(self, update: Update, policy: UpdatePolicy) -> float | None:
        """Return how long it stays in its state; None: until something else happens."""
        slow = 1.0 if self._traits.slow is None else self._traits.slow.factor
        match update.state:
            case _S.FAILED:
                if update.aborted or update.attempt >= policy.attempts_max:
                    return None
                whole = min(policy.retry_delay_s_max, _RETRY_FIRST_S * 2.0**update.attempt)
                return whole * (0.5 + self._draws.next() / 2)
            case _S.OBSERVING:
                return policy.observe_s
            case _S.SHADOWING:
                return policy.shadow_s
            case state if state in ENDED:
                return None
        return self._draws.around(self._profile.step_s) * slow

    def advance(self, update: Update, policy: UpdatePolicy, at: datetime) -> Transition:
        """Let the state of an update end at `at`, as the device's faults have it."""
        event, reason = _E.OK, None
        where, failure, why = _FAILURES.get(update.state, ("", _E.OK, None))
        failing = self._traits.failing
        if failing is not None and failing.at == where:
            event, reason = failure, why
        elif update.state is _S.TRIAL and policy.shadow_s > 0:
            event = _E.SHADOW
        elif update.state is _S.FAILED:
            event = _E.RETRY
            update.attempt += 1
        if (update.state, event) == (_S.ACTIVATING, _E.OK):
            self._switch(update, at)
        return self._note(update, event, reason)

    def fail(self, update: Update, reason: Reason) -> Transition:
        """Let it fail for the world's reasons."""
        return self._note(update, _E.FAILED, reason)

    # ------------------------------------------------------------ what follows

    def _note(self, update: Update, event: UpdateEvent, reason: Reason | None = None) -> Transition:
        before = update.state
        update.state = next_state(before, event)
        if reason is not None or event in {_E.ORDERED, _E.RETRY}:
            update.reason = reason
        if event in {_E.REJECTED, _E.BREACHED} and update.manifest not in self._memory.rejected:
            self._memory.rejected = (*self._memory.rejected, update.manifest)[-REJECTED_MAX:]
        match before, event:
            case _S.TRIAL, _E.OK | _E.SHADOW | _E.REJECTED:
                update.trial = self._trial(passed=event is not _E.REJECTED)
            case _S.OBSERVING, _E.OK | _E.BREACHED:
                update.observation = self._observed(breached=event is _E.BREACHED)
            case _S.SHADOWING, _E.OK:
                update.shadow = ObservationReport(mirrored=20, agreed=20)
            case _S.ROLLING_BACK, _E.OK:
                self._switch_back(update)
        return Transition(update, before, event)

    def _switch(self, update: Update, at: datetime) -> None:
        memory = self._memory
        running = memory.running.get(update.slot)
        if running is not None:
            memory.previous[update.slot] = running
        memory.running[update.slot] = Installed(
            version=update.wanted.version,
            variant=update.candidate.variant,
            manifest=update.manifest,
            since=at,
            threads=1,
        )
        update.swap = SwapReport(load_ms=self._draws.around(_LOAD_MS), resident=True)

    def _switch_back(self, update: Update) -> None:
        memory = self._memory
        running = memory.running.get(update.slot)
        if running is None or running.manifest != update.manifest:
            return  # it was never switched
        previous = memory.previous.pop(update.slot, None)
        if previous is None:
            del memory.running[update.slot]
        else:
            memory.running[update.slot] = previous

    def _trial(self, *, passed: bool) -> TrialReport:
        slow = 1.0 if self._traits.slow is None else self._traits.slow.factor
        median = self._draws.around(_LATENCY_US) * slow
        return TrialReport(
            golden_passed=8 if passed else 5,
            golden_total=8,
            load_ms=self._draws.around(_LOAD_MS) * slow,
            latency_p50_us=median,
            latency_p95_us=median * 1.4,
            rss_bytes=int(self._draws.around(_RSS_BYTES)),
            max_abs_diff=0.001 if passed else 0.7,
            runs=50,
            threads=1,
            provider="CPUExecutionProvider",
        )

    def _observed(self, *, breached: bool) -> ObservationReport:
        requests = 20 + int(self._draws.next() * 80)
        return ObservationReport(
            requests=requests,
            errors=requests // 2 if breached else 0,
            latency_p95_us=self._draws.around(_LATENCY_US),
        )
