"""Content keys in orders: sealed to who is ordered to run the model, and to nobody else."""

import msgspec
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from sqlalchemy import select

from edgectl_agent.device_key import load_or_make_key
from edgectl_agent.durable import RealDisk
from edgectl_protocol.encryption import device_context
from edgectl_protocol.enrolment import EnrolRequest, key_of, parse_token, request_proof
from edgectl_protocol.messages import Order
from edgectl_server import ordering
from edgectl_server.enrolment import _take_encryption_key
from edgectl_server.storage.tables import BundleVariant, Device, RolloutDevice
from server.fleet.test_rollout_service import Fleet

CONTENT_KEY = bytes(range(32))
SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


@pytest.fixture
def fleet(tmp_path, database):
    return Fleet(tmp_path, database)


def encrypt(fleet: Fleet, *variants: str, version: str = "1") -> None:
    """Make variants count as encrypted, by `CONTENT_KEY`."""
    with fleet.database.write() as session:
        for row in session.scalars(select(BundleVariant)):
            if row.manifest in {fleet.manifests[version][variant] for variant in variants}:
                row.content_key = fleet.content_keys.keep(CONTENT_KEY, row.manifest)


def give_key(fleet: Fleet, name: str) -> X25519PrivateKey:
    key = X25519PrivateKey.generate()
    with fleet.database.write() as session:
        row = session.get_one(Device, name)
        row.encryption_key = key.public_key().public_bytes_raw().hex()
    return key


def opened(order: Order, key: X25519PrivateKey, device: str, manifest: str) -> bytes:
    (target,) = [one.target for one in order.slots["har"].candidates if one.manifest == manifest]
    info = device_context(device=device, target=target, manifest=manifest)
    return SUITE.decrypt(order.keys[manifest], key, info)


def test_each_device_gets_the_key_sealed_to_itself(fleet):
    fleet.version("1")
    encrypt(fleet, "int8", "fp32")
    fleet.add("a", "b")
    keys = {name: give_key(fleet, name) for name in ("a", "b")}
    fleet.start(max_in_progress=2)
    fleet.rollouts.tick()
    orders = {name: fleet.order(name) for name in keys}
    for name, key in keys.items():
        order = orders[name]
        assert set(order.keys) == set(fleet.manifests["1"].values())
        for manifest in order.keys:
            assert opened(order, key, name, manifest) == CONTENT_KEY
            other = "b" if name == "a" else "a"
            for thief, posing_as in ((keys[other], other), (keys[other], name)):
                with pytest.raises(InvalidTag):
                    opened(order, thief, posing_as, manifest)
            with pytest.raises(InvalidTag):
                opened(order, key, other, manifest)
    assert CONTENT_KEY not in msgspec.json.encode(orders["a"])


def test_a_plain_candidate_has_no_key(fleet):
    fleet.version("1")
    encrypt(fleet, "int8")
    fleet.add("a")
    give_key(fleet, "a")
    fleet.start()
    fleet.rollouts.tick()
    order = fleet.order("a")
    assert len(order.slots["har"].candidates) == 2
    assert set(order.keys) == {fleet.manifests["1"]["int8"]}


def test_a_device_without_a_key_gets_only_what_is_plain(fleet):
    fleet.version("1")
    encrypt(fleet, "int8")
    fleet.add("a")
    fleet.start()
    fleet.rollouts.tick()
    order = fleet.order("a")
    assert [one.variant for one in order.slots["har"].candidates] == ["fp32"]
    assert order.keys == {}


def test_a_device_that_cannot_open_any_of_it_fails_and_is_told_nothing(fleet):
    fleet.version("1")
    encrypt(fleet, "int8", "fp32")
    fleet.add("a")
    rollout = fleet.start()
    fleet.rollouts.tick()
    assert fleet.order("a") is None
    with fleet.database.read() as session:
        row = session.get_one(RolloutDevice, (rollout, "a"))
    assert (row.state, row.reason["code"]) == ("failed", "rollout.no_variant")


def test_a_device_that_left_gets_no_key(fleet):
    fleet.version("1")
    encrypt(fleet, "int8", "fp32")
    fleet.add("a")
    give_key(fleet, "a")
    with fleet.database.write() as session:
        row = session.get_one(Device, "a")
        row.state, row.decommissioned_at = "decommissioned", fleet.clock()
        fleet.ordering.withdraw(session, row)
    assert fleet.order("a") is None
    with fleet.database.write() as session:
        session.get_one(Device, "a").order_expires_at = fleet.clock()
    assert fleet.ordering.renew() == 0
    assert fleet.order("a") is None


def test_a_new_encryption_key_has_the_order_made_anew(fleet, tmp_path):
    """A device enrols again, as after its medium was lost: same name, same identity."""
    fleet.version("1")
    encrypt(fleet, "int8", "fp32")
    fleet.add("a")
    give_key(fleet, "a")
    fleet.start()
    fleet.rollouts.tick()
    before = fleet.order("a")
    assert fleet.ordering.renew() == 0
    identity, key = load_or_make_key(RealDisk(tmp_path / "device")), X25519PrivateKey.generate()
    csr_pem = identity.signing_request("a", key.public_key().public_bytes_raw())
    said = {"nonce": "0" * 32, "device": "a", "csr_pem": csr_pem}
    token = parse_token("ee_" + "0" * 16 + "_" + "A" * 43)
    proof = request_proof(key_of(token.secret), **said)
    request = EnrolRequest(token_id=token.id, proof=proof, **said)
    with fleet.database.write() as session:
        _take_encryption_key(session.get_one(Device, "a"), request, fleet.clock())
    assert fleet.ordering.renew() == 1
    after = fleet.order("a")
    assert after.counter == before.counter + 1
    assert after.slots == before.slots
    for manifest in after.keys:
        assert opened(after, key, "a", manifest) == CONTENT_KEY
    assert fleet.ordering.renew() == 0


def test_an_order_that_cannot_be_made_keeps_no_other_from_being_made_anew(fleet, monkeypatch):
    """As after a restore without the key folder: a bundle's key opens no more."""
    fleet.version("1")
    fleet.add("a", "b", "c")
    fleet.start(max_in_progress=3)
    fleet.rollouts.tick()
    before = {name: fleet.order(name).counter for name in "abc"}
    encrypt(fleet, "int8", "fp32")
    with fleet.database.write() as session:
        for row in session.scalars(select(BundleVariant)):
            row.content_key = fleet.content_keys.keep(CONTENT_KEY, "sha256:" + "0" * 64)
    give_key(fleet, "a")  # the others get what is plain, as before: nothing
    assert fleet.ordering.sign_anew(["another key"]) == 2
    after = {name: fleet.order(name).counter for name in "abc"}
    assert after == {"a": before["a"], "b": before["b"] + 1, "c": before["c"] + 1}
    fleet.clock.advance(days=21)
    monkeypatch.setattr(ordering, "_BATCH", 1)
    assert [fleet.ordering.renew() for _ in range(3)] == [0, 1, 1]
    assert {name: fleet.order(name).counter for name in "abc"} == {
        name: counter + (name != "a") for name, counter in after.items()
    }
