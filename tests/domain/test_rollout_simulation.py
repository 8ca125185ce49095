"""A fleet in simulation: whatever happens in whatever order, the promises of a rollout hold.

`Pi` is a small reference of the device side. Actions of people, of devices and of the network come
in any order; the planner may be asked twice, or with reports that are late. Afterwards the faults
stop, and the rollout must come to its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from edgectl_protocol.messages import Installed, Reason, SlotReport, UpdateReport
from edgectl_protocol.update import ENDED, UpdateState
from edgectl_server.domain.rollouts import (
    BAD,
    OPEN,
    DeviceState,
    Mark,
    ObservedDevice,
    ObservedRollout,
    RolloutPolicy,
    RolloutState,
    plan,
)

START = datetime(2031, 1, 1, tzinfo=UTC)
NEW, NEW_FALLBACK, OLD = ("sha256:" + 64 * digit for digit in "abc")
CANDIDATES = (NEW, NEW_FALLBACK)
ATTEMPTS_MAX = 2
U = UpdateState
_PATH = (U.REFRESHING, U.DOWNLOADING, U.VERIFYING, U.TRIAL, U.ACTIVATING, U.OBSERVING, U.COMMITTED)


@dataclass
class Pi:
    """A device: what it runs, what it does, and what the server has heard of it last."""

    online: bool = True
    enrolled: bool = True
    inbox: tuple[int, str | None] = (0, None)  # newest order: counter, wanted (new, old, nothing)
    accepted: int = 0
    wanted: str | None = "old"
    runs: str | None = OLD
    before: str | None = None
    state: UpdateState = U.IDLE
    trying: str = NEW
    attempt: int = 1
    rejected: set[str] = field(default_factory=set)
    heard: tuple[int, SlotReport, frozenset[str]] = (0, SlotReport(), frozenset())

    def take_order(self) -> None:
        counter, wanted = self.inbox
        if not self.online or counter <= self.accepted:
            return
        self.accepted, self.wanted = counter, wanted
        if wanted == "new":
            left = [one for one in CANDIDATES if one not in self.rejected]
            if self.runs not in CANDIDATES and left:
                self.state, self.trying, self.attempt = U.REFRESHING, left[0], 1
            elif self.runs not in CANDIDATES:
                self.state = U.REJECTED
        else:
            if self.runs in CANDIDATES:  # committed or not: the order takes it back
                self.runs = self.before
            self.state = U.IDLE
            if wanted == "old":
                self.runs = OLD

    def step(self, outcome: str) -> None:
        if self.state in ENDED:
            if self.state is U.FAILED and self.attempt < ATTEMPTS_MAX:
                self.state, self.attempt = U.REFRESHING, self.attempt + 1
            elif self.state is U.REJECTED:
                left = [one for one in CANDIDATES if one not in self.rejected]
                if left and self.wanted == "new":
                    self.state, self.trying, self.attempt = U.REFRESHING, left[0], 1
            return
        if outcome == "ok":
            if self.state is U.TRIAL:
                self.before, self.runs = self.runs, self.trying
            self.state = _PATH[_PATH.index(self.state) + 1]
        elif self.state in {U.ACTIVATING, U.OBSERVING}:
            self.runs, self.state = self.before, U.ROLLED_BACK
            self.rejected.add(self.trying)
        elif outcome == "reject" and self.state is not U.REFRESHING:
            self.state = U.REJECTED
            self.rejected.add(self.trying)
        else:
            self.state = U.FAILED

    def report(self) -> None:
        if not self.online:
            return
        running = self.runs and Installed(version="1", variant="v", manifest=self.runs, since=START)
        update = UpdateReport(
            order=self.accepted,
            version="1",
            variant="v",
            manifest=self.trying,
            state=self.state,
            attempt=self.attempt,
            reason=Reason(code="simulated.fault", detail="x") if self.state in ENDED else None,
        )
        self.heard = (
            self.accepted,
            SlotReport(running=running, update=update if self.accepted else None),
            frozenset(self.rejected),
        )


@dataclass
class Row:
    """The server's row of a device."""

    state: DeviceState = DeviceState.PENDING
    counter: int | None = None
    desired_here: bool = False


class Rollout(RuleBasedStateMachine):
    """Every promise is an invariant or an assertion where it could be broken."""

    @initialize(
        count=st.integers(1, 6),
        max_in_progress=st.integers(1, 4),
        failures_max=st.integers(1, 3),
        had_old=st.booleans(),
    )
    def start(self, count: int, max_in_progress: int, failures_max: int, had_old: bool) -> None:
        self.policy = RolloutPolicy(max_in_progress, failures_max, ATTEMPTS_MAX)
        self.fleet = {f"pi-{n}": Pi(runs=OLD if had_old else None) for n in range(count)}
        self.rows = {name: Row() for name in self.fleet}
        self.state = RolloutState.RUNNING
        self.acknowledged = 0
        self.finished = False
        self.counter = 0
        self.had_old = had_old
        self.now = START

    # ------------------------------------------------------------ the server

    def _observe(self) -> ObservedRollout:
        observed = []
        for name, pi in self.fleet.items():
            accepted, report, rejected = pi.heard
            row = self.rows[name]
            observed.append(
                ObservedDevice(
                    device=name,
                    state=row.state,
                    enrolled=pi.enrolled,
                    online=pi.online,
                    candidates=CANDIDATES,
                    order_counter=row.counter,
                    accepted_counter=accepted,
                    report=report,
                    rejected=rejected,
                    desired_here=row.desired_here,
                )
            )
        return ObservedRollout(self.state, observed, self.acknowledged)

    @rule()
    def tick(self) -> None:
        if self.finished:
            return
        observed = self._observe()
        made = plan(self.policy, observed, self.now)
        assert made == plan(self.policy, observed, self.now)
        self.now += timedelta(seconds=5)
        was = self.state
        for mark in made.marks:
            row = self.rows[mark.device]
            assert row.state in OPEN | BAD
            assert mark.state is not DeviceState.PENDING
            if row.state in BAD:
                assert mark.state is DeviceState.COMMITTED
            self._check_mark(mark)
            row.state = mark.state
        if made.orders:
            assert was is RolloutState.RUNNING
            assert made.state is RolloutState.RUNNING
        assert not made.restores or was is RolloutState.ABORTED
        for name in made.orders:
            assert self.rows[name].state is DeviceState.PENDING
            assert self.fleet[name].enrolled
            self._order(name, "new")
            self.rows[name] = Row(DeviceState.IN_PROGRESS, self.counter, desired_here=True)
        for name in made.restores:
            assert self.rows[name].state is not DeviceState.COMMITTED
            self._order(name, "old" if self.had_old else None)
            self.rows[name].desired_here = False
        self.state = made.state
        self.finished = made.look_again_at is None
        bad = sum(1 for row in self.rows.values() if row.state in BAD)
        if self.state is RolloutState.RUNNING:
            assert bad - self.acknowledged < self.policy.failures_max

    def _check_mark(self, mark: Mark) -> None:
        """What is noted must be what the device has said."""
        _, report, rejected = self.fleet[mark.device].heard
        if mark.state is DeviceState.COMMITTED:
            assert report.running is not None
            assert report.running.manifest in CANDIDATES
            assert report.update is None or report.update.state in ENDED
        if mark.state is DeviceState.REJECTED:
            assert rejected.issuperset(CANDIDATES)
        if mark.state is DeviceState.FAILED:
            assert report.update is not None
            assert report.update.attempt >= ATTEMPTS_MAX

    def _order(self, name: str, wanted: str | None) -> None:
        self.counter += 1
        self.fleet[name].inbox = (self.counter, wanted)

    # ------------------------------------------------------------ people

    @rule()
    def pause(self) -> None:
        if self.state is RolloutState.RUNNING:
            self.state = RolloutState.PAUSED

    @rule()
    def resume(self) -> None:
        if self.state is RolloutState.PAUSED:
            self.state = RolloutState.RUNNING
            self.acknowledged = sum(1 for row in self.rows.values() if row.state in BAD)

    @precondition(lambda self: self.now > START + timedelta(seconds=60))
    @rule()
    def abort(self) -> None:
        if self.state in {RolloutState.RUNNING, RolloutState.PAUSED}:
            self.state = RolloutState.ABORTED

    # ------------------------------------------------------------ devices and the network

    @rule(number=st.integers(0, 5), outcome=st.sampled_from(["ok", "ok", "ok", "fail", "reject"]))
    def device_works(self, number: int, outcome: str) -> None:
        pi = list(self.fleet.values())[number % len(self.fleet)]
        pi.take_order()
        pi.step(outcome)

    @rule(number=st.integers(0, 5))
    def device_reports(self, number: int) -> None:
        list(self.fleet.values())[number % len(self.fleet)].report()

    @rule(number=st.integers(0, 5), online=st.booleans())
    def connection(self, number: int, online: bool) -> None:
        list(self.fleet.values())[number % len(self.fleet)].online = online

    @rule(number=st.integers(0, 5))
    def decommission(self, number: int) -> None:
        if number == 5:
            pi = next(iter(self.fleet.values()))
            pi.enrolled = pi.online = False

    # ------------------------------------------------------------ promises

    @invariant()
    def never_more_than_allowed(self) -> None:
        if hasattr(self, "rows"):
            busy = [row for row in self.rows.values() if row.state is DeviceState.IN_PROGRESS]
            assert len(busy) <= self.policy.max_in_progress

    @invariant()
    def only_ordered_devices_are_touched(self) -> None:
        if hasattr(self, "rows"):
            for name, row in self.rows.items():
                if row.counter is None:
                    assert self.fleet[name].runs == (OLD if self.had_old else None)

    def teardown(self) -> None:
        """Faults off: it must end, and what is said at the end must be true."""
        if not hasattr(self, "rows"):
            return
        for _ in range(40 * len(self.fleet)):
            for pi in self.fleet.values():
                pi.online = pi.enrolled
                pi.take_order()
                pi.step("ok")
                pi.report()
            self.tick()
            self.resume()
        assert self.state in {RolloutState.COMPLETED, RolloutState.ABORTED}
        for name, row in self.rows.items():
            pi = self.fleet[name]
            assert row.state not in OPEN
            if row.state is DeviceState.COMMITTED:
                assert pi.runs in CANDIDATES
            elif self.state is RolloutState.ABORTED and pi.enrolled:
                assert not row.desired_here
                assert pi.runs == (OLD if self.had_old else None)


TestRollout = Rollout.TestCase
TestRollout.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
