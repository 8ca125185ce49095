"""Room on the disk: counted before anything is transferred, made by removing what nobody needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.made import MadeBundle, make_order, simple_bundle
from agent.core.simulated_disk import UNLIMITED, SimulatedDisk
from agent.core.simulation import World
from agent.reality.small_disk import SmallDisk, small_disk
from edgectl_agent.durable import Disk, RealDisk
from edgectl_agent.errors import StepFailed
from edgectl_agent.store import Store
from edgectl_protocol.messages import UpdatePolicy

V1, V2, V3 = (simple_bundle(version, length=200_000) for version in "123")
LARGE = simple_bundle("4", length=900_000)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path, 1024 * 1024) as made:
        yield made


def needs(store: Store, bundle: MadeBundle) -> list[tuple[str, int]]:
    return [(digest, len(content)) for digest, content in bundle.blobs.items()]


def test_what_is_counted_is_what_a_download_takes(disk: SmallDisk) -> None:
    """To the block: with exactly that much free it succeeds, with less it is not begun."""
    real = RealDisk(disk.root / "state")
    store = Store(real)
    ((digest, length), *_) = needs(store, V1)
    free = real.free_bytes()
    made = store.partial(digest, length)
    for number in range(len(made.bitmap)):
        made.write(number, V1.blobs[digest][number * 65536 : (number + 1) * 65536])
    made.finish()
    taken = free - real.free_bytes()
    other, _ = needs(store, V2)[0]
    disk.fill(leave_bytes=taken - 4096)
    with pytest.raises(StepFailed, match=r"disk\.full"):
        store.check_space([(other, length)])
    assert real.list("partial") == ()
    disk.make_room()
    store.check_space([(other, length)])


def test_what_has_its_place_already_is_not_counted(disk: SmallDisk) -> None:
    real = RealDisk(disk.root / "state")
    store = Store(real)
    digest, length = needs(store, V1)[0]
    store.partial(digest, length)
    disk.fill()
    store.check_space([(digest, length)])
    store.check_space([(V1.digest, 100)] if store.has(V1.digest) else [])


def crowded(disk: Disk) -> World:
    """Version 2 runs, 1 is what it would go back to, and there is garbage of another time."""
    world = World(disk=disk)  # type: ignore[arg-type]
    world.publish(V1, V2, V3, LARGE)
    world.boot()
    for counter, bundle in ((1, V1), (2, V2)):
        world.deliver(make_order(counter, [bundle], at=world.moment().wall))
        world.settle()
    for digest, content in V3.blobs.items():
        world.store.add(digest, content)
    return world


def test_garbage_goes_first_and_then_the_update_fits() -> None:
    disk = SimulatedDisk()
    world = crowded(disk)
    disk.capacity = 0
    disk.capacity = -disk.free_bytes() + 110_000
    room = simple_bundle("5", length=220_000)
    world.publish(room)
    world.deliver(make_order(3, [room], at=world.moment().wall))
    world.settle()
    assert world.running() == room.digest
    assert world.reasons == []


def test_where_garbage_is_not_enough_what_runs_and_what_it_goes_back_to_stay() -> None:
    disk = SimulatedDisk()
    world = crowded(disk)
    disk.capacity = 0
    disk.capacity = -disk.free_bytes() + 110_000
    policy = UpdatePolicy(attempts_max=2, observe_s=1)
    world.deliver(make_order(3, [LARGE], at=world.moment().wall, policy=policy))
    world.settle()
    assert world.reasons == ["disk.full"] * 2
    assert world.running() == V2.digest
    for bundle in (V1, V2):
        assert all(world.store.has(digest) for digest in bundle.blobs), "previous and running stay"
    assert not any(world.store.has(digest) for digest in set(V3.blobs) - set(V2.blobs))
    disk.capacity = UNLIMITED
    world.deliver(make_order(4, [LARGE], at=world.moment().wall))
    world.settle()
    assert world.running() == LARGE.digest


def test_a_candidate_of_another_slot_is_not_garbage() -> None:
    """It has failed for now and will be tried again; its files stay."""
    disk = SimulatedDisk()
    world = crowded(disk)
    gearbox = simple_bundle("1", model="gearbox", length=100_000)
    world.publish(gearbox)
    world.unloadable = set()
    slots = make_order(3, [gearbox], slot="gearbox").slots
    world.deliver(make_order(3, [], more=slots, at=world.moment().wall))
    world.settle(idle=False)
    disk.capacity = 0
    disk.capacity = -disk.free_bytes() + 40_000
    policy = UpdatePolicy(attempts_max=1, observe_s=1)
    world.deliver(make_order(4, [LARGE], more=slots, at=world.moment().wall, policy=policy))
    world.settle()
    assert all(world.store.has(digest) for digest in gearbox.blobs)


def test_the_guard_without_collecting_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimulatedDisk()
    world = crowded(disk)
    disk.capacity = 0
    disk.capacity = -disk.free_bytes() + 110_000
    room = simple_bundle("5", length=220_000)
    world.publish(room)
    monkeypatch.setattr(Store, "collect", lambda _self, _keep: 0)
    policy = UpdatePolicy(attempts_max=1, observe_s=1)
    world.deliver(make_order(3, [room], at=world.moment().wall, policy=policy))
    world.settle()
    assert world.reasons == ["disk.full"]
