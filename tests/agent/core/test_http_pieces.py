"""The HTTP source against a server that does everything wrong that can be done wrong."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime

import pytest

from agent.core import faulty_http as faulty
from agent.core.faulty_http import FaultyHttp
from edgectl_agent import http_pull
from edgectl_agent.core.pacing import Pacer
from edgectl_agent.core.pulling import BadAnswer, Cutter, Span, next_span, starts_at
from edgectl_agent.errors import StepCancelled, UsageError
from edgectl_agent.http_pieces import HttpPieces
from edgectl_agent.http_pull import HttpClient, parse_address
from edgectl_agent.pieces import SourceFailed, Want
from edgectl_agent.pull_proof import make_proof
from edgectl_protocol.chunks import CHUNK_BYTES
from edgectl_protocol.names import digest_of
from edgectl_protocol.pulls import parse_pull
from waiting import wait_for

CONTENT = random.Random(1).randbytes(5 * CHUNK_BYTES + 1000)
CHUNKS = [CONTENT[at : at + CHUNK_BYTES] for at in range(0, len(CONTENT), CHUNK_BYTES)]
PATH = f"/v2/models/har/blobs/{digest_of(CONTENT)}"


class Key:
    key_id = "0" * 64

    def sign(self, content: bytes) -> bytes:
        return bytes(range(70))


PROOF = make_proof("pi-1", Key(), now=lambda: datetime(2026, 11, 29, tzinfo=UTC))


@pytest.fixture
def server():
    server = FaultyHttp({PATH: CONTENT})
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(http_pull, "CONNECT_S", 0.6)
    monkeypatch.setattr(http_pull, "HEAD_S_MAX", 0.8)
    monkeypatch.setattr(http_pull, "STALL_S", 0.8)
    monkeypatch.setattr(http_pull, "_WATCH_S", 0.05)


@pytest.fixture
def patient(monkeypatch, hasty):
    """Where no wait is the matter: what a busy machine holds up for a second is no stall."""
    for name in ("CONNECT_S", "HEAD_S_MAX", "STALL_S"):
        monkeypatch.setattr(http_pull, name, 30.0)


class Download:
    """Some chunks that are there, and a source that brings the rest."""

    def __init__(self, address: str, here: tuple[int, ...] = (), **options) -> None:
        self.got = {number: CHUNKS[number] for number in here}
        self.alarms: list[str] = []
        self.waits: list[float] = []
        self.now = 0.0
        self.want = Want(
            digest_of(CONTENT),
            path=PATH,
            length=len(CONTENT),
            missing=[number for number in range(len(CHUNKS)) if number not in here],
            expected=lambda number: bytes.fromhex(digest_of(CHUNKS[number])[7:]),
            accept=self.accept,
        )
        self.source = HttpPieces(
            HttpClient(address, proof=PROOF),
            alarm=lambda reason: self.alarms.append(reason.code),
            elapsed=lambda: self.now,
            sleep=self.sleep,
            **options,
        )

    def accept(self, number: int, chunk: bytes) -> None:
        assert number not in self.got, f"chunk {number} was written twice"
        self.got[number] = chunk

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def run(self, *, alone: bool = False, cancelled=lambda: False) -> str:
        """Return the code of the failure, or nothing."""
        try:
            self.source.fetch(self.want, alone=alone, cancelled=cancelled, pause=lambda: None)
        except SourceFailed as failure:
            return failure.reason.code if self.source.name in failure.reason.detail else "unnamed"
        assert b"".join(self.got[number] for number in range(len(CHUNKS))) == CONTENT
        return ""


@pytest.mark.usefixtures("patient")
def test_only_what_is_missing_is_asked_for(server):
    download = Download(server.address, here=(0, 2, 3))
    assert download.run() == ""
    assert [one.span for one in server.asked] == [
        (CHUNK_BYTES, 2 * CHUNK_BYTES),
        (4 * CHUNK_BYTES, len(CONTENT)),
    ]
    assert download.source.bytes_received == len(CONTENT) - 3 * CHUNK_BYTES
    wait_for(lambda: server.body_bytes == download.source.bytes_received, "the server's count")
    proof = parse_pull(server.asked[0].headers["authorization"])
    assert (proof.device, proof.at) == ("pi-1", 1795910400)
    assert server.asked[0].headers["accept-encoding"] == "identity"


OVERCOME = {
    "the whole instead of a part": faulty.whole,
    "broken off in a chunk": faulty.truncated(100_000),
    "broken off between chunks": faulty.truncated(2 * CHUNK_BYTES),
    "broken off at once": faulty.truncated(0),
    "no answer": faulty.silent,
    "half an answer": faulty.silent_in_the_body,
    "a head byte by byte": faulty.drip(b"HTTP/1.1 206 x\r\nX: "),
    "a body byte by byte": faulty.drip(
        faulty.head(200, Content_Length=len(CONTENT)),
    ),
    "headers without end": faulty.many_headers,
    "a header without end": faulty.long_header,
    "no HTTP": faulty.garbage,
    "nothing": faulty.hang_up,
    "busy": faulty.answer(503, Retry_After=2),
    "too many": faulty.answer(429, Retry_After="Sun, 29 Nov 2026 00:00:00 GMT"),
    "an error": faulty.answer(500),
    "a tag that has changed": faulty.partial(ETag='"other"'),
    "no total": faulty.partial(Content_Range=f"bytes {CHUNK_BYTES}-{len(CONTENT) - 1}/*"),
    "without end": faulty.endless,
}


@pytest.mark.parametrize("name", OVERCOME)
def test_what_is_overcome(server, name):
    """One request goes wrong; the download does not, and no chunk that is here is written again."""
    server.faults = [OVERCOME[name]]
    download = Download(server.address, here=(0,))
    assert download.run() == ""
    assert download.alarms == []


@pytest.mark.usefixtures("patient")
def test_what_came_before_it_broke_off_is_not_fetched_again(server):
    server.faults = [faulty.truncated(100_000), faulty.truncated(100_000)]
    download = Download(server.address)
    assert download.run() == ""
    assert [one.span[0] for one in server.asked] == [0, CHUNK_BYTES, 2 * CHUNK_BYTES]
    again = server.body_bytes - len(CONTENT)
    assert again == 2 * (100_000 - CHUNK_BYTES)  # no more than the chunk in which it broke


GIVEN_UP = {
    "login": (faulty.answer(401), "transfer.refused"),
    "forbidden": (faulty.answer(403), "transfer.refused"),
    "not there": (faulty.answer(404), "transfer.refused"),
    "no such range": (faulty.answer(416, Content_Range="bytes */5"), "transfer.refused"),
    "not modified": (faulty.answer(304), "transfer.refused"),
    "no content": (faulty.answer(204), "transfer.refused"),
    "another part": (faulty.partial(Content_Range=f"bytes 0-{CHUNK_BYTES}/328680"),
                     "transfer.refused"),
    "another total": (faulty.partial(Content_Range="bytes 0-328679/400000"), "transfer.refused"),
    "more than was asked": (faulty.partial(Content_Range="bytes 0-328680/328680"),
                            "transfer.refused"),
    "no Content-Range": (faulty.partial(Content_Range="none"), "transfer.refused"),
    "another length": (faulty.partial(Content_Length=7), "transfer.refused"),
    "no length": (faulty.partial(Content_Length="-1"), "transfer.refused"),
    "compressed": (faulty.partial(Content_Encoding="gzip"), "transfer.refused"),
    "another whole": (faulty.answer(200), "transfer.refused"),
    "altered": (faulty.altered, "transfer.chunk_altered"),
    "a long wait": (faulty.answer(503, Retry_After=600), "transfer.stalled"),
    "redirected to a file": (faulty.answer(302, Location="file:///etc/passwd"),
                             "transfer.refused"),
    "redirected to nowhere": (faulty.answer(302), "transfer.refused"),
    "redirected to FTP": (faulty.answer(302, Location="ftp://127.0.0.1/x"), "transfer.refused"),
    "redirected with a name": (faulty.answer(302, Location="http://a:b@127.0.0.1/x"),
                               "transfer.refused"),
    "redirected to no port": (faulty.answer(302, Location="http://127.0.0.1:99999/x"),
                              "transfer.refused"),
    "redirected for ever": (faulty.answer(302, Location=PATH), "transfer.refused"),
}  # fmt: skip


@pytest.mark.parametrize("name", GIVEN_UP)
def test_what_ends_the_turn_of_a_source(server, name):
    """What is here stays, and nobody asks such a source again at once."""
    fault, code = GIVEN_UP[name]
    server.faults = [fault] * 9
    download = Download(server.address, here=(1,) if name == "altered" else ())
    assert download.run() == code
    assert len(server.asked) == (4 if name == "redirected for ever" else 1)
    assert set(download.got) <= {1}
    assert download.alarms == ([code] if name == "altered" else [])


def test_trouble_that_stays(server):
    server.faults = [faulty.answer(500)] * 9
    download = Download(server.address)
    assert download.run() == "transfer.stalled"
    assert len(server.asked) == 3
    server.faults = [faulty.answer(503, Retry_After=100)]
    download = Download(server.address)
    assert download.run(alone=True) == ""
    assert sum(download.waits) == pytest.approx(100, abs=1)


def test_a_server_that_is_not_there():
    assert Download("http://127.0.0.1:1").run() == "transfer.stalled"


@pytest.mark.usefixtures("patient")
def test_redirects_go_elsewhere_without_the_proof(server):
    other = FaultyHttp({"/cdn/x": CONTENT})
    try:
        server.faults = [faulty.answer(307, Location=f"{other.address}/cdn/x")]
        assert Download(server.address).run() == ""
        assert "authorization" in server.asked[0].headers
        assert "authorization" not in other.asked[0].headers
        assert other.asked[0].span == (0, len(CONTENT))
    finally:
        other.stop()
    moved = PATH.replace("har", "moved")
    server.content[moved] = CONTENT
    server.faults = [faulty.answer(308, Location=moved)]
    assert Download(server.address).run() == ""
    assert server.asked[-1].path == moved
    assert "authorization" in server.asked[-1].headers  # the same origin: signed for the new path


@pytest.mark.usefixtures("patient")
def test_a_clock_that_is_wrong_is_set_by_the_server_for_this_alone(server):
    refusal = b'{"errors":[{"detail":{"code":"pull.clock"}}]}'

    def skewed(_server, connection, _asked):
        date = "Mon, 30 Nov 2026 00:00:00 GMT"
        connection.sendall(faulty.head(401, Date=date, Content_Length=len(refusal)) + refusal)

    server.faults = [skewed]
    assert Download(server.address).run() == ""
    first, second = (parse_pull(one.headers["authorization"]).at for one in server.asked)
    assert 86400 <= second - first <= 86402
    server.faults = [skewed, skewed]
    assert Download(server.address).run() == "transfer.refused"


def test_a_step_that_is_cancelled_ends_soon(server, monkeypatch):
    monkeypatch.setattr(http_pull, "CONNECT_S", 600.0)
    monkeypatch.setattr(http_pull, "HEAD_S_MAX", 600.0)
    for fault in (faulty.silent, faulty.silent_in_the_body):
        server.faults = [fault]
        cancel = threading.Event()
        threading.Timer(0.2, cancel.set).start()
        with pytest.raises(StepCancelled):
            Download(server.address).run(cancelled=cancel.is_set)


@pytest.mark.usefixtures("patient")
def test_a_bound_on_bytes_per_second(server):
    download = Download(server.address, pacer=Pacer(CHUNK_BYTES))
    assert download.run() == ""
    assert sum(download.waits) == pytest.approx(len(CONTENT) / CHUNK_BYTES - 1, abs=0.1)


def test_the_pacer_lets_a_second_s_worth_through_at_once():
    pacer = Pacer(1000)
    assert pacer.spend(1000, 100.0) == 0
    assert pacer.spend(500, 100.0) == pytest.approx(0.5)
    assert pacer.spend(0, 101.0) == 0
    assert Pacer(0).spend(10**12, 0.0) == 0


def test_cutting_in_any_pieces():
    world = random.Random(2)
    for start in (0, 1, 5):
        cutter, rest = Cutter(len(CONTENT), start * CHUNK_BYTES), CONTENT[start * CHUNK_BYTES :]
        found, at = {}, 0
        while at < len(rest):
            step = world.choice((1, 7, 5000, 65536, 200_000))
            found |= dict(cutter.feed(rest[at : at + step]))
            at += step
        assert list(cutter.feed(b"more than there is")) == []
        assert found == dict(list(enumerate(CHUNKS))[start:])


def test_spans_and_heads():
    assert next_span((0, 1, 3), len(CONTENT)) == Span(0, 2 * CHUNK_BYTES)
    assert next_span((5,), len(CONTENT)) == Span(5 * CHUNK_BYTES, len(CONTENT))
    good = {"Content-Range": "bytes 0-9/100", "Content-Length": "10"}
    assert starts_at(206, good, Span(0, 20), 100) == 0  # fewer than asked: the rest is asked later
    for wrong in (
        {"Content-Range": "bytes 0-20/100"},
        {"Content-Range": "bytes 1-9/100"},
        {"Content-Range": "bytes 0-9/99"},
        {"Content-Range": "bytes 9-0/100"},
        {"Content-Range": "bytes 0-9/100, 20-29/100"},
        {"Content-Range": "bytes 0-" + "9" * 40 + "/100"},
        {"Content-Length": "11"},
        {"Content-Length": "1e1"},
        {"Content-Encoding": "br"},
    ):
        with pytest.raises(BadAnswer):
            starts_at(206, good | wrong, Span(0, 20), 100)


@pytest.mark.parametrize(
    "address",
    ["", "host:80", "ftp://host", "file:///etc/passwd", "http://", "http://u:p@host",
     "http://host:0", "http://host:99999", "http://host/?x=1", "http://[::1", "http://host#f"],
)  # fmt: skip
def test_addresses_that_are_none(address):
    with pytest.raises(UsageError):
        parse_address(address)
