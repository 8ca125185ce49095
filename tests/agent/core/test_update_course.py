"""Shadows, and where an update goes when something takes too long or fails: one case a test."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec import structs

from agent.core.made import START, make_order
from agent.core.two_slots import (
    DIED,
    LONG,
    V1,
    V2,
    state,
    world_with,
)
from edgectl_agent.core import steps
from edgectl_agent.core.limits import Limits
from edgectl_agent.core.machine import Machine
from edgectl_agent.core.orders import remember
from edgectl_agent.core.record import REJECTED_MAX, Record
from edgectl_agent.core.timing import Moment
from edgectl_protocol.messages import CANDIDATES_MAX, SLOTS_MAX, Reason, UpdatePolicy
from edgectl_protocol.names import digest_of
from edgectl_protocol.update import RESUMES_MAX, UpdateState

# ---------------------------------------------------------------- shadows

SHADOW = UpdatePolicy(observe_s=1, shadow_s=3600, retry_delay_s_max=10)


def test_a_shadow_that_agrees_is_activated_and_reported() -> None:
    world = world_with(make_order(1, [V1]))
    world.deliver(make_order(2, [V2], policy=SHADOW))
    world.settle(idle=False)
    assert world.machine.shadowed == {"activity": V2.digest}
    assert world.inference.companions["activity"].manifest == V2.digest
    world.settle()
    assert world.running() == V2.digest
    update = world.machine.record.updates["activity"]
    assert update.shadow is not None
    assert (update.shadow.mirrored, update.shadow.agreed) == (50, 50)
    assert update.observation is not None
    assert world.inference.companions == {}, "memory is returned"


@pytest.mark.parametrize("fault", ["differing", "erring", "unloadable"])
def test_a_shadow_that_is_worse_is_rejected_with_numbers(fault: str) -> None:
    world = world_with(make_order(1, [V1]))
    setattr(world, fault, {V2.digest})
    world.deliver(make_order(2, [V2], policy=SHADOW))
    world.settle()
    assert state(world)[0] == "rejected"
    assert world.running() == V1.digest
    assert world.machine.record.rejected == (V2.digest,)
    assert "activating" not in world.states()
    assert world.inference.companions == {}


def test_without_memory_or_anything_to_compare_with_there_is_no_shadow() -> None:
    world = world_with()
    world.deliver(make_order(1, [V1], policy=SHADOW))
    world.settle()
    assert "shadowing" not in world.states()
    world.roomy = False
    world.differing = {V2.digest}
    world.deliver(make_order(2, [V2], policy=SHADOW))
    world.settle(idle=False)
    assert (world.machine.shadowed, state(world)[0]) == ({}, "observing"), "nothing is waited for"
    world.settle()
    assert world.running() == V2.digest, "not enough data is no judgement"


@pytest.mark.parametrize(
    ("suspects", "ends"),
    [((V2.digest,), "rejected"), ((), "rejected"), ((V1.digest,), "committed")],
)
def test_who_was_computing_when_a_shadowed_process_died(
    suspects: tuple[str, ...], ends: str
) -> None:
    world = world_with(make_order(1, [V1]))
    world.deliver(make_order(2, [V2], policy=SHADOW))
    world.settle(idle=False)
    world.inference.die()
    world.feed(steps.InferenceDied(reason=DIED, suspects=suspects))
    for change in world.serving.restore(fresh=True, leave=world.machine.unsettled):
        world.feed(change)
    world.settle()
    assert state(world)[0] == ends


def test_a_shadow_is_freed_when_it_is_taken_back() -> None:
    world = world_with(make_order(1, [V1]))
    world.deliver(make_order(2, [V2], policy=SHADOW))
    world.settle(idle=False)
    world.deliver(make_order(3, [V1]))
    world.settle()
    assert world.inference.companions == {}
    assert state(world)[0] == "idle"


# ---------------------------------------------------------------- limits


def started(limits: Limits) -> tuple[Machine, list[steps.Action]]:
    machine = Machine("pi-1", limits=limits)
    machine.start(moment(0), 0.5)
    return machine, machine.handle(steps.OrderArrived(order=make_order(1, [V1])), moment(0), 0.5)


def moment(elapsed_s: float) -> Moment:
    return Moment(START + timedelta(seconds=elapsed_s), elapsed_s)


def kinds(actions: list[steps.Action]) -> set[str]:
    return {type(one).__name__ for one in actions}


def test_a_step_that_takes_too_long_is_cancelled_and_tried_again() -> None:
    machine, actions = started(Limits(refresh_s=100, cancel_s=10))
    step = next(one for one in actions if isinstance(one, steps.Refresh))
    assert machine.due_s == 100
    assert "Cancel" not in kinds(machine.handle(steps.Ticked(), moment(99), 0.5))
    actions = machine.handle(steps.Ticked(), moment(100), 0.5)
    assert "Cancel" in kinds(actions)
    update = machine.record.updates["activity"]
    assert update.reason is not None
    assert (str(update.state), update.reason.code) == ("failed", "update.timeout")
    reason = Reason(code="update.cancelled", detail="at last")
    machine.handle(steps.StepFailed(step=step.step, slot="", reason=reason), moment(101), 0.5)
    assert "Refresh" in kinds(machine.handle(steps.Ticked(), moment(105), 0.5))
    assert machine.due_s == 205


def test_a_step_that_does_not_come_back_ends_the_agent() -> None:
    machine, _ = started(Limits(refresh_s=100, cancel_s=10))
    machine.handle(steps.Ticked(), moment(100), 0.5)
    machine.handle(steps.Ticked(), moment(105), 0.5)  # the next one waits behind it
    actions = machine.handle(steps.Ticked(), moment(110), 0.5)
    assert "GiveUp" in kinds(actions)


def test_a_rollback_that_cannot_load_is_over_once_the_pointer_is_back() -> None:
    world = world_with(make_order(1, [V1]), make_order(2, [V2]))
    world.unloadable = {V1.digest}  # memory is short
    world.deliver(make_order(3, [], withdrawn=["activity"]))
    world.roomy = False
    world.inference.companions.clear()
    for _ in range(400):
        if not world.turn():
            break
    assert state(world)[0] == "rolled-back"
    assert world.running() == V1.digest
    assert world.machine.idle
    assert "activity" in world.serving.silent, "the keeper tries it again"
    world.unloadable = set()
    world.serving.restore(fresh=False)
    assert world.inference.serving["activity"].manifest == V1.digest


def test_a_rollback_that_kills_the_agent_is_over_once_the_pointer_is_back() -> None:
    world = world_with(make_order(1, [V1]), make_order(2, [V2]))
    world.deliver(make_order(3, [], withdrawn=["activity"]))
    assert state(world)[0] == "rolling-back"
    world._run_job()
    record = world.machine.record  # as if every load had killed it
    assert record.updates["activity"].state is UpdateState.ROLLED_BACK
    machine = Machine("pi-1", world.machine.record, world.machine.pointers)
    update = record.updates["activity"]
    back = structs.replace(update, state=UpdateState.ROLLING_BACK, resumes=RESUMES_MAX)
    machine.record = structs.replace(record, updates={"activity": back})
    machine.start(moment(0), 0.5)
    assert machine.record.updates["activity"].state is UpdateState.ROLLED_BACK


def test_what_failed_in_the_switch_is_switched_back_and_tried_again() -> None:
    world = world_with(make_order(1, [V1]))
    world.deliver(make_order(2, [V2]))
    while not isinstance(world.jobs[0], steps.Activate):
        world._run_job()
    step = world.jobs.popleft()
    assert isinstance(step, steps.Activate)
    down = Reason(code="inference.down", detail="it is being started")
    world.feed(steps.StepFailed(step=step.step, slot="", reason=down))
    world.settle()
    states = world.states()
    at = states.index("rolling-back")
    assert states[at : at + 3] == ["rolling-back", "failed", "refreshing"]
    assert world.running() == V2.digest
    assert world.machine.record.rejected == ()


def test_files_that_are_damaged_while_they_are_observed_are_fetched_again() -> None:
    world = world_with(make_order(1, [V1]))
    world.deliver(make_order(2, [V2], policy=LONG))
    world.settle(idle=False)
    blob = next(iter(set(V2.blobs) - set(V1.blobs))).removeprefix("sha256:")
    world.disk.flip(f"blobs/sha256/{blob}")
    world.boot()
    assert state(world) == ("rolling-back", "store.damaged")
    world.settle()
    assert world.running() == V2.digest
    assert world.machine.record.rejected == ()


def test_what_rolls_back_to_be_tried_again_is_not_once_it_is_taken_back() -> None:
    world = world_with(make_order(1, [V1]))
    world.deliver(make_order(2, [V2], policy=LONG))
    while not isinstance(world.jobs[0], steps.Activate):
        world._run_job()
    step = world.jobs.popleft()
    assert isinstance(step, steps.Activate)
    down = Reason(code="inference.down", detail="it is being started")
    world.feed(steps.StepFailed(step=step.step, slot="", reason=down))
    assert state(world)[0] == "rolling-back"
    world.deliver(make_order(3, [V1]))
    world.settle()
    assert state(world)[0] == "rolled-back"
    assert world.running() == V1.digest


def test_bad_digests_that_are_wanted_are_not_forgotten() -> None:
    """A device that forgot one would try it again, and again."""
    order = make_order(1, [V1, V2])
    record = Record(order=order, rejected=(V1.digest,))
    for number in range(2 * REJECTED_MAX):
        record = Record(order=order, rejected=remember(record, digest_of(b"%d" % number)))
    assert V1.digest in record.rejected
    assert len(record.rejected) == REJECTED_MAX
    assert REJECTED_MAX > SLOTS_MAX * CANDIDATES_MAX
