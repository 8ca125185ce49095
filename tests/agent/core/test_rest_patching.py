"""The rest of a bundle by a delta: what is right is used, what is wrong refused by name."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from msgspec import structs

from agent.core.made import (
    MadeBundle,
    MadeRest,
    describe,
    make_bundle,
    make_delta,
    make_order,
    make_rest,
    retrained_bundles,
)
from agent.core.simulation import World
from edgectl_protocol.manifest import GOLDEN_FILE, decode_manifest, device_layers
from edgectl_protocol.names import digest_of, hex_of
from edgectl_protocol.rests import join_target, missing_layers

GOLDEN = bytes(range(256)) * 300
D1, D2 = (
    make_bundle(describe("activity", version, "fp32"), one.blobs[layer.digest], golden)
    for version, one, golden in zip(
        "12", retrained_bundles(), (GOLDEN, GOLDEN[:-40] + b"other outputs" * 3 + b"."), strict=True
    )
    for layer in device_layers(decode_manifest(one.manifest))[:1]
)
MODEL = make_delta(D1, D2)
GOOD = make_rest(D1, D2)


def offering(**changes: object) -> MadeRest:
    return MadeRest(GOOD.content, structs.replace(GOOD.offer, **changes), GOOD.manifest)


def leading_to(made: bytes) -> MadeRest:
    """A delta that the server would not make, to something else."""
    return make_rest(D1, D2, made=made)


def layers(bundle: MadeBundle = D2) -> list[bytes]:
    found = missing_layers(*(decode_manifest(one.manifest) for one in (bundle, D1)))
    return [bundle.blobs[one.digest] for one in found]


def flip(topic: str, payload: bytes) -> list[bytes]:
    return [payload[::-1] if hex_of(GOOD.offer.delta) in topic else payload]


@dataclass(frozen=True)
class Case:
    """A delta that is not used, and how that is called."""

    name: str
    code: str
    rest: MadeRest = field(default_factory=lambda: GOOD)
    disturb: Callable[[str, bytes], list[bytes]] | None = None


CASES = (
    Case("of a bundle that is not here", "delta.base_missing", offering(base=digest_of(b"x"))),
    Case("not smaller", "delta.limit", offering(size=GOOD.offer.target_bytes)),
    Case("an index of one chunk", "delta.limit", offering(chunk_index=digest_of(b"x"))),
    Case("for another base", "delta.base", make_rest(D1, D2, make_rest(D2, D1).content)),
    Case("no delta at all", "delta.malformed", make_rest(D1, D2, b"<html>" * 100)),
    Case("another target", "delta.target", offering(target=digest_of(b"x"))),
    Case("another length", "delta.target", offering(target_bytes=GOOD.offer.target_bytes + 1)),
    Case(
        "another manifest", "delta.target",
        leading_to(join_target(D1.manifest, layers()) + b"."),
    ),
    Case(
        "a layer that was not signed", "delta.target",
        leading_to(join_target(D2.manifest, [one[:-1] + b"!" for one in layers()])),
    ),
    Case("a layer too few", "delta.target", leading_to(join_target(D2.manifest, layers()[:-1]))),
    Case("more than the layers", "delta.target",
         leading_to(join_target(D2.manifest, [*layers(), b"more"]))),
    Case("a manifest beyond the bounds", "delta.target",
         leading_to(struct.pack("<I", 2**32 - 1) + GOLDEN)),
    Case("nothing in it", "delta.target", leading_to(join_target(b"", []) + GOLDEN)),
    Case("altered on the way", "transfer.chunk_altered", disturb=flip),
)  # fmt: skip


def play(world: World, *rests: MadeRest) -> World:
    world.publish(D1, D2)
    for delta in (MODEL, *rests):
        world.broker.retained.update(delta.retained)
    world.play([make_order(1, [D1]), make_order(2, [D2], deltas=[MODEL], rests=rests)])
    world.check_ended()
    assert world.running() == D2.digest, world.states()
    assert [one for one in world.disk.paths() if one.startswith("partial/")] == []
    return world


def test_manifest_and_layers_are_made_and_the_deltas_are_all_that_is_fetched() -> None:
    world = World()
    fetched: list[str] = []
    world.broker.disturb = lambda topic, payload: [fetched.append(topic) or payload]  # type: ignore[func-returns-value]
    play(world, GOOD)
    transfer = world.transfers[-1]
    assert (transfer.delta, transfer.rest) == (MODEL.offer.delta, GOOD.offer.delta)
    assert transfer.refusal is None
    assert transfer.fetched_bytes == MODEL.offer.size + GOOD.offer.size
    sizes = [one.size for one in device_layers(decode_manifest(D2.manifest))]
    assert transfer.whole_bytes == len(D2.manifest) + sum(sizes)
    assert GOOD.offer.size < 0.02 * GOOD.offer.target_bytes
    assert world.patcher.counts() == {"delta.applied": 1, "delta.rest_applied": 1}
    assert not any(hex_of(D2.digest) in topic for topic in fetched), "the manifest did not come"


def test_what_both_bundles_have_is_not_in_it() -> None:
    same = make_bundle(
        structs.replace(D1.config, version="2"),
        D2.blobs[MODEL.offer.target],
        D1.blobs[digest_of(GOLDEN)],
    )
    manifest, before = (decode_manifest(one.manifest) for one in (same, D1))
    assert GOLDEN_FILE not in {one.file for one in missing_layers(manifest, before)}
    rest, world = make_rest(D1, same), World()
    world.publish(D1, same)
    world.broker.retained.update(rest.retained)
    world.play([make_order(1, [D1]), make_order(2, [same], rests=[rest])])
    world.check_ended()
    assert world.running() == same.digest
    assert world.patcher.counts() == {"delta.rest_applied": 1}


@pytest.mark.parametrize("case", CASES, ids=lambda one: one.name)
def test_it_is_refused_by_name_and_everything_fetched_but_the_model(case: Case) -> None:
    world = World()
    if case.disturb is not None:
        world.broker.disturb = case.disturb
    play(world, case.rest)
    transfer = world.transfers[-1]
    assert transfer.rest is None
    assert transfer.delta == MODEL.offer.delta, "that of the model is as good as before"
    assert transfer.refusal is not None
    assert transfer.refusal.code == case.code, transfer.refusal
    assert world.patcher.counts() == {case.code: 1, "delta.applied": 1}
    assert not world.blamed


def test_power_cut_at_every_operation_ends_in_the_new_version() -> None:
    world = World()
    world.publish(D1, D2)
    for delta in (MODEL, GOOD):
        world.broker.retained.update(delta.retained)
    world.play([make_order(1, [D1])])
    began = len(world.disk.trail)
    order = make_order(2, [D2], deltas=[MODEL], rests=[GOOD])
    world.play([order])
    operations = len(world.disk.trail)
    for number in range(began + 1, operations + 1):
        world = World()
        world.publish(D1, D2)
        for delta in (MODEL, GOOD):
            world.broker.retained.update(delta.retained)
        world.play([make_order(1, [D1])])
        world.disk.cut_at = number
        world.play([order], survival="kept" if number % 2 else "lost")
        assert world.running() == D2.digest, number
        assert not world.blamed
