"""Uploads of devices, on a real broker: what is asked for, what is refused, and what it may cost.

The device here speaks the wire protocol by hand and says what it likes.
"""

from __future__ import annotations

import gzip
import hashlib
import random
import threading
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import func, select, update

from edgectl_protocol import topics
from edgectl_protocol.chunks import CHUNK_BYTES, make_index
from edgectl_protocol.messages import PAYLOAD_TYPES, decode
from edgectl_protocol.names import digest_of
from edgectl_protocol.uploads import (
    INDEX_NUMBER,
    LOG_REQUEST_PAYLOAD_TYPE,
    UPLOAD_BYTES_MAX,
    WANTED_MAX,
    UploadAnswer,
    UploadOffer,
    UploadWanted,
    encode_upload_chunk,
)
from edgectl_server import device_uploads, upload_rows
from edgectl_server.clock import now
from edgectl_server.errors import NotFound, Unavailable
from edgectl_server.storage.tables import DeviceUpload, DeviceUploadChunk, Job
from server.fleet.conftest import Site
from server.fleet.fleet_helpers import PAGE_ALL
from server.fleet.uploader import MEDIA_TYPE, Uploader, parts_of
from signed import seal
from waiting import wait_for

SMALL = b"one chunk of a log"
LARGE = random.Random(3).randbytes(20 * CHUNK_BYTES + 5)


@pytest.fixture
def broker() -> str:
    """The rules for both brokers come from one table; the others' tests are about it."""
    return "embedded"


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_rows, "STALL", timedelta(seconds=0.5))
    monkeypatch.setattr(upload_rows, "STALL_MAX", timedelta(seconds=1))


@pytest.fixture
def uploader(site: Site) -> Uploader:
    return Uploader(site)


def rows(site: Site) -> list[DeviceUpload]:
    with site.database.read() as session:
        return list(session.scalars(select(DeviceUpload).order_by(DeviceUpload.id)))


def chunks_held(site: Site) -> int:
    with site.database.read() as session:
        return session.scalar(select(func.count()).select_from(DeviceUploadChunk)) or 0


def job_of(site: Site, request: UploadAnswer) -> Job:
    with site.database.read() as session:
        return session.get_one(Job, request.job)


def security(site: Site) -> set[str]:
    site.plane.security.flush()
    return {event.code for event in site.plane.security.page(PAGE_ALL).items}


BOMB = gzip.compress(b"\0" * 64 * 1024**2)
"""Nothing here unpacks it; tests/cli/test_cli_device_logs.py has who does."""


@pytest.mark.parametrize(
    "content",
    [SMALL, b"x" * CHUNK_BYTES, LARGE, BOMB],
    ids=["small", "one chunk", "21 chunks", "bomb"],
)
def test_what_is_offered_is_pulled_whole(uploader: Uploader, content: bytes) -> None:
    site, request = uploader.site, uploader.asked()
    uploader.offer(content, request)
    assert uploader.answer(content).done
    row, pieces = site.plane.device_uploads.read("pi-1", digest_of(content), kind="logs")
    assert b"".join(pieces) == content
    assert (row.state, row.media_type, row.reason) == ("complete", MEDIA_TYPE, None)
    assert chunks_held(site) == 0
    assert len(uploader.sent) == len(set(uploader.sent)), "nothing is asked for twice"
    job = job_of(site, request)
    assert (job.state, (job.result or {})["upload"]) == ("succeeded", row.digest)
    assert not site.blobs.exists(row.digest), "not where devices fetch from"
    assert sum(site.plane.intake.dropped.values()) == 0


def test_an_upload_goes_on_where_it_was(uploader: Uploader) -> None:
    site, request = uploader.site, uploader.asked()
    uploader.offer(LARGE, request)
    uploader.answer(LARGE, until=10)
    wait_for(lambda: chunks_held(site) == 9, "the index and nine chunks")
    site.stop()
    uploader.pi.disconnect()
    uploader.pi.got.clear()
    site.start()
    uploader.pi.connect()
    uploader.pi.report()
    uploader.pi.subscribe(topics.wanted("pi-1"))
    uploader.offer(LARGE, request)
    assert uploader.answer(LARGE).done
    assert len(uploader.sent) <= 22 + 2 * WANTED_MAX
    assert uploader.sent.count(INDEX_NUMBER) == 1
    _, pieces = site.plane.device_uploads.read("pi-1", digest_of(LARGE), kind="logs")
    assert hashlib.sha256(b"".join(pieces)).digest() == hashlib.sha256(LARGE).digest()


@pytest.mark.parametrize("where", ["before the blob", "after the blob", "before the word"])
def test_a_server_that_dies_at_the_end_of_an_upload_ends_it_once(
    uploader: Uploader, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """From the first death on nothing gets further, until there is another server."""
    site, request = uploader.site, uploader.asked()
    uploads, link = site.plane.device_uploads, site.plane.link
    add_file, publish, died = uploads._blobs.add_file, link.publish, threading.Event()

    def die() -> None:
        died.set()
        raise Unavailable("test.died", "it is dead")

    def adding(*arguments: Any, **options: Any) -> str:
        if where == "after the blob":
            add_file(*arguments, **options)
        return add_file(*arguments, **options) if where == "before the word" else die() or ""

    def publishing(topic: str, payload: bytes, **options: Any) -> None:
        told = topic == topics.wanted("pi-1") and decode(UploadWanted, payload).done
        if where == "before the word" and told:
            die()
        publish(topic, payload, **options)

    monkeypatch.setattr(uploads._blobs, "add_file", adding)
    monkeypatch.setattr(link, "publish", publishing)
    uploader.offer(LARGE, request)
    last = len(parts_of(LARGE)) - 1
    uploader.answer(LARGE, until=last + 1)  # the index too
    uploader.send(digest_of(LARGE), last, parts_of(LARGE)[last])
    wait_for(died.is_set, "it has died")
    assert not any(one.done for one in uploader.heard())
    site.stop()
    uploader.pi.disconnect()
    uploader.pi.got.clear()
    sent = len(uploader.sent)
    site.start()
    uploader.pi.connect()
    uploader.pi.report()
    uploader.pi.subscribe(topics.wanted("pi-1"))
    uploader.offer(LARGE, request)
    wait_for(lambda: uploader.heard() and uploader.heard()[-1].done, "it is told that all is there")
    assert len(uploader.sent) == sent, "nothing is asked for again"
    (row,) = rows(site)
    assert (row.state, row.reason, chunks_held(site)) == ("complete", None, 0)
    _, pieces = site.plane.device_uploads.read("pi-1", digest_of(LARGE), kind="logs")
    assert b"".join(pieces) == LARGE
    assert job_of(site, request).state == "succeeded"
    assert list((site.settings.data_path / "device-uploads").iterdir()) == []


@pytest.mark.usefixtures("short_waits")
def test_what_does_not_come_is_asked_for_again_and_given_up(
    uploader: Uploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_uploads, "STALLS_MAX", 2)
    site, request = uploader.site, uploader.asked()
    uploader.offer(LARGE, request)
    wait_for(lambda: len(uploader.heard()) >= 3, "asked again")
    assert {wanted.chunks for wanted in uploader.heard() if not wanted.refused} == {(-1,)}
    assert uploader.refusal() == "upload.stalled"
    job = job_of(site, request)
    assert job.state == "failed"
    assert (job.error or {})["code"] == "upload.stalled"
    uploader.offer(LARGE, request)
    uploader.wait_dropped("upload.unasked")


# ---------------------------------------------------------------- a device that lies


def test_chunks_with_another_content_are_refused_by_name(uploader: Uploader) -> None:
    site, request = uploader.site, uploader.asked()
    offer = uploader.offer(LARGE, request)
    wait_for(uploader.heard, "the index wanted")
    uploader.send(offer.upload, INDEX_NUMBER, make_index(parts_of(b"y" * len(LARGE))))
    uploader.wait_dropped("upload.altered", 1)
    uploader.send(offer.upload, INDEX_NUMBER, make_index(parts_of(LARGE)))
    wait_for(lambda: any(0 in one.chunks for one in uploader.heard()), "chunk 0 wanted")
    uploader.send(offer.upload, 0, parts_of(LARGE)[1])
    uploader.wait_dropped("upload.altered", 2)
    uploader.send(offer.upload, 0, parts_of(LARGE)[0][:-1])
    assert uploader.refusal() == "upload.altered"
    assert chunks_held(site) == 0
    assert rows(site)[0].state == "failed"
    assert job_of(site, request).state == "failed"
    assert "upload.altered" in security(site)


def test_chunks_that_nobody_asked_for_are_not_kept(uploader: Uploader) -> None:
    site, request = uploader.site, uploader.asked()
    other = digest_of(b"never offered")
    for number in range(100):
        uploader.send(other, number, b"z" * 1000)
    uploader.wait_dropped("upload.unwanted", 100)
    offer = uploader.offer(LARGE, request)
    wait_for(uploader.heard, "the index wanted")
    uploader.send(offer.upload, 255, b"out of range of this upload")
    uploader.send(offer.upload, 3, parts_of(LARGE)[3])
    uploader.wait_dropped("upload.unwanted", 102)
    raw = encode_upload_chunk(offer.upload, 0, b"x")
    for payload in (
        b"x", raw[:36], raw[:32] + b"\x7f\xff\xff\xffx", raw[:32] + b"\xff\xff\xff\xfex",
        raw + b"x" * CHUNK_BYTES,
    ):  # fmt: skip
        uploader.pi.publish(topics.upload_chunk("pi-1"), payload)
    uploader.wait_dropped("upload.malformed", 5)
    assert chunks_held(site) == 0
    assert "upload.malformed" in security(site)


def test_no_device_takes_part_in_anothers_upload(uploader: Uploader) -> None:
    site, request = uploader.site, uploader.asked()
    thief = Uploader(site, "pi-2")
    offer = uploader.offer(SMALL, request)
    wait_for(uploader.heard, "the chunk wanted")
    thief.send(offer.upload, 0, SMALL)
    thief.wait_dropped("upload.unwanted")
    thief.offer(SMALL, request)
    assert thief.refusal() == "upload.unasked"
    with pytest.raises(NotFound):
        site.plane.device_uploads.read("pi-2", offer.upload, kind="logs")
    assert uploader.answer(SMALL).done
    with pytest.raises(NotFound):
        site.plane.device_uploads.read("pi-2", offer.upload, kind="logs")


def test_one_request_brings_one_upload(uploader: Uploader) -> None:
    site, request = uploader.site, uploader.asked()
    uploader.offer(LARGE, msgspec.structs.replace(request, nonce="f" * 32))
    uploader.offer(LARGE, msgspec.structs.replace(request, job="f" * 16))
    uploader.offer(LARGE, None)
    uploader.wait_dropped("upload.unasked", 3)
    assert rows(site) == []
    uploader.pi.got.clear()
    uploader.offer(LARGE, request)
    wait_for(uploader.heard, "the index wanted")
    uploader.offer(b"another one", request)
    uploader.wait_dropped("upload.unasked", 4)
    assert len(rows(site)) == 1
    uploader.offer(LARGE, request, length=len(LARGE) - 1)
    uploader.wait_dropped("upload.offer")
    uploader.offer(b"of one chunk", request, chunk_index=digest_of(b"i"))
    uploader.wait_dropped("upload.offer", 2)
    assert "upload.offer" in security(site)


def test_a_flood_of_offers_leaves_nothing(uploader: Uploader) -> None:
    site = uploader.site
    template = uploader.offer(b"first", None)
    uploader.wait_dropped("upload.unasked")
    text = msgspec.json.encode(template)
    dropped = site.plane.intake.dropped
    for number in range(10_000):
        digest = f"sha256:{number:064x}".encode()
        payload = text.replace(template.upload.encode(), digest)
        envelope = seal(uploader.pi.key, payload, PAYLOAD_TYPES[UploadOffer])
        uploader.pi.publish(topics.event("pi-1"), envelope)
        if number % 500 == 0:
            uploader.wait_dropped("upload.unasked", number - 500)
    uploader.wait_dropped("upload.unasked", 10_001)
    assert set(dropped) <= {"upload.unasked", "ack"}
    assert rows(site) == []


def test_what_is_too_long_is_no_offer(uploader: Uploader) -> None:
    request = uploader.asked()
    uploader.offer(LARGE, request, length=UPLOAD_BYTES_MAX + 1)
    uploader.offer(LARGE, request, length=0)
    uploader.wait_dropped("report.malformed", 2)
    assert rows(uploader.site) == []


def test_an_index_that_lies_about_the_whole_is_found_out(uploader: Uploader) -> None:
    """Every chunk is as the index says; the whole is not as the offer says."""
    site, request = uploader.site, uploader.asked()
    index = make_index(parts_of(LARGE))
    pretended = digest_of(b"some other content")
    uploader.offer(LARGE, request, upload=pretended)
    at = 0
    while True:
        wanted = uploader.next_wanted(at)
        at += 1
        if wanted.refused is not None:
            break
        for number in wanted.chunks:
            uploader.send(pretended, number, index if number < 0 else parts_of(LARGE)[number])
    assert wanted.refused.code == "upload.mismatch"
    assert chunks_held(site) == 0
    assert (rows(site)[0].state, job_of(site, request).state) == ("failed", "failed")
    assert list(Path(site.settings.data_path / "device-uploads").iterdir()) == []


def test_chunks_of_another_length_are_none(uploader: Uploader) -> None:
    """The whole would be as offered, and the index is signed: only its cuts are elsewhere."""
    request = uploader.asked()
    cuts = [0, CHUNK_BYTES - 1, *range(2 * CHUNK_BYTES, len(LARGE), CHUNK_BYTES), len(LARGE)]
    parts = [LARGE[begin:end] for begin, end in pairwise(cuts)]
    assert len(parts) == len(parts_of(LARGE))
    offer = uploader.offer(LARGE, request, chunk_index=digest_of(make_index(parts)))
    wait_for(uploader.heard, "the index wanted")
    uploader.send(offer.upload, INDEX_NUMBER, make_index(parts))
    for _ in range(device_uploads.REFUSALS_MAX):
        wait_for(lambda: any(0 in one.chunks for one in uploader.heard()), "chunk 0 wanted")
        uploader.send(offer.upload, 0, parts[0])
    assert uploader.refusal() == "upload.altered"
    assert chunks_held(uploader.site) == 0


# ---------------------------------------------------------------- limits


def test_a_device_has_a_budget_for_the_day(uploader: Uploader) -> None:
    site = uploader.site
    limits = device_uploads.Limits(len(LARGE) + 10, 8, timedelta(days=14))
    site.plane.device_uploads._limits = limits
    uploader.offer(LARGE, uploader.asked())
    assert uploader.answer(LARGE).done
    request = uploader.asked()
    uploader.offer(SMALL, request)
    assert uploader.refusal() == "upload.budget"
    with site.database.write() as session:
        session.execute(update(DeviceUpload).values(created_at=now() - timedelta(days=2)))
    uploader.offer(SMALL, request)
    wait_for(lambda: rows(site)[-1].state == "receiving", "another day")


def test_some_upload_at_a_time_and_the_others_wait(uploader: Uploader) -> None:
    site = uploader.site
    site.plane.device_uploads._limits = device_uploads.Limits(2**30, 1, timedelta(days=14))
    second = Uploader(site, "pi-2")
    uploader.offer(LARGE, uploader.asked())
    wait_for(uploader.heard, "the index wanted")
    second.offer(SMALL, second.asked())
    wait_for(lambda: [row.state for row in rows(site)] == ["receiving", "waiting"], "one waits")
    assert second.heard() == []
    assert uploader.answer(LARGE).done
    assert second.answer(SMALL).done


def test_who_goes_offline_gives_its_place_to_others(uploader: Uploader) -> None:
    site = uploader.site
    site.plane.device_uploads._limits = device_uploads.Limits(2**30, 1, timedelta(days=14))
    second = Uploader(site, "pi-2")
    uploader.offer(LARGE, uploader.asked())
    wait_for(uploader.heard, "the index wanted")
    second.offer(SMALL, second.asked())
    uploader.pi.report(online=False)
    assert second.answer(SMALL).done
    uploader.pi.report()
    assert uploader.answer(LARGE).done


def test_what_is_old_is_deleted(uploader: Uploader) -> None:
    site = uploader.site
    uploader.offer(SMALL, uploader.asked())
    assert uploader.answer(SMALL).done
    uploads = site.plane.device_uploads
    uploads.delete_old()
    assert len(rows(site)) == 1
    with site.database.write() as session:
        session.execute(update(DeviceUpload).values(expires_at=now() - timedelta(seconds=1)))
    uploads.delete_old()
    assert rows(site) == []
    assert not uploads._blobs.exists(digest_of(SMALL))


def test_a_request_for_logs_passes_for_no_other(uploader: Uploader) -> None:
    uploader.asked()
    (payload,) = uploader.pi.got[topics.command("pi-1")]
    assert msgspec.json.decode(payload)["payloadType"] == LOG_REQUEST_PAYLOAD_TYPE
