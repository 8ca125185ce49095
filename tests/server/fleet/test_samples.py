"""Samples from devices, on a real broker: what is welcome, what is found out, and what is kept.

The device here speaks the wire protocol by hand and says what it likes.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import update

from edgectl_protocol.chunks import CHUNK_BYTES
from edgectl_protocol.names import digest_of
from edgectl_protocol.samples import (
    SAMPLE_BYTES_MAX,
    SampleNote,
    SamplePolicy,
)
from edgectl_server.clock import now
from edgectl_server.errors import Conflict, NotFound
from edgectl_server.samples import SampleLimits
from edgectl_server.schemas import SamplePolicyChange
from edgectl_server.storage.tables import Device, SampleRow
from server.fleet.conftest import Site
from server.fleet.sampled import ASKED, Sampled, file_of
from server.fleet.uploader import Uploader
from waiting import wait_for


@pytest.fixture
def broker() -> str:
    """What is asked of the broker is the same as for logs."""
    return "embedded"


@pytest.fixture
def sampled(site: Site) -> Sampled:
    return Sampled(site)


def test_a_sample_is_pulled_kept_shown_and_deleted(sampled: Sampled) -> None:
    site, note = sampled.site, sampled.note()
    order = sampled.uploader.pi.order(1)
    assert order.samples == {
        "har": SamplePolicy(bytes_per_day=10_000, reasons=("random", "uncertain"))
    }
    content = file_of(note)
    sampled.offer(content, note)
    assert sampled.uploader.answer(content).done
    (found,) = sampled.samples()
    assert (found.device, found.model, found.version, found.reason) == (
        "pi-1", "har", "1", "uncertain",
    )  # fmt: skip
    assert (found.manifest, found.digest) == (note.manifest, digest_of(content))
    assert (found.taken_at, found.length) == (note.taken_at, len(content))
    assert [(one.name, one.datatype, one.shape) for one in found.tensors] == [
        ("input.x", "F32", [1, 4]), ("output.y", "F32", [1, 2]),
    ]  # fmt: skip
    assert found.expires_at - found.received_at == timedelta(days=30)
    _, pieces = site.plane.samples.read(found.id)
    assert b"".join(pieces) == content
    assert not site.blobs.exists(found.digest), "not where devices fetch from"

    for asked, count in (
        ({"model": "har"}, 1), ({"model": "kws"}, 0), ({"device": "pi-2"}, 0),
        ({"reason": "random"}, 0), ({"since": note.taken_at}, 1), ({"until": note.taken_at}, 0),
    ):  # fmt: skip
        assert len(sampled.samples(**asked)) == count, asked

    sampled.uploader.pi.got.clear()
    sampled.offer(content, note)
    assert sampled.uploader.answer(content).done, "what is here is not asked for again"
    assert len(sampled.samples()) == 1

    site.plane.samples.delete(found.id)
    site.plane.device_uploads.delete_old()
    assert sampled.samples() == []
    with pytest.raises(NotFound):
        site.plane.samples.read(found.id)
    with pytest.raises(NotFound):
        site.plane.device_uploads.read("pi-1", found.digest, kind="sample")
    assert sampled.rows() == []


def test_offers_that_are_not_welcome_leave_nothing(sampled: Sampled) -> None:
    other = Uploader(sampled.site, "pi-2")
    note = sampled.note()
    content = file_of(note)
    cases: list[tuple[SampleNote | None, dict[str, Any], str]] = [
        (None, {}, "sample.offer"),
        (note, {"length": SAMPLE_BYTES_MAX + 1, "chunk_index": digest_of(b"i")}, "sample.offer"),
        (sampled.note(reason="disagreeing"), {}, "sample.unasked"),
        (sampled.note(model="kws"), {}, "sample.unasked"),
        (sampled.note(version="2"), {}, "sample.model"),
        (sampled.note(manifest=digest_of(b"other")), {}, "sample.model"),
        (sampled.note(taken_at=now() + timedelta(minutes=11)), {}, "sample.time"),
        (note, {"length": 2 * ASKED.bytes_per_day + 1}, "sample.budget"),
    ]
    for number, (claimed, changes, code) in enumerate(cases):
        lies = {"upload": digest_of(b"%d" % number)} | changes
        sampled.offer(content, claimed, **lies)
        wait_for(
            lambda upload=lies["upload"], code=code: any(  # type: ignore[misc]
                one.upload == upload and one.refused is not None and one.refused.code == code
                for one in sampled.uploader.heard()
            ),
            f"{code} for case {number}",
        )
    other.offer(content, None, kind="sample", sample=note)
    assert other.refusal() == "sample.model", "it does not run that model"
    assert sampled.rows() == []
    assert sampled.site.plane.intake.dropped["sample.budget"] == 1, "and it is counted"


def test_a_sample_does_not_become_a_log(sampled: Sampled) -> None:
    """Reading a log leaves nothing in the audit log."""
    note = sampled.note()
    content = file_of(note)
    sampled.offer(content, note)
    assert sampled.uploader.answer(content).done
    sampled.uploader.offer(content, sampled.uploader.asked())
    assert sampled.uploader.refusal() == "upload.offer"
    assert [row.kind for row in sampled.rows()] == ["sample"]


def test_without_a_policy_nothing_is_welcome(sampled: Sampled) -> None:
    sampled.policies.put("har", SamplePolicyChange(), "anna")
    note = sampled.note()
    sampled.offer(file_of(note), note)
    assert sampled.uploader.refusal() == "sample.unasked"
    assert sampled.rows() == []


def test_a_policy_that_goes_meanwhile_ends_the_upload(sampled: Sampled) -> None:
    note = sampled.note()
    content = file_of(note)
    sampled.offer(content, note)
    wait_for(sampled.uploader.heard, "the chunk wanted")
    sampled.policies.put("har", SamplePolicyChange(), "anna")
    sampled.uploader.send(digest_of(content), 0, content)
    assert sampled.uploader.refusal() == "sample.unasked"
    assert sampled.samples() == []


def test_one_device_does_not_take_the_places_of_all(sampled: Sampled) -> None:
    site, uploader = sampled.site, sampled.uploader
    uploads = site.plane.device_uploads
    uploads._limits = uploads._limits._replace(at_once=3)
    other = Uploader(site, "pi-2")
    note = sampled.note()
    contents = [file_of(note, seed=seed) for seed in range(4)]
    for content in contents:
        sampled.offer(content, note)
    wait_for(lambda: len(sampled.rows()) == len(contents), "all are taken")
    uploads.tick(site.plane.link)
    states = [row.state for row in sampled.rows()]
    assert states == ["receiving", "waiting", "waiting", "waiting"]
    for one in (uploader, other):  # logs do not wait for samples of the same device either
        one.offer(b"a log", one.asked())
        assert one.answer(b"a log").done
    for content in contents:
        assert uploader.answer(content).done
    assert len(sampled.samples()) == len(contents)


LIES: dict[str, Any] = {
    "no sample": (lambda note: b"GIF89a" + bytes(100), "sample.malformed"),
    "a header that lies": (lambda note: file_of(note) + b"\0", "sample.malformed"),
    "another model's input": (lambda note: file_of(note, input="input.z"), "sample.contract"),
    "an input as an output": (lambda note: file_of(note, output="input.y"), "sample.contract"),
    "another datatype": (lambda note: file_of(note, datatype="I32"), "sample.contract"),
    "another reason inside": (
        lambda note: file_of(msgspec.structs.replace(note, reason="asked")),
        "sample.unasked",
    ),
    "another time inside": (
        lambda note: file_of(msgspec.structs.replace(note, taken_at=now() + timedelta(days=400))),
        "sample.time",
    ),
    "another manifest inside": (
        lambda note: file_of(msgspec.structs.replace(note, manifest=digest_of(b"x"))),
        "sample.model",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_content_that_is_another_than_it_says_is_not_kept(sampled: Sampled, name: str) -> None:
    make, code = LIES[name]
    note = sampled.note()
    content = make(note)
    sampled.offer(content, note)
    refused = sampled.uploader.answer(content).refused
    assert refused is not None
    assert refused.code == code
    assert sampled.samples() == []
    (row,) = sampled.rows()
    assert (row.state, (row.reason or {})["code"]) == ("failed", code)
    with pytest.raises(NotFound):
        sampled.site.plane.device_uploads.read("pi-1", digest_of(content), kind="sample")


def test_a_sample_of_many_chunks_goes_on_after_a_restart(sampled: Sampled) -> None:
    site, note = sampled.site, sampled.note()
    changed = SamplePolicyChange(bytes_per_day=10**6, reasons=["uncertain"], seal="none")
    sampled.policies.put("har", changed, "anna")
    content = file_of(note, rows=25_000)
    assert len(content) > 4 * CHUNK_BYTES
    sampled.offer(content, note)
    sampled.uploader.answer(content, until=3)
    site.stop()
    sampled.uploader.pi.disconnect()
    sampled.uploader.pi.got.clear()
    site.start()
    sampled.uploader.pi.connect()
    sampled.uploader.pi.report()
    sampled.uploader.pi.subscribe("edgectl/v1/d/pi-1/down/want")
    sampled.offer(content, note)
    assert sampled.uploader.answer(content).done
    assert len(sampled.samples()) == 1


def test_a_budget_is_that_of_the_model_and_the_device(sampled: Sampled) -> None:
    note = sampled.note()
    room, length = 4, len(file_of(note))
    policy = SamplePolicyChange(bytes_per_day=2 * length, reasons=["uncertain"], seal="none")
    sampled.policies.put("har", policy, "anna")
    for seed in range(room):
        content = file_of(note, seed=seed)
        sampled.uploader.pi.got.clear()
        sampled.offer(content, note)
        assert sampled.uploader.answer(content).done
    sampled.offer(file_of(note, seed=room), note)
    assert sampled.uploader.refusal() == "sample.budget"
    assert len(sampled.samples()) == room


def test_the_oldest_go_when_there_is_no_room_but_none_of_the_last_day(sampled: Sampled) -> None:
    site, note = sampled.site, sampled.note()
    samples, uploads = site.plane.samples, site.plane.device_uploads
    length = len(file_of(note))
    for seed in range(3):
        content = file_of(note, seed=seed)
        sampled.uploader.pi.got.clear()
        sampled.offer(content, note)
        assert sampled.uploader.answer(content).done
    samples._limits = SampleLimits(timedelta(days=30), 2 * length)
    samples.make_room()
    uploads.delete_old()
    assert len(sampled.samples()) == 3, "all of the last day"
    sampled.offer(file_of(note, seed=4), note)
    assert sampled.uploader.refusal() == "sample.full"
    with site.database.write() as session:
        session.execute(update(SampleRow).values(received_at=now() - timedelta(days=2)))
    samples.make_room()
    uploads.delete_old()
    assert len(sampled.samples()) == 2


def test_a_changed_policy_has_the_orders_made_anew(sampled: Sampled) -> None:
    site = sampled.site
    sampled.uploader.pi.order(1)
    policy = SamplePolicyChange(bytes_per_day=5, reasons=["asked"], seal="none", revision=1)
    assert sampled.policies.put("har", policy, "ben").revision == 2
    with pytest.raises(Conflict, match="revision 2 by now"):
        sampled.policies.put("har", policy, "anna")
    assert site.plane.ordering.renew() == 1
    order = sampled.uploader.pi.order(2)
    assert order.samples == {"har": SamplePolicy(bytes_per_day=5, reasons=("asked",))}
    with site.database.read() as session:
        assert session.get_one(Device, "pi-1").order_counter == 2
    sampled.policies.put("har", SamplePolicyChange(), "anna")
    site.plane.ordering.renew()
    assert sampled.uploader.pi.order(3).samples == {}
