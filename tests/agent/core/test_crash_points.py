"""The power is cut before every single operation of the disk, and then at random ones."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest

from agent.core.made import (
    MadeBundle,
    make_delta,
    make_order,
    retrained_bundles,
    simple_bundle,
    slot_order,
)
from agent.core.simulated_disk import SimulatedDisk, Survival
from agent.core.simulation import World, damage_model
from edgectl_protocol.messages import Order, UpdatePolicy

V1 = simple_bundle("1", length=60_000)
V2 = simple_bundle("2", length=60_000)
V2_FP32 = simple_bundle("2", variant="fp32-exact", length=60_000)
V3 = simple_bundle("3", length=400_000)
G1, G2 = (simple_bundle(one, model="gearbox", length=2_000) for one in "12")
D1, D2 = retrained_bundles()
DELTA = make_delta(D1, D2)
"""Of several chunks."""
USELESS = make_delta(D1, D2, make_delta(D2, D1).content)
"""Named in the place of the other, and for another base."""
ALL = (V1, V2, V2_FP32, V3, G1, G2, D1, D2)
PAIR = ("activity", "gearbox")
WORLDS = int(os.environ.get("EDGECTL_SIMULATED_WORLDS", "100"))
SURVIVALS: tuple[Survival, ...] = ("lost", "kept", "random")


@dataclass(frozen=True)
class Scenario:
    """Orders, who is bad how, and what runs in the end."""

    name: str
    orders: Sequence[Order]
    ends: MadeBundle | None
    failing_trial: Sequence[MadeBundle] = ()
    erring: Sequence[MadeBundle] = ()
    unloadable: Sequence[MadeBundle] = ()
    gearbox: MadeBundle | None = None
    """What runs there in the end, in scenarios of two slots that are coupled."""
    differing: Sequence[MadeBundle] = ()

    def world(self, seed: int = 0, disk: SimulatedDisk | None = None) -> World:
        world = World(seed=seed, disk=disk or SimulatedDisk())
        world.publish(*ALL)
        world.broker.retained.update(DELTA.retained | USELESS.retained)
        world.failing_trial = {one.digest for one in self.failing_trial}
        world.erring = {one.digest for one in self.erring}
        world.unloadable = {one.digest for one in self.unloadable}
        world.differing = {one.digest for one in self.differing}
        world.coupled = PAIR if any(order.coupled for order in self.orders) else ()
        return world


def both(counter: int, activity: MadeBundle, gearbox: MadeBundle) -> Order:
    more = {"gearbox": slot_order([gearbox])}
    return make_order(counter, [activity], more=more, coupled=[PAIR])


def shadowed(counter: int, bundle: MadeBundle) -> Order:
    return make_order(counter, [bundle], policy=UpdatePolicy(observe_s=1, shadow_s=5))


SCENARIOS = (
    Scenario("first install", [make_order(1, [V1])], V1),
    Scenario("second update", [make_order(1, [V1]), make_order(2, [V2])], V2),
    Scenario(
        "several checkpoints, garbage",
        [make_order(1, [V1]), make_order(2, [V2]), make_order(3, [V3])],
        V3,
    ),
    Scenario(
        "rejected by the trial", [make_order(1, [V1]), make_order(2, [V2])], V1, failing_trial=[V2]
    ),
    Scenario(
        "next candidate",
        [make_order(1, [V1]), make_order(2, [V2, V2_FP32])],
        V2_FP32,
        failing_trial=[V2],
    ),
    Scenario(
        "rolled back after observation",
        [make_order(1, [V1]), make_order(2, [V2])],
        V1,
        erring=[V2],
    ),
    Scenario("does not load", [make_order(1, [V1]), make_order(2, [V2])], V1, unloadable=[V2]),
    Scenario("first install rolled back", [make_order(1, [V1])], None, erring=[V1]),
    Scenario(
        "back to the version before",
        [make_order(1, [V1]), make_order(2, [V2]), make_order(3, [V1])],
        V1,
    ),
    Scenario("withdrawn", [make_order(1, [V1]), make_order(2, [], withdrawn=["activity"])], None),
    Scenario(
        "withdrawn, to the version before",
        [
            make_order(1, [V1]),
            make_order(2, [V2]),
            make_order(3, [], withdrawn=["activity"]),
            make_order(4, [], withdrawn=["activity"]),
        ],
        V1,
    ),
    Scenario("two coupled slots", [both(1, V1, G1), both(2, V2, G2)], V2, gearbox=G2),
    Scenario(
        "one of two coupled is rolled back",
        [both(1, V1, G1), both(2, V2, G2)],
        V1,
        gearbox=G1,
        erring=[G2],
    ),
    Scenario(
        "one of two coupled is rejected",
        [both(1, V1, G1), both(2, V2, G2)],
        V1,
        gearbox=G1,
        failing_trial=[V2],
    ),
    Scenario(
        "two coupled are withdrawn",
        [both(1, V1, G1), both(2, V2, G2), make_order(3, [], withdrawn=PAIR, coupled=[PAIR])],
        V1,
        gearbox=G1,
    ),
    Scenario("by a delta", [make_order(1, [D1]), make_order(2, [D2], deltas=[DELTA])], D2),
    Scenario(
        "a delta that is refused",
        [make_order(1, [D1]), make_order(2, [D2], deltas=[USELESS])],
        D2,
    ),
    Scenario("a shadow that agrees", [make_order(1, [V1]), shadowed(2, V2)], V2),
    Scenario("a shadow that differs", [make_order(1, [V1]), shadowed(2, V2)], V1, differing=[V2]),
)


def check(scenario: Scenario, world: World) -> None:
    """Everything has settled: the end is the expected one."""
    world.check_ended()
    expected = scenario.ends.digest if scenario.ends else None
    if "update.resumes" not in world.reasons:  # given up after too many cuts: also an end
        assert world.running() == expected, world.states()
        gearbox = scenario.gearbox.digest if scenario.gearbox else None
        assert world.running("gearbox") == gearbox, world.states("gearbox")
    for bad in (
        *scenario.failing_trial,
        *scenario.erring,
        *scenario.unloadable,
        *scenario.differing,
    ):
        assert bad.digest in world.machine.record.rejected


def cut_everywhere(
    scenario: Scenario, survival: Survival, make_disk: Callable[[], SimulatedDisk] = SimulatedDisk
) -> int:
    """Play the scenario once for each of its operations, cutting there; return how many."""
    whole = scenario.world(disk=make_disk())
    whole.play(scenario.orders)
    check(scenario, whole)
    for number in range(1, whole.disk.operations + 1):
        world = scenario.world(seed=number, disk=make_disk())
        world.disk.cut_at = number
        try:
            world.play(scenario.orders, survival=survival)
            assert world.boots == 2
            check(scenario, world)
        except AssertionError as error:
            error.add_note(f"cut before operation {number}: {whole.disk.trail[number - 1]}")
            raise
    return whole.disk.operations


@pytest.mark.parametrize("survival", SURVIVALS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_power_is_cut_at_every_operation(scenario: Scenario, survival: Survival) -> None:
    assert cut_everywhere(scenario, survival) > 30


def test_power_is_cut_again_while_the_device_comes_back() -> None:
    """Two cuts: at every operation of the second life, after a cut in the middle of an update."""
    scenario = SCENARIOS[1]
    whole = scenario.world()
    whole.play(scenario.orders)
    for first in range(1, whole.disk.operations, 11):
        for second in range(1, 12):
            world = scenario.world(seed=first * 100 + second)
            world.disk.cut_at = first
            world.after_cut = lambda world=world, second=second: setattr(  # type: ignore[method-assign]
                world.disk, "cut_at", world.disk.operations + second if world.boots == 1 else None
            )
            world.play(scenario.orders, survival="random")
            assert world.boots <= 3
            check(scenario, world)


class CutWorld(World):
    """Cuts again and again, at random operations."""

    cuts_left = 0

    def after_cut(self) -> None:
        if self.cuts_left > 0:
            self.cuts_left -= 1
            self.disk.cut_at = self.disk.operations + self.random.randint(1, 40)


@pytest.mark.parametrize("block", range(10))
def test_random_worlds(block: int) -> None:
    for seed in range(block * WORLDS // 10, (block + 1) * WORLDS // 10):
        chooser = random.Random(seed)
        scenario = chooser.choice(SCENARIOS)
        world = CutWorld(seed=seed)
        made = scenario.world()
        world.publish(*ALL)
        world.broker.retained.update(DELTA.retained | USELESS.retained)
        world.failing_trial, world.erring = made.failing_trial, made.erring
        world.unloadable, world.differing = made.unloadable, made.differing
        world.coupled = made.coupled
        world.metadata_failures = chooser.choice((0, 0, 1, 3))
        world.cuts_left = chooser.randint(1, 12)
        world.disk.cut_at = chooser.randint(1, 60)
        try:
            world.play(scenario.orders, survival=chooser.choice(SURVIVALS))
            world.check_ended()
            if "update.resumes" not in world.reasons:
                check(scenario, world)
        except (AssertionError, OSError) as error:
            error.add_note(f"seed {seed}, {scenario.name}, states {world.states()}")
            raise


# ---------------------------------------------------------------- guarding the guards


class NoFileSync(SimulatedDisk):
    """Somebody removed the fsync of files."""

    def sync(self, path: str) -> None:
        self._count("sync", path)


class NoDirectorySync(SimulatedDisk):
    """Somebody removed the fsync of folders."""

    def sync_directory(self, path: str) -> None:
        self._count("sync_directory", path)


class InPlace(SimulatedDisk):
    """Somebody writes in place instead of renaming."""

    def write_atomic(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self.write(path, content, mode)
        self.sync(path)
        self.sync_directory(path.rpartition("/")[0] or ".")


@pytest.mark.parametrize("make_disk", [NoFileSync, NoDirectorySync, InPlace])
def test_the_simulation_finds_a_removed_protection(
    make_disk: Callable[[], SimulatedDisk], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pointers have a check sum and a copy and survive it; a journal, always rewritten, does not.
    monkeypatch.setattr("edgectl_agent.journal.JOURNAL_BYTES_MAX", 1)

    def play_all() -> None:
        for survival in ("lost", "random"):
            for scenario in SCENARIOS[:3]:
                cut_everywhere(scenario, survival, make_disk)

    with pytest.raises((AssertionError, OSError)):
        play_all()


def test_the_simulation_finds_pointers_of_a_group_that_change_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from edgectl_agent import store
    from edgectl_agent.core.record import SlotPointer

    right = store.Store.point

    def one_by_one(self: store.Store, changed: Mapping[str, SlotPointer]) -> None:
        for slot, pointer in changed.items():
            right(self, {slot: pointer})

    monkeypatch.setattr(store.Store, "point", one_by_one)
    coupled = next(one for one in SCENARIOS if one.name == "two coupled slots")
    with pytest.raises(AssertionError, match="two halves"):
        cut_everywhere(coupled, "lost")


def test_the_simulation_finds_a_machine_that_acts_before_it_saves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from edgectl_agent.core import steps
    from edgectl_agent.performer import Engine

    right = Engine._do

    def acting_first(self: Engine, actions: list[steps.Action], moment: object) -> None:
        saving = [one for one in actions if isinstance(one, steps.Persist)]
        right(self, [one for one in actions if one not in saving] + saving, moment)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "_do", acting_first)

    def play_all() -> None:
        for scenario in SCENARIOS:
            cut_everywhere(scenario, "lost")

    with pytest.raises(AssertionError):
        play_all()


def test_the_simulation_finds_a_store_that_does_not_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgectl_agent import store

    monkeypatch.setattr(store.Store, "_check", lambda *_: None)
    world = SCENARIOS[0].world()
    world.play(SCENARIOS[0].orders)
    damage_model(world)
    with pytest.raises(AssertionError, match="not what was signed"):
        world.boot()
