"""Sealed samples, on a real broker: opened, kept closed, or found out.

The device here speaks the wire protocol by hand and says what it likes.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from sqlalchemy import select

from edgectl_protocol.names import digest_of
from edgectl_protocol.samples import SampleNote
from edgectl_protocol.sealed_samples import (
    SEALED_HEAD_BYTES_MAX,
    SEALED_MEDIA_TYPE,
    open_sample,
    read_sealed_head,
    sample_key_id,
    seal_sample,
)
from edgectl_server.clock import now
from edgectl_server.errors import Refused
from edgectl_server.schemas import SamplePolicyChange
from edgectl_server.signing.sealing_key import SUITE
from edgectl_server.storage.tables import DeviceUpload, SampleKeyRow
from server.fleet.conftest import Site
from server.fleet.sampled import Sampled, file_of

TEAM = X25519PrivateKey.generate()
TEAM_PUBLIC = TEAM.public_key().public_bytes_raw()


@pytest.fixture
def broker() -> str:
    return "embedded"


@pytest.fixture
def sampled(site: Site) -> Sampled:
    return Sampled(site)


def put(sampled: Sampled, seal: str) -> None:
    change = SamplePolicyChange(bytes_per_day=10_000, reasons=["uncertain", "random"], seal=seal)
    sampled.policies.put("har", change, "anna")


def key_of(sampled: Sampled) -> bytes:
    """The key that the order of the device carries."""
    counter = sampled.desire("pi-1")
    key = sampled.uploader.pi.order(counter).samples["har"].key
    assert key is not None
    return key


def sealed_to(public: bytes, content: bytes, device: str = "pi-1") -> bytes:
    recipient = X25519PublicKey.from_public_bytes(public)
    return seal_sample(
        content,
        device=device,
        key=public,
        encrypt=lambda plain, info: SUITE.encrypt(plain, recipient, info),
    )


def send(sampled: Sampled, content: bytes, note: SampleNote, **lies: Any) -> str:
    """Offer and send; return the code with which it is refused, empty: it is not."""
    sampled.uploader.pi.got.clear()
    sampled.offer(content, note, **{"media_type": SEALED_MEDIA_TYPE} | lies)
    refused = sampled.uploader.answer(content).refused
    return "" if refused is None else refused.code


def test_one_that_is_sealed_to_the_server_is_opened_and_kept_open(sampled: Sampled) -> None:
    put(sampled, "server")
    public = key_of(sampled)
    note = sampled.note(redacted="yes")
    plain = file_of(note)
    sealed = sealed_to(public, plain)
    assert send(sampled, sealed, note) == ""
    (found,) = sampled.samples()
    assert (found.digest, found.length) == (digest_of(plain), len(plain))
    assert (found.key, found.sealed, found.redacted) == (sample_key_id(public), False, True)
    assert [one.name for one in found.tensors] == ["input.x", "output.y"]
    samples, uploads = sampled.site.plane.samples, sampled.site.plane.device_uploads
    _, pieces = samples.read(found.id)
    assert b"".join(pieces) == plain
    assert not samples._uploads.exists(digest_of(sealed))

    sampled.uploader.pi.got.clear()
    sampled.offer(sealed, note, media_type=SEALED_MEDIA_TYPE)
    assert sampled.uploader.answer(sealed).done, "what is here is not asked for again"
    assert len(sampled.samples()) == 1
    samples.delete(found.id)
    uploads.delete_old()
    assert not samples._uploads.exists(found.digest), "nothing of it stays"


def test_one_that_is_sealed_to_another_key_stays_closed(sampled: Sampled) -> None:
    put(sampled, b64encode(TEAM_PUBLIC).decode())
    assert key_of(sampled) == TEAM_PUBLIC
    note = sampled.note(request="r-7")
    plain = file_of(note)
    sealed = sealed_to(TEAM_PUBLIC, plain)
    assert send(sampled, sealed, note) == ""
    (found,) = sampled.samples()
    assert (found.digest, found.length) == (digest_of(sealed), len(sealed))
    assert (found.sealed, found.key) == (True, sample_key_id(TEAM_PUBLIC))
    assert (found.tensors, found.answer, found.confidence) == ([], -1, None)
    assert found.request == "r-7"
    _, pieces = sampled.site.plane.samples.read(found.id)
    got = b"".join(pieces)
    assert open_sample(got, lambda one, info: SUITE.decrypt(one, TEAM, info)) == plain


def test_older_keys_of_the_server_still_open(sampled: Sampled) -> None:
    put(sampled, "server")
    before = key_of(sampled)
    keys = sampled.site.plane.sample_keys
    made = sampled.policies.rotate(keys, "anna")
    after = key_of(sampled)
    assert (sample_key_id(after), made.current) == (made.id, True)
    assert before != after
    for seed, public in enumerate((before, after)):
        note = sampled.note()
        assert send(sampled, sealed_to(public, file_of(note, seed=seed)), note) == ""
    assert {one.key for one in sampled.samples()} == {sample_key_id(before), sample_key_id(after)}
    assert [(one.current, one.samples) for one in keys.all()] == [(True, 1), (False, 1)]


def test_a_new_key_has_the_orders_made_anew(sampled: Sampled) -> None:
    put(sampled, "server")
    sampled.site.plane.ordering.renew()
    sampled.policies.rotate(sampled.site.plane.sample_keys, "anna")
    assert sampled.site.plane.ordering.renew() == 1
    put(sampled, "none")
    sampled.site.plane.ordering.renew()
    sampled.policies.rotate(sampled.site.plane.sample_keys, "anna")
    assert sampled.site.plane.ordering.renew() == 0, "nobody seals to it"


def test_where_the_policy_has_a_key_nothing_comes_as_it_is(sampled: Sampled) -> None:
    """An old agent's are refused before they are sent, also inside of a sealed one's name."""
    put(sampled, "server")
    public = key_of(sampled)
    note = sampled.note()
    plain = file_of(note)
    sampled.uploader.pi.got.clear()
    sampled.offer(plain, note)
    assert sampled.uploader.refusal() == "sample.plain"
    assert sampled.rows() == []
    assert send(sampled, plain, note) == "sample.malformed", "offered as sealed, and is not"
    put(sampled, "none")
    sealed = sealed_to(public, plain)
    lie = {"media_type": "application/vnd.edgectl.sample.v1+safetensors"}
    assert send(sampled, sealed, note, **lie) == "sample.malformed"
    assert sampled.samples() == []


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def renamed(content: bytes) -> bytes:
    """The head says another moment than was sealed."""
    return content.replace(b'"reason":"uncertain"', b'"reason":"random"   ')


LIES: dict[str, Any] = {
    "altered": (lambda key, note: flipped(sealed_to(key, file_of(note))), "sample.sealed"),
    "another head": (lambda key, note: renamed(sealed_to(key, file_of(note))), "sample.sealed"),
    "cut off": (lambda key, note: sealed_to(key, file_of(note))[:-1], "sample.malformed"),
    "another device's": (
        lambda key, note: sealed_to(key, file_of(note), device="pi-2"),
        "sample.sealed",
    ),
    "an unknown key": (
        lambda key, note: sealed_to(X25519PrivateKey.generate().public_key().public_bytes_raw(),
                                    file_of(note)),
        "sample.key",
    ),
    "another model's input": (
        lambda key, note: sealed_to(key, file_of(note, input="input.z")),
        "sample.contract",
    ),
    "another reason": (
        lambda key, note: sealed_to(key, file_of(msgspec.structs.replace(note, reason="asked"))),
        "sample.unasked",
    ),
    "another manifest": (
        lambda key, note: sealed_to(
            key, file_of(msgspec.structs.replace(note, manifest=digest_of(b"x")))
        ),
        "sample.model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_what_is_another_than_it_says_is_not_kept(sampled: Sampled, name: str) -> None:
    make, code = LIES[name]
    put(sampled, "server")
    public = key_of(sampled)
    note = sampled.note()
    assert send(sampled, make(public, note), note) == code
    assert sampled.samples() == []
    assert send(sampled, sealed_to(public, file_of(note)), note) == "", "an honest one"


def test_a_head_that_lies_of_a_closed_one_is_found_out_where_it_can_be(sampled: Sampled) -> None:
    put(sampled, b64encode(TEAM_PUBLIC).decode())
    note = sampled.note()
    sealed = sealed_to(TEAM_PUBLIC, file_of(note))
    other = file_of(msgspec.structs.replace(note, version="2"))
    for content, code in (
        (sealed[:-1], "sample.malformed"),
        (sealed + b"\0", "sample.malformed"),
        (sealed_to(TEAM_PUBLIC, file_of(note), device="pi-2"), "sample.sealed"),
        (sealed_to(TEAM_PUBLIC, other), "sample.model"),
    ):
        assert send(sampled, content, note) == code
    assert sampled.samples() == []


def test_a_secret_that_is_gone_loses_the_sample_and_nothing_else(sampled: Sampled) -> None:
    """Such as a database that was restored without its key folder."""
    put(sampled, "server")
    public = key_of(sampled)
    with sampled.site.database.write() as session:
        row = session.scalars(select(SampleKeyRow)).one()
        row.secret = "AAAA"
    note = sampled.note()
    sealed = sealed_to(public, file_of(note))
    assert send(sampled, sealed, note) == "sample.sealed"
    with sampled.site.database.read() as session:
        reason = session.scalars(select(DeviceUpload.reason)).one()
    assert reason is not None
    assert "cannot be read" in reason["detail"]


def test_a_change_that_does_not_speak_of_the_key_leaves_it(sampled: Sampled) -> None:
    """Loops raise a model's budget for a while: that must not open samples to the server."""
    public = b64encode(TEAM_PUBLIC).decode()
    put(sampled, public)
    found = sampled.policies.put(
        "har", SamplePolicyChange(bytes_per_day=5, reasons=["random"]), "b"
    )
    assert (found.seal, found.key) == (public, sample_key_id(TEAM_PUBLIC))
    found = sampled.policies.put(
        "kws", SamplePolicyChange(bytes_per_day=5, reasons=["random"]), "b"
    )
    assert found.seal == "server", "of a model that never had a policy"


@pytest.mark.parametrize("wrong", [bytes(32), b"\1" + bytes(31)], ids=["zero", "small order"])
def test_a_key_that_nothing_can_be_sealed_to_is_refused(sampled: Sampled, wrong: bytes) -> None:
    with pytest.raises(Refused) as caught:
        put(sampled, b64encode(wrong).decode())
    assert caught.value.code == "sample.key"
    assert sampled.policies.get("har").seal == "none", "what was there stays"


def test_the_servers_own_key_is_not_brought_as_another_ones(sampled: Sampled) -> None:
    own = sampled.site.plane.sample_keys.all()[0].public
    with pytest.raises(Refused, match="server's own"):
        put(sampled, own)


def test_nothing_of_a_private_key_lies_in_the_database(sampled: Sampled) -> None:
    with sampled.site.database.read() as session:
        (row,) = session.scalars(select(SampleKeyRow)).all()
    assert row.secret is not None
    assert len(row.secret) > 100
    put(sampled, b64encode(TEAM_PUBLIC).decode())
    with sampled.site.database.read() as session:
        theirs = session.get_one(SampleKeyRow, sample_key_id(TEAM_PUBLIC))
    assert (theirs.holder, theirs.secret, theirs.created_by) == ("outside", None, "anna")


def test_the_head_fits_what_is_read_first() -> None:
    note = SampleNote(
        model="m" * 64, version="v" * 64, manifest=digest_of(b"x"), reason="out-of-reference",
        taken_at=now(),
        request="r" * 64, redacted="yes",
    )  # fmt: skip
    sealed = sealed_to(TEAM_PUBLIC, file_of(note), device="d" * 64)
    assert read_sealed_head(sealed[:SEALED_HEAD_BYTES_MAX], len(sealed)).note == note
