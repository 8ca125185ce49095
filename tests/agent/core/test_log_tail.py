"""Log lines to somebody who looks: bounded, counted, and nothing when nobody does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta

import msgspec
import pytest

from agent.core.made import START
from edgectl_agent import log_tail
from edgectl_agent.core.timing import Moment
from edgectl_agent.log_ring import LogRing
from edgectl_agent.log_tail import CONTEXT_LINES, INTERVAL_S, JOURNAL_S, LogTail, Timed
from edgectl_protocol.log_lines import LINES_BYTES_MAX, LogFollowRequest, LogLine, LogLines
from edgectl_protocol.messages import REPORT_BYTES_MAX, encode

LOGGER = logging.getLogger("tail-test")


class Site:
    """A tail, and who listens."""

    def __init__(self, ring: LogRing, *, bytes_per_s: int = 2**30) -> None:
        self.ring = ring
        self.elapsed_s = 0.0
        self.sent: list[LogLines] = []
        self.room = True
        self.asked = 0
        self.told: list[Timed] = []
        self.tail = LogTail(
            "pi-1", ring, journal=self.journal, bytes_per_s=bytes_per_s, send=self.send
        )

    def journal(self, _since: object) -> list[Timed]:
        self.asked += 1
        return self.told

    def send(self, lines: LogLines) -> bool:
        if self.room:
            self.sent.append(lines)
        return self.room

    def follow(self, follow: str = "f" * 16, for_s: int = 60) -> None:
        request = LogFollowRequest(
            device="pi-1",
            follow=follow,
            counter=1,
            nonce="a" * 32,
            issued_at=START,
            expires_at=START,
            for_s=for_s,
        )
        self.tail.take(request, self.moment())

    def moment(self) -> Moment:
        return Moment(START + timedelta(seconds=self.elapsed_s), self.elapsed_s)

    def pump(self, seconds: float = 2 * INTERVAL_S) -> list[str]:
        """Let time pass; return the texts that were sent."""
        before = len(self.sent)
        self.elapsed_s += seconds
        self.tail.pump(self.moment())
        return [line.text for one in self.sent[before:] for line in one.lines]


@pytest.fixture
def ring() -> Iterator[LogRing]:
    handler = LogRing(bytes_max=64 * 1024)
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    yield handler
    LOGGER.removeHandler(handler)


def test_nothing_is_looked_at_while_nobody_looks(
    ring: LogRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_position: int) -> None:
        raise AssertionError("the ring was looked at")

    site = Site(ring)
    monkeypatch.setattr(ring, "after", never)
    for _ in range(100):
        LOGGER.info("a line")
        site.pump()
    assert (site.sent, site.asked) == ([], 0)


def test_the_last_lines_come_first_and_new_ones_as_they_come(ring: LogRing) -> None:
    site = Site(ring)
    for number in range(CONTEXT_LINES + 5):
        LOGGER.info("old %d", number)
    site.follow()
    assert site.pump() == [f"old {number}" for number in range(5, CONTEXT_LINES + 5)]
    assert site.pump() == []
    LOGGER.warning("new")
    assert site.pump() == ["new"]
    assert [one.number for one in site.sent] == [1, 2]
    assert site.sent[1].first == CONTEXT_LINES


def test_it_ends_by_itself_and_when_it_is_told(ring: LogRing) -> None:
    site = Site(ring)
    site.follow(for_s=10)
    site.pump(9)
    site.follow(for_s=10)
    site.pump(9)
    assert site.tail.active, "a second request goes on with it"
    site.pump(1)
    LOGGER.info("too late")
    assert site.pump() == []
    site.follow()
    site.follow("e" * 16, for_s=0)
    assert site.tail.active, "the end of another one"
    site.follow(for_s=0)
    assert not site.tail.active


def test_what_has_no_room_is_counted_and_what_has_none_yet_waits(ring: LogRing) -> None:
    site = Site(ring)
    site.follow()
    site.room = False
    for number in range(2000):
        LOGGER.info("%d %s", number, "x" * 400)
    assert site.pump() == []
    site.room = True
    texts = []
    while batch := site.pump():
        texts += batch
    numbers = [int(text.split()[0]) for text in texts if text[0].isdigit()]
    assert numbers == list(range(numbers[0], 2000)), "the newest, in order"
    assert site.sent[0].first == numbers[0], "as many as are missing"
    assert all(len(encode(one)) <= REPORT_BYTES_MAX for one in site.sent)
    size = sum(len(msgspec.json.encode(line)) for line in site.sent[0].lines)
    assert size <= LINES_BYTES_MAX


def test_it_is_no_faster_than_was_set(ring: LogRing) -> None:
    site = Site(ring, bytes_per_s=1000)
    site.follow()
    for number in range(100):
        LOGGER.info("%d %s", number, "x" * 400)
    first = site.pump()
    bytes_sent = sum(len(msgspec.json.encode(line)) for line in site.sent[0].lines)
    assert first
    assert site.pump(bytes_sent / 1000 - 1) == []
    assert site.pump(2)


def test_it_ends_when_it_has_sent_enough(ring: LogRing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_tail, "BYTES_MAX", 10_000)
    site = Site(ring)
    site.follow()
    for _ in range(60):
        LOGGER.info("x" * 400)
        site.pump()
    assert site.sent[-1].ended
    assert not site.tail.active
    assert not any(one.ended for one in site.sent[:-1])


def test_what_the_journal_tells_comes_between_the_lines(ring: LogRing) -> None:
    site = Site(ring)
    site.follow()
    at = START + timedelta(seconds=1)
    line = LogLine(time=at, level="info", logger="journal", text="activity 2: committed")
    site.told = [(START - timedelta(days=1), b"{"), (at, msgspec.json.encode(line))]
    assert site.pump() == []
    assert site.pump(JOURNAL_S) == ["activity 2: committed"]
    assert site.pump(JOURNAL_S) == [], "once"
