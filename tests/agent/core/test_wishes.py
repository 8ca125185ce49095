"""What a person at the device asks for, and what becomes of it: one case a test."""

from __future__ import annotations

from agent.core.made import MadeBundle, make_order, slot_order
from agent.core.simulation import World
from agent.core.two_slots import (
    G1,
    G2,
    HELD,
    LONG,
    PAIR,
    V1,
    V2,
    V3,
    both,
    state,
    world_with,
)
from edgectl_agent.core import steps
from edgectl_protocol.messages import UpdatePolicy
from edgectl_protocol.windows import parse_windows


def ask_rollback(world: World, slot: str = "activity") -> str:
    world.feed(steps.RollbackAsked(slot=slot, request="1"))
    world.settle()
    answer = world.answers[-1]
    return answer.code if answer else ""


def ask_install(world: World, *bundles: MadeBundle) -> str:
    wanted = slot_order(bundles)
    world.feed(steps.InstallAsked(slot=bundles[0].config.model, wanted=wanted, request="2"))
    answer = world.answers[-1]
    return answer.code if answer else ""


def test_a_rollback_by_hand_is_remembered() -> None:
    world = world_with(make_order(1, [V1]), make_order(2, [V2]))
    assert ask_rollback(world) == ""
    assert world.running() == V1.digest
    assert state(world) == ("rolled-back", "update.unwanted")
    world.boot()
    world.deliver(make_order(3, [V2]))  # the server has not heard of it
    world.settle()
    assert world.running() == V1.digest
    assert ask_rollback(world) == "rollback.nothing"


def test_a_rollback_by_hand_goes_before_what_is_fetched() -> None:
    world = world_with(make_order(1, [V1]), make_order(2, [V2]))
    world.deliver(make_order(3, [V3], more={"gearbox": slot_order([G1])}))
    assert state(world)[0] == "refreshing"
    world.feed(steps.RollbackAsked(slot="activity", request="1"))
    assert state(world)[0] == "rolling-back"
    world.settle()
    assert "rolled-back" in world.states()
    assert V2.digest in world.machine.record.rejected
    assert (world.running(), world.running("gearbox")) == (V3.digest, G1.digest)


def test_a_rollback_by_hand_of_what_is_observed_and_not_of_another_slot_meanwhile() -> None:
    world = world_with(make_order(1, [V1], more={"gearbox": slot_order([G1])}))
    slots = {"gearbox": slot_order([G2])}
    world.deliver(make_order(2, [V1], more=slots, policy=LONG))
    world.settle(idle=False)
    world.feed(steps.RollbackAsked(slot="activity", request="1"))
    assert world.answers[-1] is not None
    assert world.answers[-1].code == "rollback.busy"
    assert ask_rollback(world, "gearbox") == ""
    assert world.running("gearbox") == G1.digest
    assert world.machine.record.rejected == (G2.digest,)


def test_coupled_slots_are_rolled_back_by_hand_together() -> None:
    world = world_with(both(1, V1, G1), both(2, V2, G2), coupled=PAIR)
    assert ask_rollback(world) == ""
    assert (world.running(), world.running("gearbox")) == (V1.digest, G1.digest)
    assert world.machine.record.rejected == (V2.digest,)


def test_an_installation_by_hand_needs_no_order_and_waits_for_no_window() -> None:
    world = world_with()
    assert ask_install(world, V1) == ""
    world.boot()  # it is remembered
    world.settle()
    assert world.running() == V1.digest
    update = world.machine.record.updates["activity"]
    assert (update.order, update.wish) == (0, 1)
    policy = UpdatePolicy(observe_s=1, windows=parse_windows("02:00-04:00 utc"), shadow_s=60)
    world.deliver(make_order(1, [V1], policy=policy))
    world.settle()
    assert ask_install(world, V2) == ""
    world.settle()
    assert world.running() == V2.digest
    assert "shadowing" not in world.states()


def test_an_installation_by_hand_counts_until_a_newer_order_comes() -> None:
    world = world_with(make_order(1, [V1]))
    ask_install(world, V2)
    world.settle()
    assert world.machine.record.order is not None
    world.deliver(world.machine.record.order)  # the same once more
    world.settle()
    assert world.running() == V2.digest
    world.deliver(make_order(2, [V3]))
    world.settle()
    assert world.running() == V3.digest
    assert world.machine.record.local == {}


def test_what_was_found_bad_is_not_installed_by_hand() -> None:
    world = world_with(make_order(1, [V1]))
    world.failing_trial = {V2.digest}
    assert ask_install(world, V2) == ""
    world.settle()
    assert state(world)[0] == "rejected"
    assert ask_install(world, V2) == "update.remembered"
    assert world.running() == V1.digest


def test_an_installation_that_failed_can_be_asked_for_again() -> None:
    world = world_with(make_order(1, [V1], policy=UpdatePolicy(attempts_max=1, observe_s=1)))
    world.broker.up = False
    world.metadata_failures = 1
    ask_install(world, V2)
    world.settle()
    assert state(world)[0] == "failed"
    world.broker.up = True
    assert ask_install(world, V2) == ""
    world.settle()
    assert world.running() == V2.digest


def test_a_hold_stops_an_installation_by_hand() -> None:
    world = world_with(make_order(1, [V1]))
    world.hold(HELD)
    ask_install(world, V2)
    world.settle()
    assert state(world) == ("waiting", "update.held")
