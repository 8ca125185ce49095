"""Worlds from seeds: power cuts, kills and a swarm of other faults; and half-done operations."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.core import random_worlds
from agent.core.random_worlds import FAULTS, play_random_world
from agent.core.simulated_disk import PowerCut, SimulatedDisk, Survival
from agent.core.test_crash_points import SCENARIOS, SURVIVALS, Scenario, check, cut_everywhere
from edgectl_agent.core.machine import Machine
from edgectl_agent.durable import Disk
from edgectl_agent.journal import Journal
from edgectl_agent.store import Store

WORLDS = int(os.environ.get("EDGECTL_SIMULATED_WORLDS", "300"))
SEED = os.environ.get("EDGECTL_SIMULATED_SEED")
BLOCKS = 5


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Damage is logged, and here are thousands of it."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_worlds_come_to_the_right_end(block: int) -> None:
    """``EDGECTL_SIMULATED_SEED`` plays that one alone."""
    if SEED is not None:
        play_random_world(int(SEED))
        return
    struck: set[str] = set()
    for seed in range(block * WORLDS // BLOCKS, (block + 1) * WORLDS // BLOCKS):
        struck |= play_random_world(seed).struck
    assert struck == set(FAULTS), "a fault that never happens proves nothing"


def test_a_world_is_what_its_seed_says() -> None:
    first, second = play_random_world(7), play_random_world(7)
    assert (first.operations, first.boots, first.cuts) == (
        second.operations,
        second.boots,
        second.cuts,
    )
    assert first.seen == second.seen


@pytest.mark.parametrize("survival", SURVIVALS)
@pytest.mark.parametrize("scenario", SCENARIOS[1:4:2], ids=lambda one: one.name)
def test_power_is_cut_within_every_operation(scenario: Any, survival: Survival) -> None:
    assert cut_everywhere(scenario, survival, lambda: SimulatedDisk(within=True)) > 30


def boot_and_obey(scenario: Scenario, world: Any) -> None:
    world.boot()
    for order in scenario.orders:
        world.deliver(order)
        world.settle()


def kill_everywhere(scenario: Scenario) -> int:
    """Kill the process at every operation, let another one finish, then cut the power."""
    whole = scenario.world()
    whole.play(scenario.orders)
    for number in range(1, whole.disk.operations + 1):
        world = scenario.world(seed=number)
        world.disk.cut_at = number
        with pytest.raises(PowerCut):
            boot_and_obey(scenario, world)
        try:
            lose_the_power_at_the_end(scenario, world)
            check(scenario, world)
        except AssertionError as error:
            error.add_note(f"killed before operation {number}: {whole.disk.trail[number - 1]}")
            raise
    return whole.disk.operations


def fail_everywhere(scenario: Scenario) -> int:
    """Fail every operation once, let the device go on as it does, then cut the power.

    An activation that fails is taken back, so that what runs in the end may be the model before.
    """
    whole = scenario.world()
    whole.play(scenario.orders)
    for number in range(1, whole.disk.operations + 1):
        world = scenario.world(seed=number)

        def fail(what: str, path: str, world: Any = world, number: int = number) -> None:
            if world.disk.operations == number:
                raise OSError(5, "Input/output error")

        world.disk.trouble = fail
        try:
            lose_the_power_at_the_end(scenario, world)
        except AssertionError as error:
            error.add_note(f"operation {number} failed: {whole.disk.trail[number - 1]}")
            raise
    return whole.disk.operations


def lose_the_power_at_the_end(scenario: Scenario, world: Any) -> None:
    """Play to the end and lose all that was not synchronized; nothing of it may be missed."""
    for attempt in range(2):
        try:
            world.boot()
            break
        except OSError:  # the service manager starts it again
            assert attempt == 0
    for order in scenario.orders:
        world.deliver(order)
        world.settle()
    ended = world.running()
    world.disk.reboot("lost", world.random)
    world.boot()
    assert world.running() == ended
    world.settle()
    world.check_ended()


@pytest.mark.parametrize("scenario", SCENARIOS[1:6:2], ids=lambda one: one.name)
def test_killed_at_every_operation_and_then_the_power_is_lost(scenario: Scenario) -> None:
    assert kill_everywhere(scenario) > 30


@pytest.mark.parametrize("scenario", SCENARIOS[1:6:2], ids=lambda one: one.name)
def test_every_operation_fails_and_then_the_power_is_lost(scenario: Scenario) -> None:
    assert fail_everywhere(scenario) > 30


# ---------------------------------------------------------------- guarding the guards


def fails(worlds: int = 400) -> bool:
    """Say whether one of the worlds finds that something is wrong."""
    for seed in range(worlds):
        try:
            play_random_world(seed)
        except (AssertionError, OSError):
            return True
    return False


def never_synced(_: Store) -> None:
    """What a store does that believes what it sees."""


def believing_load(right: Callable[[Journal], Any]) -> Callable[[Journal], Any]:
    """A journal that believes what it reads before it is durable."""

    def load(self: Journal) -> Any:
        disk, self._disk = self._disk, _Believed(self._disk)  # type: ignore[assignment]
        try:
            return right(self)
        finally:
            self._disk = disk

    return load


class _Believed:
    """The disk, which is not written to where it reads well."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def write_atomic(self, path: str, content: bytes, mode: int) -> None:
        if self._disk.read(path) != content:
            self._disk.write_atomic(path, content, mode)


def test_they_find_a_store_that_points_to_what_is_not_durable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Store, "settle", never_synced)
    with pytest.raises(AssertionError):
        kill_everywhere(SCENARIOS[1])
    with pytest.raises(AssertionError):
        fail_everywhere(SCENARIOS[1])


def test_they_find_a_journal_that_is_believed_before_it_is_durable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Journal, "load", believing_load(Journal.load))
    assert fails()


def test_they_find_a_slot_that_overtakes_the_step_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = Machine._take_back

    def overtaking(self: Machine, *arguments: Any) -> None:
        right(self, *arguments)
        self._step += 1

    monkeypatch.setattr(Machine, "_take_back", overtaking)
    assert fails()


def test_they_find_a_bitmap_that_is_written_before_its_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may cost a download, never a wrong model: the whole is hashed. That goes too."""
    from edgectl_agent import store

    def hasty(self: store.Partial) -> None:
        self._disk.write_at(self._bitmap_path, 0, self.bitmap.to_bytes())
        self._unsynchronized = 0

    monkeypatch.setattr(store.Partial, "checkpoint", hasty)
    monkeypatch.setattr(store, "_hash", lambda _disk, path: "sha256:" + path.rpartition("/")[2])
    assert fails()


@pytest.mark.parametrize("removed", ["sync", "sync_directory"])
def test_they_find_a_removed_synchronization(monkeypatch: pytest.MonkeyPatch, removed: str) -> None:
    class Kind(SimulatedDisk):
        pass

    setattr(Kind, removed, lambda self, path: self._count(removed, path))
    monkeypatch.setattr(random_worlds, "SimulatedDisk", Kind)
    assert fails()


# ---------------------------------------------------------------- the disk itself


def files(disk: SimulatedDisk) -> dict[str, bytes]:
    return {path: disk.read(path) for path in disk.paths()}


def test_a_synchronization_that_failed_is_not_made_good_by_the_next() -> None:
    disk = SimulatedDisk()
    disk.write("a", bytes(4096))
    disk.sync("a")
    disk.sync_directory(".")
    disk.write_at("a", 0, b"x" * 4096)
    disk.trouble = lambda what, _: (_ for _ in ()).throw(OSError(5, what))
    with pytest.raises(OSError, match="sync"):
        disk.sync("a")
    disk.trouble = None
    disk.sync("a")
    assert disk.read("a") == b"x" * 4096, "it reads well"
    disk.reboot("lost", random.Random(1))
    assert disk.read("a") != b"x" * 4096, "and is not on the disk"
    disk.write_at("a", 0, b"y" * 4096)
    disk.sync("a")
    disk.reboot("lost", random.Random(1))
    assert disk.read("a") == b"y" * 4096, "what is written anew is"


def test_a_move_between_folders_may_be_in_both_or_in_none() -> None:
    found = set()
    for seed in range(40):
        disk = SimulatedDisk()
        disk.write("partial/a", b"content")
        disk.sync("partial/a")
        disk.sync_directory("partial")
        disk.rename("partial/a", "blobs/a")
        disk.reboot("random", random.Random(seed))
        found.add(tuple(disk.paths()))
    assert found == {(), ("partial/a",), ("blobs/a",), ("blobs/a", "partial/a")}


def test_an_operation_that_the_power_is_cut_within_is_done_in_part() -> None:
    found = set()
    for number in range(30):
        disk = SimulatedDisk(within=True)
        disk.operations = number
        disk.cut_at = number + 1
        with pytest.raises(PowerCut, match="within"):
            disk.append("a", b"0123456789")
        disk.reboot("kept", random.Random(1))
        found.add(len(files(disk).get("a", b"")))
    assert {0, 10} < found


def test_the_command_plays_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.device.simulation", "--worlds", "60", "--workers", "1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["worlds"] == 60
    assert result["failures"] == []
    assert result["kinds_cut"] > 20
    assert result["table"]["downloading"]["cut"] > 0
