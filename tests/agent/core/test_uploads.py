"""What a device holds for the server, what it sends, and its own log lines."""

from __future__ import annotations

import gzip
import json
import logging
import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.core.made import START
from agent.core.simulated_disk import PowerCut, SimulatedDisk
from edgectl_agent import log_ring, uploads
from edgectl_agent.core.record import EMPTY, Record
from edgectl_agent.core.requests import RequestArrived
from edgectl_agent.core.timing import Moment
from edgectl_agent.durable import Disk, RealDisk
from edgectl_agent.log_ring import LINE_BYTES_MAX, LogRing, without_secrets
from edgectl_agent.log_tail import LogTail
from edgectl_agent.logs import Logs
from edgectl_agent.request_ledger import RequestLedger
from edgectl_agent.uploads import OFFER_AGAIN_S, UPLOADS_MAX, Held, Uploads
from edgectl_protocol.chunks import CHUNK_BYTES, make_index
from edgectl_protocol.log_lines import LogFollowRequest, LogLines
from edgectl_protocol.messages import Reason, encode
from edgectl_protocol.names import digest_of, hex_of
from edgectl_protocol.uploads import (
    HEADER_BYTES,
    LogRequest,
    UploadAnswer,
    UploadWanted,
    decode_upload_chunk,
)

NOW = Moment(START, 0.0)
CONTENT = random.Random(5).randbytes(3 * CHUNK_BYTES + 7)
PARTS = [CONTENT[at : at + CHUNK_BYTES] for at in range(0, len(CONTENT), CHUNK_BYTES)]


class Site:
    """Uploads, with everything around them written down."""

    def __init__(self, disk: Disk, *, bytes_max: int = 2**20, bytes_per_s: int = 2**30) -> None:
        self.offered: list[Held] = []
        self.sent: list[tuple[str, bytes]] = []
        self.said: list[dict[str, Any]] = []
        self.room = 10**6
        self.up = True
        self.uploads = Uploads(
            "pi-1",
            disk,
            bytes_max=bytes_max,
            bytes_per_s=bytes_per_s,
            offer=self.offered.append,
            voice=self,
            say=self.said.append,
        )

    def connected(self) -> bool:
        return self.up

    def publish_bulk(self, topic: str, payload: bytes) -> bool:
        if len(self.sent) >= self.room:
            return False
        self.sent.append((topic, payload))
        return True

    def add(self, content: bytes = CONTENT, at: datetime = START) -> Held | None:
        return self.uploads.add("logs", content, "text/plain", at=at, elapsed_s=0.0)

    def want(self, upload: str, *chunks: int, elapsed_s: float = 0.0, **more: Any) -> None:
        wanted = UploadWanted(upload=upload, chunks=chunks, **more)
        self.uploads.take(encode(wanted), elapsed_s)

    def numbers(self) -> list[int]:
        return [decode_upload_chunk(payload).number for _, payload in self.sent]


@pytest.fixture
def disk(tmp_path: Path) -> RealDisk:
    return RealDisk(tmp_path)


def files(disk: Disk) -> tuple[str, ...]:
    return disk.list("uploads")


def test_what_was_asked_for_is_sent_and_nothing_else(disk: RealDisk) -> None:
    site = Site(disk)
    held = site.add()
    assert held is not None
    assert site.offered == [held]
    assert held.chunk_index == digest_of(make_index(PARTS))
    site.uploads.pump(0.0)
    assert site.sent == []
    site.want(digest_of(b"another"), 0)
    site.want(held.upload, -1, 0, 3, 4, 0)
    site.uploads.take(b"no message", 0.0)
    site.uploads.pump(1.0)
    site.uploads.pump(2.0)
    chunks = [decode_upload_chunk(payload) for _, payload in site.sent]
    assert [(one.upload, one.number) for one in chunks] == [(held.upload, n) for n in (-1, 0, 3)]
    assert [one.content for one in chunks] == [make_index(PARTS), PARTS[0], PARTS[3]]
    assert {topic for topic, _ in site.sent} == {"edgectl/v1/d/pi-1/up/chunk"}


def test_content_of_one_chunk_has_no_index(disk: RealDisk) -> None:
    site = Site(disk)
    held = site.add(b"small")
    assert held is not None
    assert held.chunk_index is None
    site.want(held.upload, -1, 0)
    site.uploads.pump(1.0)
    assert site.numbers() == [0]


def test_the_files_are_private(disk: RealDisk) -> None:
    Site(disk).add()
    modes = {name: os.stat(disk.locate(f"uploads/{name}")).st_mode & 0o777 for name in files(disk)}  # noqa: PTH116
    assert set(modes.values()) == {0o600}
    assert len(modes) == 2


def test_it_is_never_faster_than_was_set_and_stops_behind_others(disk: RealDisk) -> None:
    site = Site(disk, bytes_per_s=CHUNK_BYTES)
    held = site.add()
    assert held is not None
    site.want(held.upload, 0, 1, 2, 3)
    counts = []
    for elapsed_s in (10.0, 10.1, 10.5, 11.0, 11.5, 12.0, 14.0):
        site.uploads.pump(elapsed_s)
        counts.append(len(site.sent))
    assert counts == [1, 1, 1, 2, 2, 3, 4]
    site.room = len(site.sent)
    site.want(held.upload, 0)
    site.uploads.pump(20.0)
    assert len(site.sent) == 4, "enough is on its way"
    site.room += 1
    site.up = False
    site.uploads.pump(30.0)
    assert len(site.sent) == 4, "nobody is there"
    site.up = True
    site.uploads.pump(40.0)
    assert len(site.sent) == 5


@pytest.mark.parametrize("end", [{"done": True}, {"refused": Reason(code="a.b", detail="no")}])
def test_it_is_held_and_offered_again_until_the_server_has_spoken(
    disk: RealDisk, end: dict[str, Any]
) -> None:
    held = Site(disk).add()
    assert held is not None
    again = Site(disk)
    assert again.offered == []
    again.uploads.start(0.0)
    assert again.offered == [held]
    again.uploads.pump(OFFER_AGAIN_S - 1)
    again.want(held.upload, elapsed_s=100.0)
    again.uploads.pump(OFFER_AGAIN_S + 1)
    assert len(again.offered) == 1, "it has been spoken of"
    again.uploads.pump(OFFER_AGAIN_S + 101)
    assert len(again.offered) == 2
    again.want(held.upload, 0)
    again.want(held.upload, **end)
    again.uploads.pump(OFFER_AGAIN_S * 3)
    assert (again.sent, len(again.offered), files(disk)) == ([], 2, ())
    assert again.said[-1]["state"] == ("done" if "done" in end else "refused")


def test_the_oldest_goes_first_when_there_is_no_room(disk: RealDisk) -> None:
    site = Site(disk, bytes_max=100)
    for age, text in ((3, b"a" * 40), (9, b"b" * 40), (1, b"c" * 40)):
        assert site.add(text, START - timedelta(hours=age)) is not None
    names = {name for name in files(disk) if not name.endswith(".json")}
    assert names == {hex_of(digest_of(text)) for text in (b"a" * 40, b"c" * 40)}
    assert site.add(b"d" * 101) is None, "it is larger than all that may be held"
    assert len(files(disk)) == 4
    many = Site(disk)
    for number in range(UPLOADS_MAX + 5):
        many.add(f"{number}".encode(), START + timedelta(hours=number))
    assert len(files(disk)) == 2 * UPLOADS_MAX


def test_a_full_disk_is_told_and_harms_nothing(
    disk: RealDisk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "no space left")

    site = Site(disk)
    monkeypatch.setattr(disk, "write_atomic", full)
    assert site.add() is None
    assert site.offered == []
    assert "no space left" in caplog.text


@pytest.mark.parametrize("survival", ["lost", "kept", "random"])
def test_wherever_the_power_goes_what_is_held_is_whole(survival: Any) -> None:
    whole = 0
    for cut in range(1, 40):
        disk = SimulatedDisk()
        disk.cut_at = disk.operations + cut
        added = None
        with disk_cut():
            added = Site(disk).add()
        disk.reboot(survival, random.Random(cut))
        again = Site(disk)
        again.uploads.start(0.0)
        for held in again.offered:
            assert disk.read(f"uploads/{hex_of(held.upload)}") == CONTENT
        assert len(files(disk)) == 2 * len(again.offered), "what belongs to nothing is removed"
        if added is not None:
            assert again.offered == [added], "what was offered is still there"
            whole += 1
            break
    assert whole == 1


class disk_cut:  # noqa: N801 - reads as a statement
    """The power may go."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is PowerCut


@pytest.mark.parametrize("beside", [b"", b"{", b"[" * 60_000, b'{"kind": "logs"}', b"\xff"])
def test_damaged_files_are_removed(disk: RealDisk, beside: bytes) -> None:
    held = Site(disk).add()
    assert held is not None
    disk.write(f"uploads/{hex_of(held.upload)}.json", beside)
    again = Site(disk)
    again.uploads.start(0.0)
    assert (again.offered, files(disk)) == ([], ())


def test_a_wish_list_is_bounded(disk: RealDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_WISHES_MAX", 2)
    site = Site(disk)
    held = site.add()
    assert held is not None
    site.want(held.upload, 0, 1, 2, 3)
    site.uploads.pump(1.0)
    assert site.numbers() == [0, 1]
    assert all(len(payload) <= HEADER_BYTES + CHUNK_BYTES for _, payload in site.sent)


# ---------------------------------------------------------------- the ring


@pytest.fixture
def ring() -> Iterator[LogRing]:
    ring = LogRing(("hunter2secret",), bytes_max=4000)
    logger = logging.getLogger("ring-test")
    logger.addHandler(ring)
    yield ring
    logger.removeHandler(ring)


def read(ring: LogRing, since: datetime | None = None) -> list[dict[str, Any]]:
    return [json.loads(line) for _, line in ring.lines(since)]


def test_the_ring_keeps_the_newest_within_its_bytes(ring: LogRing) -> None:
    logger = logging.getLogger("ring-test")
    for number in range(200):
        logger.warning("line %d", number)
    lines = read(ring)
    assert lines[-1]["text"] == "line 199"
    assert lines[-1]["level"] == "warning"
    assert 10 < len(lines) < 200
    assert sum(len(line) for _, line in ring.lines()) <= 4000
    future = datetime.fromtimestamp(4e9, UTC)
    assert read(ring, future) == []


def test_a_line_is_bounded_whatever_is_logged(ring: LogRing) -> None:
    logger = logging.getLogger("ring-test")
    logger.error("\0" * 100_000)
    logger.error("\U0001f600" * 10_000)
    try:
        int("inner")
    except ValueError:
        logger.exception("outer")
    for _, line in ring.lines():
        assert len(line) <= LINE_BYTES_MAX
    assert read(ring)[-1]["text"].startswith("outer\nTraceback")


SECRETS = {
    "ee_0123456789abcdef_" + "S" * 43: "S" * 8,
    "edgectl_0123456789abcdef_" + "S" * 43: "S" * 8,
    "mqtt://user:SSSSSSSS@host/x": "S" * 8,
    "pkcs11:token=x;pin-value=SSSSSSSS": "S" * 8,
    "Authorization: Bearer SSSSSSSSSSSS": "S" * 8,
    "password = SSSSSSSS": "S" * 8,
    "-----BEGIN EC PRIVATE KEY-----\nSSSSSSSS\n-----END EC PRIVATE KEY-----": "S" * 8,
    "-----BEGIN PRIVATE KEY-----\nSSSSSSSS": "S" * 8,
    "given as hunter2secret here": "hunter2secret",
}


@pytest.mark.parametrize("text", SECRETS, ids=range(len(SECRETS)))
def test_no_secret_is_kept(ring: LogRing, text: str) -> None:
    logging.getLogger("ring-test").warning("before %s after", text)
    ((_, line),) = ring.lines()
    assert SECRETS[text] not in line.decode()
    assert "before" in line.decode()
    assert without_secrets("an order of 3 slots: har, token, secret") == (
        "an order of 3 slots: har, token, secret"
    )


def test_hostile_lines_take_no_time() -> None:
    for text in ("://" * 3000, ":" * 8192, "://a:" * 1600, "-----BEGIN PRIVATE KEY-----" * 300):
        assert len(without_secrets(text)) <= len(text)


# ---------------------------------------------------------------- a request for logs


OLD, BAD = digest_of(b"old"), digest_of(b"bad")
RECORDS = [EMPTY, Record(rejected=(OLD,)), Record(rejected=(OLD, BAD), at=START)]
"""The first of them by an agent that kept no times."""


class Desk:
    """A device that is asked for its logs."""

    def __init__(self, disk: Disk, ring: LogRing) -> None:
        self.alarms: list[str] = []
        self.site = Site(disk)
        self.ledger = RequestLedger("pi-1", disk)
        self.lines: list[LogLines] = []
        self.logs = Logs(
            self.ledger,
            ring,
            records=lambda: RECORDS,
            uploads=self.site.uploads,
            reporter=self,
            tail=lambda journal: LogTail(
                "pi-1", ring, journal=journal, bytes_per_s=2**20, send=self.took
            ),
        )

    def took(self, lines: LogLines) -> bool:
        self.lines.append(lines)
        return True

    def follow(self, counter: int, **changes: Any) -> None:
        request = LogFollowRequest(
            device="pi-1",
            follow="f" * 16,
            counter=counter,
            nonce="a" * 32,
            issued_at=START,
            expires_at=START + timedelta(minutes=2),
            for_s=60,
        )
        request = msgspec.structs.replace(request, **changes)
        self.logs.follow(RequestArrived(request=request, key="a", keys=("a",)), NOW)

    def alarm(self, reason: Reason, moment: Moment) -> None:
        self.alarms.append(reason.code)

    def ask(self, counter: int = 1, **changes: Any) -> None:
        request = LogRequest(
            device="pi-1",
            job=f"{counter:016x}",
            counter=counter,
            nonce=f"{counter:032x}",
            issued_at=START,
            expires_at=START + timedelta(minutes=2),
        )
        request = msgspec.structs.replace(request, **changes)
        self.logs.take(RequestArrived(request=request, key="a", keys=("a",)), NOW)


def test_logs_are_offered_to_who_has_asked(disk: RealDisk, ring: LogRing) -> None:
    desk = Desk(disk, ring)
    logging.getLogger("ring-test").warning("something happened")
    desk.ask(7)
    (held,) = desk.site.offered
    assert held.request == UploadAnswer(job=f"{7:016x}", nonce=f"{7:032x}")
    content = gzip.decompress(disk.read(f"uploads/{hex_of(held.upload)}"))
    lines = [json.loads(line) for line in content.splitlines()]
    assert [line["text"] for line in lines[:2]] == [
        f"remembered as bad: {OLD}", f"remembered as bad: {BAD}",
    ]  # fmt: skip
    times = [line["time"] for line in lines]
    assert (times[0], times[1:]) == (None, sorted(times[1:]))
    assert lines[-1]["text"] == "something happened"
    assert desk.alarms == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"device": "pi-2"}, "request.device"),
        ({"counter": 5}, "request.replayed"),
        ({"expires_at": START}, "request.expired"),
        ({"issued_at": START + timedelta(days=2)}, "request.clock"),
    ],
)
def test_what_is_refused_is_an_alarm(
    disk: RealDisk, ring: LogRing, changes: dict[str, Any], code: str
) -> None:
    desk = Desk(disk, ring)
    desk.ask(5)
    desk.ask(**({"counter": 6} | changes))
    assert desk.alarms == [code]
    assert len(desk.site.offered) == 1
    assert log_ring.RING_BYTES_MAX == 256 * 1024


def test_a_request_is_taken_once_across_a_restart(disk: RealDisk, ring: LogRing) -> None:
    Desk(disk, ring).ask(5)
    again = Desk(disk, ring)
    again.ask(5)
    assert again.alarms == ["request.replayed"]


def test_who_follows_is_judged_as_who_asks(disk: RealDisk, ring: LogRing) -> None:
    """One count for all requests; what is refused sends nothing, and is told."""
    desk = Desk(disk, ring)
    logging.getLogger("ring-test").warning("before")
    desk.ask(5)
    for changes, code in (
        ({"device": "pi-2"}, "request.device"),
        ({"counter": 5}, "request.replayed"),
        ({"expires_at": START}, "request.expired"),
        (
            {"issued_at": START + timedelta(days=2), "expires_at": START + timedelta(days=3)},
            "request.clock",
        ),
    ):
        desk.follow(**({"counter": 6} | changes))
        assert desk.alarms[-1] == code
    desk.logs.pump(NOW)
    assert desk.lines == []
    desk.follow(6)
    desk.logs.pump(NOW)
    assert desk.lines[0].lines[-1].text == "before"
    assert (desk.lines[0].follow, desk.lines[0].nonce) == ("f" * 16, "a" * 32)
    restarted = Desk(disk, ring)
    restarted.follow(6)
    assert restarted.alarms == ["request.replayed"], "also after a restart"
