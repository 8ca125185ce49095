"""A device with two slots, their bundles, and what the tests of updates ask of it."""

from __future__ import annotations

from agent.core.made import MadeBundle, make_order, simple_bundle, slot_order
from agent.core.simulation import World
from edgectl_protocol.messages import Order, Reason, UpdatePolicy

V1, V2, V3 = (simple_bundle(one, length=2_000) for one in "123")
G1, G2 = (simple_bundle(one, model="gearbox", length=2_000) for one in "12")
G2_EXACT = simple_bundle("2", model="gearbox", variant="fp32-exact", length=2_000)
PAIR = ("activity", "gearbox")
HELD = Reason(code="hold.asked", detail="the robot moves")
DIED = Reason(code="inference.died", detail="killed by SIGSEGV")
LONG = UpdatePolicy(observe_s=600, retry_delay_s_max=10)


def world_with(*orders: Order, coupled: tuple[str, ...] = ()) -> World:
    """A device that has done what `orders` say."""
    world = World(coupled=coupled)
    world.publish(V1, V2, V3, G1, G2, G2_EXACT)
    world.boot()
    for order in orders:
        world.deliver(order)
        world.settle()
    world.announced.clear()
    world.reasons.clear()
    return world


def both(counter: int, activity: MadeBundle, *gearbox: MadeBundle, **more: object) -> Order:
    slots = {"gearbox": slot_order(gearbox)}
    return make_order(counter, [activity], more=slots, coupled=[PAIR], **more)  # type: ignore[arg-type]


def state(world: World, slot: str = "activity") -> tuple[str, str]:
    """State and reason of a slot's update."""
    update = world.machine.record.updates[slot]
    return str(update.state), update.reason.code if update.reason else ""
