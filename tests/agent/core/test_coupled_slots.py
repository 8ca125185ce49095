"""Slots that are switched in one step, or not at all: one case a test."""

from __future__ import annotations

import pytest

from agent.core.made import make_order, slot_order
from agent.core.two_slots import (
    DIED,
    G1,
    G2,
    G2_EXACT,
    LONG,
    PAIR,
    V1,
    V2,
    both,
    state,
    world_with,
)
from edgectl_agent.core import steps
from edgectl_protocol.update import UpdateState


def test_coupled_slots_are_switched_in_one_step_and_one_record() -> None:
    world = world_with(both(1, V1, G1), coupled=PAIR)
    world.deliver(both(2, V2, G2))
    world.settle()
    assert (world.running(), world.running("gearbox")) == (V2.digest, G2.digest)
    switched = [slot for slot, _, after, _ in world.announced if after is UpdateState.ACTIVATING]
    assert switched == list(PAIR)
    assert world.states("activity")[-4:-2] == ["waiting", "activating"]


def test_the_guilty_one_is_blamed_and_both_go_back() -> None:
    world = world_with(both(1, V1, G1), coupled=PAIR)
    world.erring = {G2.digest}
    world.deliver(both(2, V2, G2))
    world.settle()
    assert (world.running(), world.running("gearbox")) == (V1.digest, G1.digest)
    assert world.machine.record.rejected == (G2.digest,)
    assert state(world) == ("rolled-back", "update.partner")
    assert state(world, "gearbox") == ("rolled-back", "observe.error_rate")


def test_a_rejected_partner_ends_the_others_without_blame() -> None:
    world = world_with(both(1, V1, G1), coupled=PAIR)
    world.failing_trial = {G2.digest}
    world.deliver(both(2, V2, G2))
    world.settle()
    assert state(world) == ("rejected", "update.partner_rejected")
    assert world.machine.record.rejected == (G2.digest,)
    fetched = len(world.trials)
    world.deliver(both(3, V2, G2))  # the same once more is known to be in vain
    world.settle()
    assert len(world.trials) == fetched
    world.failing_trial = set()
    world.deliver(both(4, V2, G2, forgive=[G2.digest]))
    world.settle()
    assert (world.running(), world.running("gearbox")) == (V2.digest, G2.digest)


def test_the_next_candidate_of_a_partner_is_waited_for() -> None:
    world = world_with(both(1, V1, G1), coupled=PAIR)
    world.failing_trial = {G2.digest}
    world.deliver(both(2, V2, G2, G2_EXACT))
    world.settle()
    assert (world.running(), world.running("gearbox")) == (V2.digest, G2_EXACT.digest)


def test_a_partner_that_fails_for_good_fails_the_others() -> None:
    world = world_with(both(1, V1, G1), coupled=PAIR)
    for topic in G2.retained:
        del world.broker.retained[topic]
    world.deliver(both(2, V2, G2))
    world.settle()
    assert state(world) == ("failed", "update.partner_failed")
    assert state(world, "gearbox") == ("failed", "transfer.stalled")
    world.publish(G2)
    world.deliver(both(3, V2, G2))
    world.settle()
    assert (world.running(), world.running("gearbox")) == (V2.digest, G2.digest)


def test_a_partner_that_runs_already_what_is_wanted_keeps_nobody_back() -> None:
    world = world_with(make_order(1, [V1], more={"gearbox": slot_order([G2])}))
    world.deliver(both(2, V2, G2))
    world.settle()
    assert world.running() == V2.digest
    assert world.states("gearbox") == []


@pytest.mark.parametrize(
    "groups",
    [[PAIR, ("gearbox", "other")], [PAIR, PAIR], [("activity", "activity")]],
)
def test_an_order_that_couples_a_slot_twice_is_refused(groups: list[tuple[str, ...]]) -> None:
    world = world_with()
    world.deliver(make_order(1, [V1], coupled=groups))
    world.settle()
    assert world.refusal == ("order.coupled", 1)
    assert world.machine.record.counter == 0


def test_nobody_is_blamed_when_one_of_several_has_killed_the_process() -> None:
    world = world_with(both(1, V1, G1), coupled=PAIR)
    world.deliver(both(2, V2, G2, policy=LONG))
    world.settle(idle=False)
    assert set(world.machine.observed) == set(PAIR)
    world.inference.die()
    world.feed(steps.InferenceDied(reason=DIED))
    world.settle()
    assert (world.running(), world.running("gearbox")) == (V1.digest, G1.digest)
    assert world.machine.record.rejected == ()


def test_damage_takes_what_was_switched_together_back_together() -> None:
    world = world_with(both(1, V1, G1), both(2, V2, G2), coupled=PAIR)
    blob = next(iter(set(G2.blobs) - set(G1.blobs))).removeprefix("sha256:")
    world.disk.flip(f"blobs/sha256/{blob}")
    world.broker.up = False
    world.boot()
    assert {one.version for one in world.inference.serving.values()} == {"1"}
    world.broker.up = True
    world.settle()
    assert (world.running(), world.running("gearbox")) == (V2.digest, G2.digest)


def test_damage_that_took_one_back_alone_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgectl_agent.serving._partners", lambda slot, _: (slot,))
    world = world_with(both(1, V1, G1), both(2, V2, G2), coupled=PAIR)
    blob = next(iter(set(G2.blobs) - set(G1.blobs))).removeprefix("sha256:")
    world.disk.flip(f"blobs/sha256/{blob}")
    with pytest.raises(AssertionError, match="two halves"):
        world.boot()
