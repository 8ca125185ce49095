"""One seed, one world: a device, its orders and a swarm of faults, all drawn from the seed.

Each world has a random subset of the faults, so that some are met alone and some together; power
cuts are in nearly all. While faults last, `World` checks what must always hold. Then they end, the
server says once more what it wants, and the device must get there: running the best candidate that
is good, byte for byte, with nothing left to do.

A damaged file is legitimate loss: a device whose journal lost its last line may forget an order and
a bad digest, and one whose pointer was damaged what it runs. It still must not run anything that
was not signed, and must come to the end.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from agent.core.imitations import Broker
from agent.core.made import MadeBundle, make_order, simple_bundle, slot_order
from agent.core.simulated_disk import PowerCut, SimulatedDisk, Survival
from agent.core.simulation import World
from edgectl_agent.core import steps
from edgectl_protocol.chunks import CHUNK_BYTES
from edgectl_protocol.messages import Order, Reason, SlotOrder, UpdatePolicy
from edgectl_protocol.update import ENDED, UpdateState

SURVIVALS: tuple[Survival, ...] = ("lost", "kept", "random")
ACTIVITY = (
    simple_bundle("1", length=2_000),
    simple_bundle("2", length=CHUNK_BYTES + 3_000),
    simple_bundle("2", variant="fp32-exact", length=3_000),
    simple_bundle("3", length=3 * CHUNK_BYTES - 1),
    simple_bundle("4", length=CHUNK_BYTES),
)
GEARBOX = (
    simple_bundle("1", model="gearbox", length=1_000),
    simple_bundle("2", model="gearbox", length=CHUNK_BYTES + 1),
)
SLOTS = {"activity": ACTIVITY, "gearbox": GEARBOX}
FAULTS = (
    "cut",
    "killed",
    "disk error",
    "disk full",
    "flipped bit",
    "metadata",
    "broker away",
    "chunks altered",
    "chunks missing",
    "messages doubled",
    "inference dies",
    "orders hasty",
)
CUT_GAP_MAX = 40
TROUBLES_MAX = 6
STRIKES_MAX = 8
TURNS_MAX = 6000


@dataclass
class Outcome:
    """What one world has seen, for the tables."""

    seed: int
    operations: int = 0
    boots: int = 0
    cuts: set[tuple[str, str]] = field(default_factory=set)
    """State of the update and fault of the world, for each power cut."""
    cut_at: Counter[str] = field(default_factory=Counter)
    """Kind of operation and file, of those that the power was cut at."""
    seen: set[str] = field(default_factory=set)
    """Kind of operation and file, of all."""
    struck: set[str] = field(default_factory=set)
    """Faults that really happened."""
    ended: set[str] = field(default_factory=set)
    """States in which updates ended."""


class RandomBroker(Broker):
    """Loses, alters, doubles and withholds, as often as its world lets it; then not any more."""

    def __init__(self, world: RandomWorld) -> None:
        self._world = world
        self._absences: set[float] = set()
        super().__init__()
        self.disturb = self._disturb

    @property  # type: ignore[override]
    def up(self) -> bool:
        """Away for 4 s of every 12 s, a bounded number of times."""
        world = self._world
        away = world.strikes("broker away") and world.elapsed_s % 12 > 8
        if away:
            self._absences.add(world.elapsed_s // 12)
            away = len(self._absences) <= STRIKES_MAX
            world.outcome.struck.add("broker away")
        return away is False

    @up.setter
    def up(self, value: bool) -> None:
        pass

    def _disturb(self, _topic: str, payload: bytes) -> Iterable[bytes]:
        world = self._world
        if world.strike("chunks altered", 0.2):
            at = world.random.randrange(len(payload)) if payload else 0
            return [payload[:at] + b"?" + payload[at + 1 :], payload]
        if world.strike("chunks missing", 0.2):
            return []
        if world.strike("messages doubled", 0.3):
            return [b"", payload, payload]
        return [payload]


class RandomWorld(World):
    """Faults strike at random until `calm`."""

    def __init__(self, seed: int) -> None:
        self.outcome = Outcome(seed)
        self.calm = False
        chooser = random.Random(seed)
        self.faults = {one for one in FAULTS if chooser.random() < (0.9 if one == "cut" else 0.35)}
        self._budget = dict.fromkeys(FAULTS, STRIKES_MAX)
        self._budget["cut"] = chooser.randint(1, 12)
        self._budget["disk error"] = self._budget["disk full"] = chooser.randint(1, TROUBLES_MAX)
        self._budget["flipped bit"] = chooser.randint(1, 2)
        self._survival = chooser.choice(SURVIVALS)
        super().__init__(seed=seed, disk=SimulatedDisk())
        self.broker = RandomBroker(self)
        if self.faults & {"disk error", "disk full"}:
            self.disk.trouble = self._trouble
        self.publish(*ACTIVITY, *GEARBOX)
        for one in (*ACTIVITY, *GEARBOX):
            kind = chooser.random()
            bad = (self.failing_trial, self.erring, self.unloadable)
            if kind < 0.3:
                bad[int(kind * 10)].add(one.digest)
        self.orders = _orders(chooser)
        self._state = "boot"

    # ------------------------------------------------------------ faults

    def strikes(self, fault: str) -> bool:
        """Say whether the fault is among those of this world, and not over."""
        return not self.calm and fault in self.faults

    def strike(self, fault: str, chance: float) -> bool:
        """Say whether the fault happens now; it happens a bounded number of times."""
        if not self.strikes(fault) or not self._budget[fault] or self.random.random() >= chance:
            return False
        self._budget[fault] -= 1
        self.outcome.struck.add(fault)
        return True

    def _trouble(self, _what: str, _path: str) -> None:
        if self.strike("disk error", 0.03):
            raise OSError(5, "Input/output error")
        if self.strike("disk full", 0.03):
            raise OSError(28, "No space left on device")

    def _plan_cut(self) -> None:
        if self.strike("cut", 1.0):
            self.disk.cut_at = self.disk.operations + self.random.randint(1, CUT_GAP_MAX)
            self.disk.within = self.random.random() < 0.5

    def _flip(self) -> None:
        """Damage a file while the device is off."""
        paths = [one for one in self.disk.paths() if self.disk.size(one)]
        if not paths or not self.strike("flipped bit", 0.3):
            return
        path = self.random.choice(paths)
        self.disk.flip(path, self.random.randrange(self.disk.size(path) or 1))
        if path.startswith("journal"):
            self.accepted = 0
            self.blamed.clear()

    def find(self, *arguments: object) -> object:  # type: ignore[override]
        if self.strike("metadata", 0.5):
            self.metadata_failures = 1
        return super().find(*arguments)  # type: ignore[arg-type]

    def _wait_for_disk(self, _error: OSError) -> bool:
        return True  # trouble comes a bounded number of times

    def _lose_inference(self) -> None:
        """The process dies, innocent of it whoever is observed, and is started again."""
        self.inference.die()
        reason = Reason(code="inference.died", detail="killed by SIGKILL")
        self.feed(steps.InferenceDied(reason=reason, suspects=("sha256:" + "0" * 64,)))
        for change in self.serving.restore(fresh=True, leave=self.machine.unsettled):
            self.feed(change)

    # ------------------------------------------------------------ lives

    def live(self) -> Outcome:
        """Play it all: the orders under faults, then one without."""
        self._plan_cut()
        done, up = 0, False
        for _ in range(TURNS_MAX):
            last = done == len(self.orders)
            if last and not self.calm:
                self.calm = True
                self.disk.trouble = None
                self.disk.cut_at = None
            try:
                if not up:
                    self.boot()
                    up = True
                if last:
                    self._end()
                    break
                self._obey(self.orders[done])
                done += 1
            except PowerCut as cut:
                up = False
                self._note(cut)
                if not self.strike("killed", 0.5):  # the process alone: what was written is there
                    self.disk.reboot(self._survival, self.random)
                    self._flip()
                self._plan_cut()
            except OSError:
                # Only while it comes up: it ends, and the service manager starts it again.
                assert not up, "an error of the disk has ended the agent"
        else:
            raise AssertionError(f"seed {self.seed}: it does not come to an end")
        self._summarize()
        return self.outcome

    def boot(self) -> None:
        self._state = "boot"
        super().boot()
        self._see_state()

    def _obey(self, order: Order) -> None:
        self.deliver(self._dated(order))
        if self.strike("messages doubled", 0.5):
            self.deliver(self._dated(order))
        if self.strike("orders hasty", 0.6):
            for _ in range(self.random.randint(0, 12)):
                if self.jobs:
                    self._run_job()
            return
        self.settle()

    def _run_job(self) -> None:
        if self.strike("inference dies", 0.1):
            self._lose_inference()
        super()._run_job()

    def feed(self, event: steps.Event) -> None:
        super().feed(event)
        self._see_state()

    def _see_state(self) -> None:
        for update in self.machine.record.updates.values():
            if update.state not in ENDED:
                self._state = str(update.state)
                return
        self._state = "idle"

    def _dated(self, order: Order) -> Order:
        """The server keeps orders from expiring; the number stays."""
        at = self.moment().wall
        known = self.machine.record.order
        if known is not None and known.counter == order.counter:
            return known
        return structs.replace(
            order, issued_at=at, expires_at=at + (order.expires_at - order.issued_at)
        )

    def _end(self) -> None:
        """Faults are over; what the server wants now is what must run."""
        self.settle()
        last = self.orders[-1]
        bad = self.failing_trial | self.erring | self.unloadable
        forgiven = tuple(one for one in self.machine.record.rejected if one not in bad)
        order = structs.replace(
            last, counter=last.counter + 1, nonce=f"{last.counter + 1:032x}", forgive=forgiven
        )
        self.deliver(self._dated(order))
        self.settle()
        self.check_ended()
        self.boot()  # what could not be collected before is now
        self.settle()
        for slot, wanted in last.slots.items():
            good = next(
                (one.manifest for one in wanted.candidates if one.manifest not in bad), None
            )
            running = self.running(slot)
            assert running not in bad, f"{slot} runs what is bad"
            update = self.machine.record.updates[slot]
            if update.state is UpdateState.ROLLED_BACK and update.manifest in bad:
                continue  # that was the answer; the next candidate is not tried by itself
            assert good is None or running == good, f"{slot}: {self.states(slot)[-12:]}"
        self._check_garbage()

    def _check_garbage(self) -> None:
        """Nothing is left but what a slot or an update needs."""
        needed = {
            digest.removeprefix("sha256:")
            for pointer in self.machine.pointers.values()
            for one in (pointer.running, pointer.previous)
            if one is not None
            for digest in self.bundles[one.manifest].blobs
        }
        for path in self.disk.paths():
            folder, _, name = path.rpartition("/")
            assert folder != "partial", f"{path} is left over"
            assert folder != "blobs/sha256" or name in needed, f"{path} is left over"

    # ------------------------------------------------------------ what was seen

    def _note(self, cut: PowerCut) -> None:
        self.outcome.struck.add("cut")
        self.outcome.cut_at[f"{cut.what} {kind_of(cut.path)}"] += 1
        self.outcome.cuts.update((self._state, fault) for fault in self.outcome.struck)

    def _summarize(self) -> None:
        outcome = self.outcome
        outcome.operations, outcome.boots = self.disk.operations, self.boots
        for line in set(self.disk.trail):
            what, _, path = line.partition(" ")
            outcome.seen.add(f"{what} {kind_of(path)}")
        outcome.seen.update(outcome.cut_at)
        outcome.ended = {str(state) for _, _, state, _ in self.announced if state in ENDED}


def _orders(chooser: random.Random) -> list[Order]:
    """One to five orders of one or two slots; some withdraw, some forgive."""
    orders = []
    for counter in range(1, chooser.randint(2, 6)):
        slots: dict[str, SlotOrder] = {}
        withdrawn = []
        for slot, bundles in SLOTS.items():
            kind = chooser.random()
            if kind < (0.8 if slot == "activity" else 0.35):
                count = chooser.choice((1, 1, 2))
                slots[slot] = _wanted(chooser, bundles, count)
            elif kind > 0.92:
                withdrawn.append(slot)
        forgive = [one.digest for one in ACTIVITY if chooser.random() < 0.05]
        policy = UpdatePolicy(observe_s=2.0, retry_delay_s_max=10.0, attempts_max=12)
        orders.append(
            make_order(counter, [], more=slots, withdrawn=withdrawn, forgive=forgive, policy=policy)
        )
    return orders


def _wanted(chooser: random.Random, bundles: Sequence[MadeBundle], count: int) -> SlotOrder:
    """Candidates are of one version; the second is the other variant, where there is one."""
    first = chooser.choice(bundles)
    same = [one for one in bundles if one.config.version == first.config.version]
    chooser.shuffle(same)
    return slot_order(same[:count])


def kind_of(path: str) -> str:
    """Return the path with what differs from device to device left out."""
    folder, _, name = path.rpartition("/")
    if not folder or "." in folder:
        return path
    suffix = next((one for one in (".bitmap.tmp", ".bitmap", ".tmp") if name.endswith(one)), "")
    return f"{folder}/*{suffix}"


def play_random_world(seed: int) -> Outcome:
    """Play one world; the seed is in every failure."""
    world = RandomWorld(seed)
    try:
        return world.live()
    except BaseException as error:
        error.add_note(
            f"replay: EDGECTL_SIMULATED_SEED={seed} python -m pytest -n 0 "
            "tests/agent/core/test_random_worlds.py"
        )
        error.add_note(f"faults {sorted(world.faults)}, orders {len(world.orders)}")
        raise
