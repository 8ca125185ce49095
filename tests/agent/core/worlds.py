"""Worlds made from seeds: each enables some faults, and lets things happen at random moments.

`run_world` plays one: a phase in which everything goes wrong that this world has enabled, then the
faults end and the device must come to rest. What must hold is checked by `simulation.World`
meanwhile, and here at the end. A seed says everything.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache

from agent.core.made import (
    START,
    MadeBundle,
    MadeDelta,
    describe,
    make_delta,
    make_order,
    simple_bundle,
    slot_order,
)
from agent.core.simulated_disk import PowerCut, Survival
from agent.core.simulation import World
from edgectl_agent.core import steps
from edgectl_protocol import topics
from edgectl_protocol.messages import Order, Reason, SlotOrder, UpdatePolicy
from edgectl_protocol.names import digest_of
from edgectl_protocol.update import ENDED, UpdateEvent, UpdateState
from edgectl_protocol.windows import parse_windows

__all__ = ["FAULTS", "SLOTS", "Trace", "run_world"]

SLOTS = ("activity", "classifier", "detector")
PAIR = ("classifier", "detector")
VERSIONS = ("1", "2", "3")
FAULTS = (
    "cuts", "kills", "bad trials", "errors", "no load", "deaths", "metadata", "no memory",
    "bits", "full disk", "lost chunks", "altered chunks", "holds", "windows", "wrong clock",
    "rollbacks", "installs", "withdrawals", "shadows", "hangs", "coupled", "strange bundles",
    "deltas", "wrong deltas",
)  # fmt: skip
"""What may go wrong, or come between."""
_SHARES = {"cuts": 0.8, "coupled": 0.5, "shadows": 0.5, "deltas": 0.5}
"""In how many worlds a kind of fault is enabled, where that is not 30 %."""
HELD = Reason(code="hold.asked", detail="somebody says not now")
_WINDOWS = parse_windows("02:00-04:00, mon+wed 13:00-13:30 utc")
_LENGTHS = {"activity": 40_000, "classifier": 2_000, "detector": 3_000}


def _retained(manifest: bytes) -> dict[str, bytes]:
    return {topics.chunk(digest_of(manifest), 0): manifest}


def _made() -> dict[str, dict[str, tuple[MadeBundle, ...]]]:
    made: dict[str, dict[str, tuple[MadeBundle, ...]]] = {}
    for slot in SLOTS:
        made[slot] = {}
        for version in VERSIONS:
            variants = ("int8", "fp32") if version != "1" else ("fp32",)
            made[slot][version] = tuple(
                simple_bundle(version, variant=one, model=slot, length=_LENGTHS[slot])
                for one in variants
            )
    return made


BUNDLES = _made()
_OTHER = simple_bundle("9", model="activity", length=2_000)
LARGE = "activity"
"""The slot whose models come by deltas too."""
LARGE_ONES = tuple(one for versions in BUNDLES[LARGE].values() for one in versions)
STRANGE = (
    MadeBundle(describe("activity", "4", "int8"), b"{}", {}, _retained(b"{}")),
    _OTHER,
    simple_bundle("4", model="activity", length=2_000),
)
"""Candidates of one version: no manifest, another version, and a good one."""
ALL = (
    *(one for versions in BUNDLES.values() for some in versions.values() for one in some),
    *STRANGE,
)


@cache
def _deltas_between(base: str, target: str) -> tuple[MadeDelta, ...]:
    """Return the delta between two large models, by their manifests, and some that are no good:
    one of something else, one cut short, and no delta at all."""
    one, other = (next(it for it in LARGE_ONES if it.digest == digest) for digest in (base, target))
    good = make_delta(one, other)
    wrong = (make_delta(other, one).content, good.content[:-7], b"<html>" * 20)
    return (good, *(make_delta(one, other, content) for content in wrong))


@dataclass(frozen=True)
class Trace:
    """What one world has covered."""

    seed: int
    enabled: frozenset[str]
    """Kinds of faults that could come."""
    met: frozenset[str]
    """Those that came."""
    transitions: frozenset[tuple[UpdateState, UpdateEvent, UpdateState]]
    operations: int
    """Of the disk."""
    cuts: Counter[tuple[str, str]]
    """Power cuts, by the state of an update under way (or ``idle``) and the disk's operation."""
    boots: int
    reasons: frozenset[str]
    deltas: Counter[str]
    """Downloads for which the order named a delta: ``used``, or why not."""


@dataclass
class RandomWorld(World):
    """A world in which things happen."""

    enabled: frozenset[str] = frozenset()
    met: set[str] = field(default_factory=set)
    cuts: Counter[tuple[str, str]] = field(default_factory=Counter)
    survival: Survival = "random"
    calm: bool = False
    """The faults have ended."""
    counter: int = 0
    newest: Order | None = None
    up: bool = False

    # ------------------------------------------------------------ lives

    def live(self, happening: Callable[[], None]) -> None:
        """Do something with the device; where that cuts its power or ends it, it comes back."""
        try:
            if not self.up:
                self.boot()
                self.up = True
                if self.newest is not None:
                    self.deliver(self.newest)  # it is retained
            happening()
        except PowerCut as cut:
            self.met.add("cuts")
            self.cuts[self._where(), str(cut).split(", ")[1].split(" ")[0]] += 1
            self.up = False
            self.disk.reboot(self.survival, self.random)
            self._plan_cut()
        except _Killed:
            self.up = False
            self.disk.reboot("kept", self.random)  # the kernel lives on
            self._plan_cut()

    def _where(self) -> str:
        updates = self.machine.record.updates.values()
        return next((str(one.state) for one in updates if one.state not in ENDED), "idle")

    def _plan_cut(self) -> None:
        if "cuts" in self.enabled and not self.calm and self.random.random() < 0.7:
            self.disk.cut_at = self.disk.operations + int(self.random.expovariate(1 / 25)) + 1

    def some_turns(self) -> None:
        """Let some things happen, and now and then something beside them."""
        for _ in range(int(self.random.expovariate(1 / 12))):
            if "kills" in self.enabled and self.random.random() < 0.03:
                self.met.add("kills")
                raise _Killed
            resting = self._where() in {"shadowing", "observing"}  # long, and nothing is written
            if "cuts" in self.enabled and self.random.random() < (0.2 if resting else 0.02):
                raise PowerCut(self.disk.operations, "rest", "", within=False)
            if not self.turn():
                return

    def many_turns(self) -> None:
        """Let happen what is going to, unless it is to be waited for very long."""
        for _ in range(150):
            if not self.turn():
                return

    def _run_job(self) -> None:
        if "hangs" in self.enabled and not self.calm and self.random.random() < 0.02:
            job = self.jobs[0]
            if not isinstance(job, steps.Collect | steps.Release):
                self.met.add("hangs")
                self.jobs.popleft()
                self._hang(job)
                return
        super()._run_job()

    def _hang(self, job: steps.Step) -> None:
        """The step does not come back until it is cancelled, and perhaps not even then."""
        before = self.cancellations
        for _ in range(3):
            due_s = self.machine.due_s
            assert due_s is not None, "a step that hangs is not noticed"
            self.elapsed_s = max(self.elapsed_s, due_s)
            self.feed(steps.Ticked())
            if self.random.random() < 0.5:
                break
        assert self.cancellations > before, "a step that hangs is not cancelled"
        reason = Reason(code="update.cancelled", detail="at last")
        self.feed(steps.StepFailed(step=job.step, slot="", reason=reason))

    def _give_up(self, reason: Reason) -> None:
        self.met.add("gave up")
        raise _Killed

    # ------------------------------------------------------------ what happens

    def happen(self) -> None:
        """One thing, of those that are enabled."""
        choices = [self.order, self.order, self.some_turns, self.some_turns, self.many_turns]
        choices += [act for name, act in self._acts().items() if name in self.enabled]
        self.random.choice(choices)()

    def _acts(self) -> dict[str, Callable[[], None]]:
        return {
            "holds": self.change_hold,
            "rollbacks": self.ask_rollback,
            "installs": self.ask_install,
            "withdrawals": self.withdraw,
            "deaths": self.die,
            "metadata": self.fail_metadata,
            "bits": self.flip_bit,
            "full disk": self.fill_disk,
            "lost chunks": self.lose_chunks,
            "altered chunks": self.alter_chunk,
            "wrong clock": self.set_clock,
        }

    def order(self, *, withdrawn: Sequence[str] = ()) -> None:
        """The server wants something else."""
        slots: dict[str, SlotOrder] = {}
        pair = self.random.choice(VERSIONS)
        for slot in SLOTS:
            if slot in withdrawn or self.random.random() < 0.2:
                continue
            together = slot in PAIR and self.coupled
            version = pair if together else self.random.choice(VERSIONS)
            slots[slot] = slot_order(BUNDLES[slot][version], rollout=f"r{self.counter}")
        if "strange bundles" in self.enabled and self.random.random() < 0.3:
            self.met.add("strange bundles")
            slots["activity"] = SlotOrder(
                model="activity", version="4", candidates=tuple(one.candidate for one in STRANGE)
            )
        if self.coupled and any(slot not in slots for slot in PAIR):
            for slot in PAIR:
                slots.pop(slot, None)
        self.counter += 1
        deltas = self._deltas(slots)
        shadow_s = self.random.choice((5.0, 3600.0)) if "shadows" in self.enabled else 0.0
        windows = "windows" in self.enabled and self.random.random() < 0.7
        order = make_order(
            self.counter,
            [],
            at=START + timedelta(seconds=self.elapsed_s),  # by the server's clock, which is right
            valid=timedelta(days=30),
            more=slots,
            withdrawn=withdrawn,
            forgive=self._forgiven(),
            policy=UpdatePolicy(
                observe_s=self.random.choice((0.0, 2.0, 600.0)),
                retry_delay_s_max=10.0,
                attempts_max=self.random.choice((1, 3)),
                shadow_s=shadow_s,
                windows=_WINDOWS if windows else (),
            ),
            coupled=[PAIR] if self.coupled else (),
            deltas=deltas,
        )
        self.newest = order
        self.deliver(order)

    def _deltas(self, slots: Mapping[str, SlotOrder]) -> list[MadeDelta]:
        """For the large models of an order, from what runs or from any other."""
        wanted = slots.get(LARGE)
        if "deltas" not in self.enabled or wanted is None or wanted.version not in VERSIONS:
            return []
        running = self.committed.get(LARGE)
        made = []
        for target in BUNDLES[LARGE][wanted.version]:
            others = [one for one in LARGE_ONES if one is not target]
            here = [one for one in others if one.digest == running]
            base = self.random.choice(here or others)
            delta, *wrong = _deltas_between(base.digest, target.digest)
            self.met.add("deltas")
            if "wrong deltas" in self.enabled and self.random.random() < 0.5:
                self.met.add("wrong deltas")
                delta = self.random.choice(wrong)
            self.broker.retained.update(delta.retained)
            made.append(delta)
        return made

    def _forgiven(self) -> tuple[str, ...]:
        if self.random.random() < 0.9 or not self.blamed:
            return ()
        return (self.random.choice(sorted(self.blamed)),)

    def withdraw(self) -> None:
        self.met.add("withdrawals")
        self.order(withdrawn=PAIR if self.random.random() < 0.5 else ("activity",))

    def change_hold(self) -> None:
        self.met.add("holds")
        self.hold(None if self.held else HELD)

    def ask_rollback(self) -> None:
        self.met.add("rollbacks")
        self.feed(steps.RollbackAsked(slot=self.random.choice(SLOTS), request="1"))

    def ask_install(self) -> None:
        self.met.add("installs")
        slot = "activity" if self.coupled else self.random.choice(SLOTS)
        version = self.random.choice(VERSIONS)
        wanted = slot_order(BUNDLES[slot][version])
        self.feed(steps.InstallAsked(slot=slot, wanted=wanted, request="2"))

    def die(self) -> None:
        """The inference process dies, is started anew and serves what the pointers say."""
        self.met.add("deaths")
        suspects = [one.manifest for one in self.inference.serving.values()]
        known = self.random.random() < 0.6 and suspects
        self.inference.die()
        self.feed(
            steps.InferenceDied(
                reason=Reason(code="inference.died", detail="killed by SIGSEGV"),
                suspects=(self.random.choice(suspects),) if known else (),
            )
        )
        for change in self.serving.restore(fresh=True, leave=self.machine.unsettled):
            self.feed(change)

    def fail_metadata(self) -> None:
        self.met.add("metadata")
        self.metadata_failures = self.random.randint(1, 4)

    def flip_bit(self) -> None:
        sizes = {
            path: size
            for path in self.disk.paths()
            if path.startswith("blobs/") and (size := self.disk.size(path))
        }
        if sizes:
            self.met.add("bits")
            path = self.random.choice(sorted(sizes))
            self.disk.flip(path, self.random.randrange(sizes[path]))

    def fill_disk(self) -> None:
        self.met.add("full disk")
        used = self.disk.capacity - self.disk.free_bytes()
        self.disk.capacity = used + self.random.randint(0, 60_000)

    def lose_chunks(self) -> None:
        self.met.add("lost chunks")
        for topic in self.random.sample(sorted(self.broker.retained), 3):
            del self.broker.retained[topic]

    def alter_chunk(self) -> None:
        self.met.add("altered chunks")
        topic = self.random.choice(sorted(self.broker.retained))
        self.broker.retained[topic] = b"x" + self.broker.retained[topic][1:]

    def set_clock(self) -> None:
        self.met.add("wrong clock")
        self.skew_s = self.random.choice((0.0, -86400.0, 3 * 86400.0, -5 * 365 * 86400.0))

    # ------------------------------------------------------------ the end

    def end_faults(self) -> None:
        """Nothing goes wrong from here on."""
        self.calm = True
        self.disk.cut_at = None
        self.disk.capacity = 1 << 40
        self.broker.retained = {k: v for one in ALL for k, v in one.retained.items()}
        self.metadata_failures = 0
        self.skew_s = 0.0
        for bad in (self.failing_trial, self.erring, self.unloadable, self.differing):
            bad.clear()

    def remind(self) -> None:
        """An order that was refused for the clock's sake is looked at again."""
        if self.newest is not None:
            self.deliver(self.newest)

    def check_end(self) -> None:
        """It has come to rest, and runs what is wanted or has said why not."""
        self.check_ended()
        record = self.machine.record
        for slot in record.wanted_slots:
            wanted = record.wanted(slot)
            assert wanted is not None
            running = self.running(slot)
            if running in {one.manifest for one in wanted.candidates}:
                continue
            update = record.updates.get(slot)
            assert update is not None, f"nothing was done about {slot}"
            assert update.state is not UpdateState.COMMITTED, (slot, running)
            assert update.reason is not None, f"{slot} does not say why it is {update.state}"


class _Killed(BaseException):
    """The agent's process is gone; no code under test may catch this."""


def run_world(seed: int) -> Trace:
    """Play one world to its end; raise `AssertionError` with the seed when something breaks."""
    chooser = random.Random(seed)
    enabled = frozenset(one for one in FAULTS if chooser.random() < _SHARES.get(one, 0.3))
    world = RandomWorld(seed=seed, enabled=enabled)
    world.coupled = PAIR if "coupled" in enabled else ()
    world.survival = chooser.choice(("lost", "kept", "random"))
    world.publish(*ALL)
    for name, bad in (
        ("bad trials", world.failing_trial),
        ("errors", world.erring),
        ("no load", world.unloadable),
        ("shadows", world.differing),
    ):
        if name in enabled:
            bad.update(one.digest for one in ALL if chooser.random() < 0.25)
            world.met.add(name)
    world.roomy = "no memory" not in enabled
    try:
        world.live(world.order)
        if "deltas" in enabled:
            world.live(world.many_turns)  # so that there is something to begin from
        world._plan_cut()
        for _ in range(chooser.randint(3, 12)):
            world.live(world.happen)
        world.end_faults()
        world.live(lambda: world.hold(None))
        world.live(world.remind)
        world.live(world.settle)
        world.live(world.check_end)
        assert world.up, "it did not stay up in the end"
    except (AssertionError, OSError, LookupError, TypeError) as error:
        error.add_note(f"run_world({seed}): {sorted(enabled)}, {world.announced[-6:]}")
        raise
    return Trace(
        seed=seed,
        enabled=enabled,
        met=frozenset(world.met),
        transitions=frozenset(world.transitions),
        operations=world.disk.operations,
        cuts=world.cuts,
        boots=world.boots,
        reasons=frozenset(world.reasons),
        deltas=Counter(
            "used" if one.delta else one.refusal.code
            for one in world.transfers
            if one.delta or one.refusal
        ),
    )
