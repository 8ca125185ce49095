"""Bundles by a delta: what is right is used, what is wrong refused by name, and D2 runs after."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from msgspec import structs

from agent.core.made import MadeDelta, make_delta, make_order, retrained_bundles, simple_bundle
from agent.core.simulation import World
from edgectl_delta.frames import pack
from edgectl_protocol.delta_programs import write_header
from edgectl_protocol.deltas import PROGRAM_BYTES_MAX, Codec, Header
from edgectl_protocol.manifest import decode_manifest, device_layers, model_layer
from edgectl_protocol.messages import Order
from edgectl_protocol.names import digest_of

D1, D2 = retrained_bundles()
GOOD = make_delta(D1, D2)


def bomb(program_bytes: int, packed: bytes) -> bytes:
    """A delta whose program is announced with a length, and is something else."""
    models = [one.blobs[model_layer(decode_manifest(one.manifest)).digest] for one in (D1, D2)]
    header = Header(
        Codec.PATCH,
        *(hashlib.sha256(one).digest() for one in models),
        *(len(one) for one in models),
        program_bytes,
        len(packed),
    )
    return write_header(header) + packed


def offering(**changes: object) -> MadeDelta:
    return MadeDelta(GOOD.content, structs.replace(GOOD.offer, **changes), GOOD.manifest)


def flip(topic: str, payload: bytes) -> list[bytes]:
    """Somebody between the server and the device alters the delta."""
    return [payload[::-1] if hexadecimal(GOOD.offer.delta) in topic else payload]


def swallow(topic: str, payload: bytes) -> list[bytes]:
    return [] if hexadecimal(GOOD.offer.delta) in topic else [payload]


def hexadecimal(digest: str) -> str:
    return digest.removeprefix("sha256:")


@dataclass(frozen=True)
class Case:
    """A delta that is not used, and how that is called."""

    name: str
    code: str
    delta: MadeDelta = field(default_factory=lambda: GOOD)
    disturb: Callable[[str, bytes], list[bytes]] | None = None


CASES = (
    Case("for another base", "delta.base", make_delta(D1, D2, make_delta(D2, D1).content)),
    Case("for a base that is not here", "delta.base_missing", offering(base=digest_of(b"x"))),
    Case("to something unsigned", "delta.target", offering(target=digest_of(b"x"))),
    Case("not smaller than the file", "delta.limit", offering(size=200_000)),
    Case("chunks without an index", "delta.limit", offering(chunk_index=None)),
    Case("an index of other chunks", "delta.malformed", offering(size=GOOD.offer.size + 65536)),
    Case(
        "a program beyond the bounds",
        "delta.limit",
        make_delta(D1, D2, bomb(PROGRAM_BYTES_MAX + 1, pack(b"x"))),
    ),
    Case(
        "a program that swells",
        "delta.limit",
        make_delta(D1, D2, bomb(100, pack(bytes(50_000_000)))),
    ),
    Case("no delta at all", "delta.malformed", make_delta(D1, D2, b"<html>" * 100)),
    Case("cut short", "delta.truncated", make_delta(D1, D2, GOOD.content[:-1000])),
    Case("altered on the way", "transfer.chunk_altered", disturb=flip),
    Case("never comes", "transfer.stalled", disturb=swallow),
)


def play(world: World, *deltas: MadeDelta) -> World:
    world.publish(D1, D2)
    for delta in deltas:
        world.broker.retained.update(delta.retained)
    world.play([make_order(1, [D1]), make_order(2, [D2], deltas=deltas)])
    world.check_ended()
    assert world.running() == D2.digest, world.states()
    return world


def left_behind(world: World) -> list[str]:
    return [path for path in world.disk.paths() if path.startswith("partial/")]


def test_the_model_is_made_and_only_the_delta_and_what_differs_is_fetched() -> None:
    world = play(World(), GOOD)
    first, second = world.transfers
    assert (first.delta, first.refusal) == (None, None)
    assert first.fetched_bytes == first.whole_bytes
    assert (second.delta, second.refusal) == (GOOD.offer.delta, None)
    layers = {one.file: one for one in device_layers(decode_manifest(D2.manifest))}
    changed = len(D2.manifest) + layers["edgectl.json"].size  # the golden data are those of D1
    assert second.fetched_bytes == GOOD.offer.size + changed
    assert second.whole_bytes == len(D2.manifest) + sum(one.size for one in layers.values())
    assert world.patcher.counts() == {"delta.applied": 1}
    assert left_behind(world) == []


@pytest.mark.parametrize("case", CASES, ids=lambda one: one.name)
def test_a_delta_is_refused_by_name_and_the_file_fetched_whole(case: Case) -> None:
    world = World()
    if case.disturb is not None:
        world.broker.disturb = case.disturb
    play(world, case.delta)
    transfer = world.transfers[-1]
    assert transfer.delta is None
    assert transfer.refusal is not None
    assert transfer.refusal.code == case.code, transfer.refusal
    assert world.patcher.counts() == {case.code: 1}
    assert left_behind(world) == []
    assert not world.blamed


def test_a_delta_that_does_not_come_is_waited_for_once() -> None:
    world = World()
    world.broker.disturb = swallow
    play(world, GOOD)
    assert world.reasons.count("transfer.stalled") == 1


def test_without_room_for_delta_and_file_the_file_is_fetched() -> None:
    world = World()
    world.publish(D1, D2)
    world.broker.retained.update(GOOD.retained)
    world.play([make_order(1, [D1])])
    used = world.disk.capacity - world.disk.free_bytes()
    world.disk.capacity = used + 200_000 + GOOD.offer.size // 2
    world.deliver(make_order(2, [D2], deltas=[GOOD]))
    world.settle()
    assert world.running() == D2.digest
    assert world.transfers[-1].refusal is not None
    assert world.transfers[-1].refusal.code == "delta.space"


def test_what_was_refused_is_not_tried_again_after_a_power_cut() -> None:
    """The whole file was begun: that is what is gone on with."""
    world = World()
    wrong = CASES[0].delta
    world.publish(D1, D2)
    world.broker.retained.update(wrong.retained)
    world.play([make_order(1, [D1])])
    order = make_order(2, [D2], deltas=[wrong])
    begun = f"sync partial/{hexadecimal(wrong.offer.target)}.bitmap"
    world.disk.cut_at = number_of(begun, order, wrong)
    world.play([order], survival="kept")
    assert world.boots == 3
    assert world.transfers[-1].refusal is not None
    assert world.transfers[-1].refusal.code == "delta.whole_begun"


def number_of(operation: str, order: Order, delta: MadeDelta) -> int:
    """The number of the first such operation of the disk where nothing is cut."""
    world = World()
    world.publish(D1, D2)
    world.broker.retained.update(delta.retained)
    world.play([make_order(1, [D1])])
    world.play([order])
    return world.disk.trail.index(operation) + 1


def test_a_first_install_has_no_use_for_a_delta() -> None:
    other = simple_bundle("1", model="gearbox")
    world = World()
    world.publish(D2, other)
    world.broker.retained.update(GOOD.retained)
    world.play([make_order(1, [D2], deltas=[GOOD])])
    assert world.running() == D2.digest
    assert world.transfers[-1].refusal is not None
    assert world.transfers[-1].refusal.code == "delta.base_missing"
