"""Slots that belong together: one change of the pointers, one switch, and all of it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.made import START, MadeBundle, simple_bundle
from agent.core.simulated_disk import PowerCut
from agent.core.simulation import World
from edgectl_agent.core.record import SlotPointer
from edgectl_agent.durable import RealDisk
from edgectl_agent.errors import StepFailed, StepRejected
from edgectl_agent.store import Store
from edgectl_protocol.errors import InvalidName
from edgectl_protocol.messages import Installed

V1, V2 = simple_bundle("1", length=60_000), simple_bundle("2", length=60_000)
SLOTS = ("activity", "other")


def installed(made: MadeBundle) -> Installed:
    return Installed(
        version=made.config.version,
        variant=made.config.variant,
        manifest=made.digest,
        since=START,
    )


def world_with(*bundles: MadeBundle) -> World:
    """A device that has the files of `bundles`, and serves nothing."""
    world = World()
    world.publish(*bundles)
    world.boot()
    for one in bundles:
        world.store.add(one.digest, one.manifest)
        for digest, content in one.blobs.items():
            world.store.add(digest, content)
    return world


def serving(world: World) -> dict[str, str]:
    return {slot: one.manifest for slot, one in world.inference.serving.items()}


def test_a_group_is_activated_and_taken_back_together() -> None:
    world = world_with(V1, V2)
    first = dict.fromkeys(SLOTS, installed(V1))
    second = dict.fromkeys(SLOTS, installed(V2))
    world.serving.activate(first)
    switched = world.serving.activate(second)
    assert serving(world) == dict.fromkeys(SLOTS, V2.digest)
    assert set(switched.swaps) == set(SLOTS)
    assert all(one.previous == installed(V1) for one in switched.pointers.values())
    back = world.serving.roll_back(dict.fromkeys(SLOTS, V2.digest))
    assert serving(world) == dict.fromkeys(SLOTS, V1.digest)
    assert back.pointers == dict.fromkeys(SLOTS, SlotPointer(running=installed(V1)))
    assert world.store.pointers() == back.pointers


def test_one_that_does_not_load_keeps_the_others_back_and_is_named() -> None:
    world = world_with(V1, V2)
    world.serving.activate(dict.fromkeys(SLOTS, installed(V1)))
    world.unloadable = {V2.digest}
    with pytest.raises(StepRejected) as caught:
        world.serving.activate({"activity": installed(V1), "other": installed(V2)})
    assert caught.value.slot == "other"
    assert serving(world) == dict.fromkeys(SLOTS, V1.digest)


def test_one_with_a_damaged_file_changes_no_pointer() -> None:
    world = world_with(V1)
    with pytest.raises(StepFailed):
        world.serving.activate({"activity": installed(V1), "other": installed(V2)})
    assert world.store.pointers() == {}
    assert serving(world) == {}


@pytest.mark.parametrize("survival", ["lost", "kept", "random"])
def test_pointers_of_a_group_change_in_one_step(survival: str) -> None:
    """The power is cut at every operation: all slots run the old one, or all the new one."""
    before = dict.fromkeys(SLOTS, SlotPointer(running=installed(V1)))
    after = dict.fromkeys(SLOTS, SlotPointer(running=installed(V2), previous=installed(V1)))
    seen = []
    for cut in range(1, 20):
        world = World(seed=cut)
        store = Store(world.disk)
        store.point(before)
        world.disk.cut_at = world.disk.operations + cut
        try:
            store.point(after)
        except PowerCut:
            world.disk.reboot(survival, world.random)  # type: ignore[arg-type]
        else:
            world.disk.cut_at = None
        found = Store(world.disk).pointers()
        assert found in (before, after)
        seen.append(found)
    assert before in seen
    assert after in seen


def test_a_slot_that_is_not_named_stays_as_it_is(tmp_path: Path) -> None:
    store = Store(RealDisk(tmp_path))
    store.point({"activity": SlotPointer(running=installed(V1))})
    store.point({"other": SlotPointer(running=installed(V2))})
    assert set(store.pointers()) == {"activity", "other"}
    with pytest.raises(InvalidName):
        store.point({"../blobs": SlotPointer()})
    (tmp_path / "slots.json").write_bytes(b"{")
    assert set(Store(RealDisk(tmp_path)).pointers()) == {"activity", "other"}
    (tmp_path / "slots.copy").write_bytes(b"{")
    assert set(Store(RealDisk(tmp_path)).pointers()) == {"activity", "other"}, "it was repaired"
    for name in ("slots.json", "slots.copy"):  # as a repair of the file system may lose one
        (tmp_path / name).unlink()
        assert set(Store(RealDisk(tmp_path)).pointers()) == {"activity", "other"}
        assert (tmp_path / name).exists()
    for name in ("slots.json", "slots.copy"):
        (tmp_path / name).write_bytes(b"{")
    assert Store(RealDisk(tmp_path)).pointers() == {}


# ---------------------------------------------------------------- what is in memory beside it


def swapped(**changes: object) -> World:
    """A device on which V2 has taken the place of V1."""
    world = world_with(V1, V2)
    for name, value in changes.items():
        setattr(world, name, value)
    world.serving.activate({"activity": installed(V1)})
    world.serving.activate({"activity": installed(V2)})
    return world


def test_a_rollback_needs_no_file_of_what_is_in_memory() -> None:
    world = swapped()
    for path in [one for one in world.disk.paths() if one.startswith("blobs/")]:
        world.disk.unlink(path)
    switched = world.serving.roll_back({"activity": V2.digest})
    assert serving(world) == {"activity": V1.digest}
    assert switched.swaps["activity"].load_ms == 0
    assert switched.pointers == world.store.pointers()
    assert world.inference.companions == {}, "what was rolled back is not kept"


def test_a_rollback_loads_what_memory_did_not_hold() -> None:
    world = swapped(roomy=False)
    switched = world.serving.roll_back({"activity": V2.digest})
    assert serving(world) == {"activity": V1.digest}
    assert switched.swaps["activity"].load_ms > 0


def test_a_rollback_comes_before_a_broken_disk() -> None:
    """The old model answers although the pointers cannot be written; the step is tried again."""
    world = swapped()
    right = world.disk.write_atomic

    def broken(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    world.disk.write_atomic = broken  # type: ignore[method-assign]
    with pytest.raises(OSError, match="Read-only"):
        world.serving.roll_back({"activity": V2.digest})
    assert serving(world) == {"activity": V1.digest}
    world.disk.write_atomic = right  # type: ignore[method-assign]
    world.serving.roll_back({"activity": V2.digest})
    assert serving(world) == {"activity": V1.digest}
    assert world.store.pointers() == {"activity": SlotPointer(running=installed(V1))}


def test_what_a_rollback_could_not_read_is_served_as_soon_as_it_can_be() -> None:
    """Also when the update is over: otherwise what was rolled back would serve for ever."""
    world = swapped(roomy=False)
    right = world.disk.blocks

    def broken(*_: object) -> object:
        raise OSError(5, "Input/output error")

    world.disk.blocks = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(OSError, match="Input/output"):
        world.serving.roll_back({"activity": V2.digest})
    assert world.store.pointers() == {"activity": SlotPointer(running=installed(V1))}
    assert world.serving.silent["activity"].code == "disk.error"
    world.disk.blocks = right  # type: ignore[method-assign]
    assert world._keep(), "the keeper tries again"
    assert serving(world) == {"activity": V1.digest}


def test_a_rollback_can_be_done_twice() -> None:
    world = swapped()
    first = world.serving.roll_back({"activity": V2.digest})
    again = world.serving.roll_back({"activity": V2.digest})
    assert first.pointers == again.pointers
    assert serving(world) == {"activity": V1.digest}


def test_a_group_goes_back_whole_where_memory_holds_one_of_them() -> None:
    world = world_with(V1, V2)
    world.serving.activate(dict.fromkeys(SLOTS, installed(V1)))
    world.serving.activate(dict.fromkeys(SLOTS, installed(V2)))
    world.serving.release("other")
    world.serving.roll_back(dict.fromkeys(SLOTS, V2.digest))
    assert serving(world) == dict.fromkeys(SLOTS, V1.digest)


def test_a_candidate_beside_what_serves() -> None:
    world = world_with(V1, V2)
    with pytest.raises(StepFailed) as failed:
        world.serving.accompany("activity", installed(V2), share=0.5, cpu_max=0.2)
    assert failed.value.code == "slot.empty"
    world.serving.activate({"activity": installed(V1)})
    assert not world.serving.mirror("activity", share=0.5, cpu_max=0.2)
    swap = world.serving.accompany("activity", installed(V2), share=0.5, cpu_max=0.2)
    assert swap.resident
    assert serving(world) == {"activity": V1.digest}, "it serves nobody"
    assert world.store.pointers()["activity"].running == installed(V1)
    assert world.serving.mirror("activity", share=0.5, cpu_max=0.2)
    world.serving.release("activity")
    world.unloadable = {V2.digest}
    with pytest.raises(StepRejected) as rejected:
        world.serving.accompany("activity", installed(V2), share=0.5, cpu_max=0.2)
    assert (rejected.value.code, rejected.value.slot) == ("load.invalid", "activity")


def test_threads_and_provider_are_what_the_pointer_says() -> None:
    """They come from the trial, and are the same after a restart."""
    world = world_with(V1)
    chosen = Installed(
        version="1",
        variant=V1.config.variant,
        manifest=V1.digest,
        since=START,
        threads=3,
        provider="XnnpackExecutionProvider",
    )
    world.serving.activate({"activity": chosen})
    for _ in range(2):
        bundle = world.inference.serving["activity"]
        assert (bundle.threads, bundle.provider) == (3, "XnnpackExecutionProvider")
        world.boot()
