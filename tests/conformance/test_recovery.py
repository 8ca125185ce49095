"""What comes after an attack: replaced keys heal the device, and what must stay forbidden does."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import MetaFile

from conformance.attacked import V1, V2, Device
from conformance.repository import make_signer, meta_file, name_of
from edgectl_agent.core.record import Floor

FORWARD = 2**33
"""Ten digits: a snapshot's version stands in a file's name, which has no room for more."""


@pytest.fixture(params=["here", "process"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Device]:
    """It runs version 1; version 2 is signed for, and not ordered yet."""
    device = Device(cache=tmp_path / "cache", process=request.param == "process")
    device.repository.add(V1)
    device.repository.publish("targets")
    device.publish(V1, V2)
    device.begin()
    device.boot()
    assert device.order(V1) == ""
    device.repository.add(V2)
    device.repository.publish("targets")
    yield device
    device.close()


def steal_forward(device: Device, role: str, version: int = FORWARD) -> None:
    """The thief of a role's key drives its version up, and the device believes it once."""
    repository = device.repository
    payload = copy.deepcopy(repository.payload(role))
    payload.version = version
    if role == "timestamp":
        repository.put("timestamp", payload)
        return
    repository.files[name_of("snapshot", version)] = repository.sign(
        payload, repository.signers["snapshot"]
    )
    repository.timestamp.snapshot_meta = MetaFile(version)
    repository.publish_timestamp()


def test_without_new_keys_a_fast_forward_locks_out_the_honest_server(device: Device) -> None:
    honest = device.repository.files["timestamp.json"]
    steal_forward(device, "timestamp")
    assert device.order(V2) == ""
    assert device.machine.record.floor.timestamp == FORWARD
    device.repository.files["timestamp.json"] = honest
    assert device.order(V1) == "trust.rollback"


@pytest.mark.parametrize("cache_lost", [False, True])
def test_a_new_timestamp_key_ends_a_fast_forward(device: Device, cache_lost: bool) -> None:
    steal_forward(device, "timestamp")
    assert device.order(V2) == ""
    device.repository.replace_key("timestamp")
    device.repository.publish_root()
    device.repository.publish_timestamp()
    if cache_lost:
        device.lose_cache()
    assert device.order(V1) == ""
    version = device.repository.timestamp.version
    assert device.machine.record.floor == Floor(root=2, timestamp=version, snapshot=3)


@pytest.mark.parametrize("cache_lost", [False, True])
def test_new_keys_end_a_fast_forward_of_the_snapshot(device: Device, cache_lost: bool) -> None:
    steal_forward(device, "snapshot")
    assert device.order(V2) == ""
    assert device.machine.record.floor.snapshot == FORWARD
    for role in ("snapshot", "timestamp"):
        device.repository.replace_key(role)
    device.repository.publish_root()
    device.repository.publish_snapshot()
    if cache_lost:
        device.lose_cache()
    assert device.order(V1) == ""
    assert device.machine.record.floor.snapshot == device.repository.snapshot.version


def test_one_more_key_is_no_reason_to_forget_the_floor(device: Device) -> None:
    repository = device.repository
    honest = repository.timestamp.version
    steal_forward(device, "timestamp")
    assert device.order(V2) == ""
    repository.root.add_key(make_signer().public_key, "timestamp")
    repository.publish_root()
    repository.publish_timestamp()
    assert repository.timestamp.version == honest + 1
    device.lose_cache()
    assert device.order(V1) == "trust.rollback"


def test_the_floor_outlives_the_cache(device: Device) -> None:
    older = dict(device.repository.files)
    device.repository.publish_snapshot()
    assert device.order(V2) == ""
    held = device.kept()
    device.lose_cache()
    device.repository.files = older
    assert device.order(V1) == "trust.rollback"
    assert device.kept() == held


def test_an_older_root_is_not_believed_after_the_cache_is_lost(device: Device) -> None:
    older = dict(device.repository.files)
    device.repository.publish_root()
    device.repository.publish_timestamp()
    assert device.order(V2) == ""
    device.lose_cache()
    older["timestamp.json"] = device.repository.files["timestamp.json"]
    device.repository.files = older
    assert device.order(V1) == "trust.rollback"


def test_a_stolen_key_is_worth_nothing_once_root_has_replaced_it(device: Device) -> None:
    """The thief of `targets` signs for what nobody else would; then the key is taken out."""
    repository = device.repository
    stolen = repository.replace_key("targets")
    repository.publish_root()
    honest = repository.targets["targets"]
    repository.publish("targets")
    forged = copy.deepcopy(honest)
    forged.version += 1
    forged.targets[V2.candidate.target].hashes = {"sha256": "0" * 64}
    content = repository.sign(forged, [stolen])
    repository.files[name_of("targets", forged.version)] = content
    repository.snapshot.meta["targets.json"] = meta_file(forged, content)
    repository.publish_snapshot()
    held = device.kept()
    assert device.order(V2) == "trust.refused"
    assert device.kept() == held
    honest.version = forged.version
    repository.publish("targets")
    assert device.order(V2) == ""


def test_a_stolen_root_key_below_the_threshold_makes_no_root(device: Device) -> None:
    repository = device.repository
    second, third = make_signer(), make_signer()
    for signer in (second, third):
        repository.root.add_key(signer.public_key, "root")
    repository.root.roles["root"].threshold = 2
    repository.signers["root"].append(second)
    repository.publish_root()
    assert device.order(V2) == ""
    held = device.kept()
    thief = make_signer()
    forged = copy.deepcopy(repository.root)
    forged.version += 1
    forged.add_key(thief.public_key, "timestamp")
    repository.files["3.root.json"] = repository.sign(forged, [third])
    assert device.order(V1) == "trust.refused"
    assert device.kept() == held
    del repository.files["3.root.json"]
    assert device.order(V1) == ""


def test_many_roots_are_walked_in_one_go(device: Device) -> None:
    for _ in range(30):
        device.repository.replace_key("timestamp")
        old = device.repository.replace_key("root")
        device.repository.publish_root(old)
    device.repository.publish_timestamp()
    assert device.order(V2) == ""
    assert device.machine.record.floor.root == 31


def test_a_hidden_new_root_does_not_undo_the_newest_that_is_known(device: Device) -> None:
    repository = device.repository
    old = repository.replace_key("timestamp")
    repository.publish_root()
    repository.publish_timestamp()
    assert device.order(V2) == ""
    del repository.files["2.root.json"]
    forged = copy.deepcopy(repository.timestamp)
    forged.version += 1
    repository.put("timestamp", forged, [old])
    assert device.order(V1) == "trust.refused"


def indented(content: bytes) -> bytes:
    return json.dumps(json.loads(content), indent=1).encode()


def spread_out(content: bytes) -> bytes:
    return content.replace(b"{", b" { ").replace(b",", b" ,\n")


def escaped(content: bytes) -> bytes:
    return content.replace(b'"timestamp"', b'"\\u0074imestamp"')


@pytest.mark.parametrize("write", [indented, spread_out, escaped])
def test_the_same_content_in_other_bytes_is_the_same(
    device: Device, write: Callable[[bytes], bytes]
) -> None:
    """What is signed is the canonical form; only where a digest is named do the bytes count."""
    files = device.repository.files
    files["timestamp.json"] = write(files["timestamp.json"])
    assert device.order(V2) == ""


def test_what_expired_serves_on_and_is_healed_by_a_new_signature(device: Device) -> None:
    repository = device.repository
    repository.timestamp.expires = repository.now - timedelta(seconds=1)
    repository.publish_timestamp()
    held = device.kept()
    assert device.order(V2) == "trust.expired"
    assert device.kept() == held
    assert device.inference.serving["activity"].manifest == V1.digest
    repository.timestamp.expires = repository.now + timedelta(days=1)
    repository.publish_timestamp()
    assert device.order(V2) == ""
