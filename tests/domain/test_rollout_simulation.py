"""A fleet in simulation: whatever happens in whatever order, the promises of a rollout hold.

Never fewer devices of a site left than its budget says; never more admitted than the phase allows;
no second order for a slot that has one; nobody before the phase that is for it; nothing starts
after an abort; what is promoted has been proved by a device, and by an experiment where one was
asked for; and in the end the rollout ends, or says truly why it cannot.

`Pi` is a small reference of the device side. Actions of people, of devices and of the network come
in any order; the planner may be asked twice, or with reports that are late. Afterwards the faults
stop, and the rollout must come to its end.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
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
from edgectl_server.domain.phases import count_selected, has_failed, targets
from edgectl_server.domain.rollout_facts import ADMITTED, GONE
from edgectl_server.domain.rollouts import (
    BAD,
    OPEN,
    Arm,
    DeviceState,
    Experiment,
    Gates,
    Mark,
    ObservedDevice,
    ObservedRollout,
    Phase,
    Plan,
    RolloutPolicy,
    RolloutState,
    Signals,
    Site,
    Standing,
    plan,
)

START = datetime(2031, 1, 1, tzinfo=UTC)
NEW, NEW_FALLBACK, OLD = ("sha256:" + 64 * digit for digit in "abc")
CANDIDATES = (NEW, NEW_FALLBACK)
ATTEMPTS_MAX = 2
PHASES = (Phase("1", devices=1, soak_s=10), Phase("2", percent=50, approval=True), Phase("3"))
SELECTED = (
    Phase("canary", where="tag=canary"),
    Phase("half", percent=50, soak_s=10, experiment=Experiment(limit_s=60)),
    Phase("all"),
)
CHAMPION, ALIKE, WORSE = (Arm(((wrong, 1000),) * 9) for wrong in (5, 5, 300))
_REFUSAL = Reason(code="order.clock", detail="the device's clock says 1970")
_SITES = ("lisboa", "porto")
_BUSY = (DeviceState.IN_PROGRESS,)
U = UpdateState
_PATH = (U.REFRESHING, U.DOWNLOADING, U.VERIFYING, U.TRIAL, U.ACTIVATING, U.OBSERVING, U.COMMITTED)


@dataclass
class Pi:
    """A device: what it runs, what it does, and what the server has heard of it last."""

    online: bool = True
    enrolled: bool = True
    site: str = ""
    # newest order: counter, wanted (new, old, nothing), what it is offered
    inbox: tuple[int, str | None, tuple[str, ...]] = (0, None, ())
    offered: tuple[str, ...] = CANDIDATES
    accepted: int = 0
    wanted: str | None = "old"
    runs: str | None = OLD
    before: str | None = None
    state: UpdateState = U.IDLE
    trying: str = NEW
    attempt: int = 1
    rejected: set[str] = field(default_factory=set)
    clock_is_wrong: bool = False
    refused: int = 0  # counter of the order that it has refused last
    heard: tuple[int, SlotReport, frozenset[str]] = (0, SlotReport(), frozenset())
    heard_refused: int = 0
    seen_at: datetime | None = None

    def take_order(self) -> None:
        counter, wanted, offered = self.inbox
        if not self.online or counter <= self.accepted:
            return
        if self.clock_is_wrong:
            self.refused = counter
            return
        self.accepted, self.wanted = counter, wanted
        if wanted == "new":
            self.offered = offered
            left = [one for one in offered if one not in self.rejected]
            if self.runs not in offered and left:
                self.state, self.trying, self.attempt = U.REFRESHING, left[0], 1
            elif self.runs not in offered:
                self.state, self.trying = U.REJECTED, offered[-1]
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
                left = [one for one in self.offered if one not in self.rejected]
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
        self.heard_refused = self.refused if self.refused > self.accepted else 0


@dataclass
class Row:
    """The server's row of a device."""

    state: DeviceState = DeviceState.PENDING
    counter: int | None = None
    desired_here: bool = False
    since: datetime = START
    offered: tuple[str, ...] = CANDIDATES
    committed: str | None = None
    from_phase: int = 0
    refused_since: datetime | None = None


class Rollout(RuleBasedStateMachine):
    """Every promise is an invariant or an assertion where it could be broken."""

    @initialize(
        count=st.integers(1, 6),
        max_in_progress=st.integers(1, 4),
        failures_max=st.integers(1, 3),
        had_old=st.booleans(),
        phases=st.sampled_from([(), (Phase("1", devices=1), Phase("2")), PHASES, SELECTED]),
        deadline_s=st.sampled_from([None, 20.0]),
        available_min=st.sampled_from([None, 1, 2]),
    )
    def start(
        self,
        *,
        count: int,
        max_in_progress: int,
        failures_max: int,
        had_old: bool,
        phases: tuple[Phase, ...],
        deadline_s: float | None,
        available_min: int | None,
    ) -> None:
        self.policy = RolloutPolicy(
            max_in_progress,
            failures_max,
            ATTEMPTS_MAX,
            phases=phases,
            gates=Gates(success_min=0.5),
            deadline_s=deadline_s,
            available_min=available_min,
        )
        self.standing = Standing()
        self.revert = False
        self.fleet = {
            f"pi-{n}": Pi(runs=OLD if had_old else None, site=_SITES[n % 2]) for n in range(count)
        }
        self.rows = {name: self._new_row(n) for n, name in enumerate(self.fleet)}
        self.signals = Signals()
        self.was_alike = False
        self.state = RolloutState.RUNNING
        self.acknowledged = 0
        self.finished = False
        self.counter = 0
        self.had_old = had_old
        self.now = START

    # ------------------------------------------------------------ the server

    def _new_row(self, number: int) -> Row:
        selected = any(phase.where for phase in self.policy.phases)
        return Row(from_phase=1 if selected and number % 3 else 0)

    def _observe(self) -> ObservedRollout:
        observed = []
        for name, pi in self.fleet.items():
            accepted, report, rejected = pi.heard
            row = self.rows[name]
            if pi.online:
                pi.seen_at = self.now
            refuses = pi.heard_refused >= (row.counter or 1)
            row.refused_since = (row.refused_since or self.now) if refuses else None
            observed.append(
                ObservedDevice(
                    device=name,
                    state=row.state,
                    enrolled=pi.enrolled,
                    online=pi.online,
                    candidates=row.offered,
                    since=row.since,
                    heard_at=pi.seen_at,
                    committed=row.committed,
                    site=pi.site,
                    order_counter=row.counter,
                    accepted_counter=accepted,
                    report=report,
                    rejected=rejected,
                    desired_here=row.desired_here,
                    from_phase=row.from_phase,
                    refusal=_REFUSAL if refuses else None,
                    refused_since=row.refused_since,
                )
            )
        return ObservedRollout(
            self.state,
            observed,
            self.acknowledged,
            standing=self.standing,
            sites={} if self.policy.available_min is None else self._sites(),
            revert=self.revert,
            signals=self.signals,
        )

    def _sites(self) -> dict[str, Site]:
        total = Counter(pi.site for pi in self.fleet.values() if pi.enrolled)
        free = Counter(
            pi.site
            for name, pi in self.fleet.items()
            if pi.enrolled and pi.online and self.rows[name].state is not DeviceState.IN_PROGRESS
        )
        return {site: Site(total[site], free[site]) for site in _SITES}

    @rule()
    def tick(self) -> None:
        if self.finished:
            return
        observed = self._observe()
        made = plan(self.policy, observed, self.now)
        assert made == plan(self.policy, observed, self.now)
        for mark in made.marks:
            if mark.reason is not None and mark.reason.code == "rollout.deadline":
                assert self.policy.deadline_s is not None
                away = self.now - (self.fleet[mark.device].seen_at or START)
                assert away.total_seconds() >= self.policy.deadline_s
        self.now += timedelta(seconds=5)
        was = self.state
        for mark in made.marks:
            row = self.rows[mark.device]
            if row.state is DeviceState.COMMITTED:
                assert mark.state is DeviceState.REVERTED
                assert self.revert
            if row.state in BAD:
                assert mark.state is DeviceState.COMMITTED
                self.acknowledged = max(0, self.acknowledged - 1)
            assert row.state not in GONE
            assert mark.state is not DeviceState.PENDING
            self._check_mark(mark)
            row.state, row.since, row.committed = mark.state, self.now, mark.manifest
        if made.orders:
            assert was is RolloutState.RUNNING
            assert made.state is RolloutState.RUNNING
        self._check_offers(made)
        self._check_experiment(made)
        for name in made.orders:
            row = self.rows[name]
            assert row.from_phase <= made.standing.phase
            assert row.state in {DeviceState.PENDING, DeviceState.OVERDUE}
            assert not row.desired_here, "a second order for its slot"
            assert self.fleet[name].enrolled
            offered = made.offers.get(name, CANDIDATES)
            self._order(name, "new", offered)
            self.rows[name] = Row(
                DeviceState.IN_PROGRESS,
                self.counter,
                True,
                since=self.now,
                offered=offered,
                from_phase=row.from_phase,
            )
        self._check_places(made)
        for name in made.restores:
            row = self.rows[name]
            assert was is RolloutState.ABORTED or row.state is DeviceState.OVERDUE
            assert row.state is not DeviceState.COMMITTED
            self._order(name, "old" if self.had_old else None)
            row.desired_here, row.offered = False, CANDIDATES
        self.state, self.standing = made.state, made.standing
        self.finished = made.look_again_at is None
        bad = sum(1 for row in self.rows.values() if row.state in BAD)
        if self.state is RolloutState.RUNNING:
            assert bad - self.acknowledged < self.policy.failures_max

    def _check_offers(self, made: Plan) -> None:
        """After the first phase: what one has committed with, or what only one tries."""
        if not self.policy.phases or made.standing.phase == 0:
            return
        proved = {one.committed for one in self.rows.values()} - {None}
        tried = [set(one.offered) for one in self.rows.values() if one.state in _BUSY]
        for name in made.orders:
            offered = set(made.offers[name])
            assert offered
            if not offered <= proved:
                assert not offered & proved
                assert not any(offered & one for one in tried)
                tried.append(offered)

    def _check_experiment(self, made: Plan) -> None:
        """It lets a phase pass when its arms have been alike, or when a person says so."""
        before = self.standing
        self.was_alike |= self.signals.challenger == ALIKE and made.standing.settled_at is not None
        if made.standing.phase == before.phase:
            return
        tested = before.phase < len(self.policy.phases) and self.policy.phases[before.phase]
        if tested and tested.experiment is not None and before.approved < before.phase:
            assert self.was_alike
        self.was_alike = False

    def _check_places(self, made: Plan) -> None:
        """When somebody has just been ordered, phase and sites have had room for it."""
        if not made.orders:
            return
        states = [row.state for row in self.rows.values()]
        total = sum(1 for one in states if one not in GONE)
        admitted = sum(1 for one in states if one in ADMITTED)
        places = [row.from_phase for row in self.rows.values() if row.state not in GONE]
        selected = count_selected(self.policy.phases, places)
        assert admitted <= targets(self.policy.phases, total, selected)[made.standing.phase]
        sites = self._sites()
        for name in made.orders:
            pi = self.fleet[name]
            if pi.online and self.policy.available_min is not None:
                assert sites[pi.site].available >= self.policy.available_min

    def _check_mark(self, mark: Mark) -> None:
        """What is noted must be what the device has said."""
        _, report, rejected = self.fleet[mark.device].heard
        if mark.state is DeviceState.COMMITTED:
            assert report.running is not None
            assert report.running.manifest in CANDIDATES
            assert report.update is None or report.update.state in ENDED
        if mark.state is DeviceState.REJECTED:
            assert rejected.issuperset(self.rows[mark.device].offered)
        if mark.state is DeviceState.FAILED:
            assert report.update is not None
            assert report.update.attempt >= ATTEMPTS_MAX

    def _order(self, name: str, wanted: str | None, offered: tuple[str, ...] = ()) -> None:
        self.counter += 1
        self.fleet[name].inbox = (self.counter, wanted, offered)

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
            approved = self.standing.phase if has_failed(self.standing) else self.standing.approved
            self.standing = replace(self.standing, since=self.now, approved=approved)

    @rule()
    def approve(self) -> None:
        if self.state is RolloutState.RUNNING and self.standing.settled_at is not None:
            self.standing = replace(self.standing, approved=self.standing.phase)

    @precondition(lambda self: self.now > START + timedelta(seconds=10))
    @rule(revert=st.booleans())
    def abort(self, revert: bool) -> None:
        if self.state in {RolloutState.RUNNING, RolloutState.PAUSED}:
            self.state, self.revert = RolloutState.ABORTED, revert

    @precondition(lambda self: self.state is RolloutState.RUNNING and len(self.fleet) < 9)
    @rule(online=st.booleans())
    def a_device_joins_late(self, online: bool) -> None:
        name = f"pi-{len(self.fleet)}"
        site = _SITES[len(self.fleet) % 2]
        self.fleet[name] = Pi(online=online, runs=OLD if self.had_old else None, site=site)
        self.rows[name] = self._new_row(len(self.rows))

    @rule(challenger=st.sampled_from([Arm(), ALIKE, WORSE]))
    def the_fleet_answers(self, challenger: Arm) -> None:
        self.signals = Signals(challenger=challenger, champion=CHAMPION)

    # ------------------------------------------------------------ devices and the network

    @rule(number=st.integers(0, 5), outcome=st.sampled_from(["ok", "ok", "ok", "fail", "reject"]))
    def device_works(self, number: int, outcome: str) -> None:
        pi = list(self.fleet.values())[number % len(self.fleet)]
        pi.take_order()
        pi.step(outcome)

    @rule(number=st.integers(0, 5))
    def a_device_goes_all_the_way(self, number: int) -> None:
        pi = list(self.fleet.values())[number % len(self.fleet)]
        pi.take_order()
        for _ in _PATH:
            pi.step("ok")
        pi.report()

    @rule(number=st.integers(0, 5))
    def device_reports(self, number: int) -> None:
        list(self.fleet.values())[number % len(self.fleet)].report()

    @rule(number=st.integers(0, 5), online=st.booleans())
    def connection(self, number: int, online: bool) -> None:
        list(self.fleet.values())[number % len(self.fleet)].online = online

    @rule(number=st.integers(0, 5), wrong=st.booleans())
    def clock(self, number: int, wrong: bool) -> None:
        list(self.fleet.values())[number % len(self.fleet)].clock_is_wrong = wrong

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
                pi.online, pi.clock_is_wrong = pi.enrolled, False
                pi.take_order()
                pi.step("ok")
                pi.report()
            self.tick()
            self.resume()
            self.approve()
        if self.state is RolloutState.RUNNING:
            self._check_what_waits()
            return
        assert self.state in {RolloutState.COMPLETED, RolloutState.ABORTED}
        for name, row in self.rows.items():
            pi = self.fleet[name]
            assert row.state not in OPEN
            if row.state is DeviceState.COMMITTED:
                assert pi.runs in CANDIDATES
            elif self.state is RolloutState.ABORTED and pi.enrolled:
                assert not row.desired_here
                assert pi.runs == (OLD if self.had_old else None)

    def _check_what_waits(self) -> None:
        """All devices are there and nothing fails: only a site too small for its budget is left."""
        assert self.policy.available_min is not None
        sites = self._sites()
        waiting = [
            name
            for name, row in self.rows.items()
            if row.state in OPEN or (row.state is DeviceState.OVERDUE and self.fleet[name].enrolled)
        ]
        assert waiting
        for name in waiting:
            assert self.rows[name].state is not DeviceState.IN_PROGRESS
            assert sites[self.fleet[name].site].available - 1 < self.policy.available_min


TestRollout = Rollout.TestCase
TestRollout.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
