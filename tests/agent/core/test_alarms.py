"""Security events of the device: the first at once, the rest counted, and none of them invented."""

from __future__ import annotations

import queue
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.core.test_lying_broker import LyingBroker, issue
from edgectl_agent.alarms import ALARMING, PERIOD_S, Alarms
from edgectl_agent.clock import now
from edgectl_agent.connection import Connection, Endpoint
from edgectl_agent.core.timing import Moment
from edgectl_agent.device_key import FileKey
from edgectl_agent.spool import SECURITY_MAX, Spool
from edgectl_protocol.messages import Reason, SecurityEvent, decode
from edgectl_server.signing.authority import Authority

START = datetime(2031, 5, 6, tzinfo=UTC)


def at(seconds: float) -> Moment:
    return Moment(START + timedelta(seconds=seconds), seconds)


def replayed(detail: str = "number 3, 4 was accepted before") -> Reason:
    return Reason(code="order.replayed", detail=detail)


class Told:
    """What was spooled."""

    def __init__(self) -> None:
        self.events: list[SecurityEvent] = []
        self.alarms = Alarms("pi-1", 7, self._put)

    def _put(self, make: Callable[[int], SecurityEvent]) -> None:
        self.events.append(make(len(self.events) + 1))

    def counts(self) -> list[tuple[str, int]]:
        return [(one.reason.code, one.count) for one in self.events]


def test_the_first_is_told_at_once_and_the_others_are_counted() -> None:
    told = Told()
    told.alarms.note(replayed(), at(10), order=3)
    (first,) = told.events
    assert (first.device, first.boot, first.count, first.order) == ("pi-1", 7, 1, 3)
    assert first.at == first.until == at(10).wall
    for second in range(11, 111):
        told.alarms.note(replayed(f"the one of second {second}"), at(second))
        told.alarms.pump(second)
    assert len(told.events) == 1
    told.alarms.pump(10 + PERIOD_S)
    assert told.counts()[1:] == [("order.replayed", 100)]
    second = told.events[1]
    assert (second.at, second.until) == (at(11).wall, at(110).wall)
    assert second.reason.detail == "the one of second 110"
    told.alarms.pump(10 + 3 * PERIOD_S)
    assert len(told.events) == 2
    told.alarms.note(replayed(), at(10 + 3 * PERIOD_S))
    assert len(told.events) == 3


def test_an_hour_of_attacks_is_a_dozen_messages_a_kind() -> None:
    told = Told()
    for tenth in range(36000):
        for code in ("order.replayed", "trust.rollback", "transfer.chunk_altered"):
            told.alarms.note(Reason(code=code, detail="x"), at(tenth / 10))
    assert len(told.events) <= 3 * (3600 / PERIOD_S + 1)
    told.alarms.flush()
    assert sum(one.count for one in told.events) == 3 * 36000
    told.alarms.flush()
    assert sum(one.count for one in told.events) == 3 * 36000


def test_a_clock_that_jumps_back_gives_no_time_before_the_other() -> None:
    told = Told()
    told.alarms.note(replayed(), at(0))
    told.alarms.note(replayed(), at(1))
    told.alarms.note(replayed(), Moment(datetime(1970, 1, 1, tzinfo=UTC), 2))
    told.alarms.flush()
    assert told.events[1].at <= told.events[1].until


@pytest.mark.parametrize("code", ["trust.unreachable", "transfer.stalled", "update.aborted"])
def test_what_the_world_does_is_no_alarm(code: str) -> None:
    told = Told()
    told.alarms.note(Reason(code=code, detail="x"), at(0))
    told.alarms.flush()
    assert (code in ALARMING, told.events) == (False, [])


def test_the_spool_holds_so_many_and_drops_the_oldest(tmp_path: Path) -> None:
    spool = Spool(tmp_path, bytes_max=1 << 22, boot=1)
    try:
        alarms = Alarms("pi-1", 1, lambda make: spool.put("security", make))
        for number in range(SECURITY_MAX + 20):
            alarms.note(replayed(), at(number * PERIOD_S))
        kept = [decode(SecurityEvent, one.payload).seq for one in spool.pending(1000)]
        assert kept == list(range(21, SECURITY_MAX + 21))
    finally:
        spool.close()


FAR = timedelta(days=2 * 365)
BROKERS = [
    pytest.param(now() - FAR, now() - FAR, "connection.clock", id="expired"),
    pytest.param(now(), now() + timedelta(days=30), "connection.clock", id="not valid yet"),
    pytest.param(None, now(), "connection.certificate", id="of another authority"),
]


# paho leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")
@pytest.mark.parametrize(("authority_from", "broker_from", "code"), BROKERS)
def test_a_broker_with_a_bad_certificate_is_an_alarm(
    tmp_path: Path, authority_from: datetime | None, broker_from: datetime, code: str
) -> None:
    ours = Authority.open(tmp_path / "pki", authority_from or now())
    other = ours if authority_from else Authority.open(tmp_path / "other", now())
    broker = LyingBroker(other.broker_identity([], broker_from), b"")
    certificate, key = issue(ours, tmp_path)
    endpoint = Endpoint(
        host="127.0.0.1",
        port=broker.listener.getsockname()[1],
        certificate=certificate,
        key=FileKey(key, key.read_bytes()),
        authority=tmp_path / "pki/authority.pem",
        device="pi-1",
    )
    alarms: queue.Queue[Reason] = queue.Queue()
    connection = Connection(
        endpoint,
        will=lambda: ("will", b"gone"),
        on_change=lambda _: None,
        on_distrust=alarms.put,
    )
    connection.start()
    try:
        reason = alarms.get(timeout=60)
        assert reason.code == code
        assert reason.code in ALARMING
    finally:
        connection.stop()
        broker.close()
