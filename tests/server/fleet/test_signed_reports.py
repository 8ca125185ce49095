"""What a lying broker, or another device, can make the server believe of a device: nothing.

Each attack is put into the intake as the broker would, beside the honest message; the same code
runs between real processes in tests/e2e.
"""

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import func, select

from edgectl_protocol import topics
from edgectl_protocol.compression import COMPRESSED, compress
from edgectl_protocol.messages import (
    MESSAGE_BYTES_MAX,
    PAYLOAD_TYPES,
    REPORT_BYTES_MAX,
    Reason,
    ReportedState,
    SecurityEvent,
    TelemetryBatch,
    encode,
)
from edgectl_server import security as security_module
from edgectl_server.device_filter import DeviceFilter
from edgectl_server.errors import NotFound
from edgectl_server.storage.paging import PageQuery
from edgectl_server.storage.tables import Device, DeviceEventRow, SecurityEventRow
from server.fleet.test_intake import (  # noqa: F401  # fixtures
    KEY,
    NONCE,
    Line,
    clock,
    event,
    line,
    parts,
    shown,
    told,
)
from signed import key_id, seal
from waiting import wait_for

OTHER = ec.generate_private_key(ec.SECP256R1())
STATE, EVENT = PAYLOAD_TYPES[ReportedState], "application/vnd.edgectl.event.v1+json"
PAGE = PageQuery("", "", 0, 100)


def state(**fields) -> ReportedState:
    given = {"device": "pi-1", "boot": 5, "seq": 7, "online": True, "agent_version": "forged"}
    return ReportedState(**(given | fields))


def altered() -> bytes:
    """Signed by the device, and one letter changed on the way."""
    from base64 import b64decode, b64encode
    from json import dumps, loads

    document = loads(seal(KEY, state()))
    payload = b64decode(document["payload"]).replace(b"forged", b"Forged")
    return dumps({**document, "payload": b64encode(payload).decode()}).encode()


def twice_signed() -> bytes:
    from json import dumps, loads

    document = loads(seal(KEY, state()))
    document["signatures"] *= 2
    return dumps(document).encode()


class Attack(NamedTuple):
    name: str
    payload: Callable[[], bytes]
    code: str


ATTACKS = [
    Attack("unsigned", lambda: encode(state()), "report.unsigned"),
    Attack("no envelope", lambda: b"[" * 50_000, "report.unsigned"),
    Attack("too long", lambda: b" " * (MESSAGE_BYTES_MAX + 1), "report.unsigned"),
    Attack("no signature", lambda: b'{"payload":"e30=","payloadType":"a","signatures":[]}',
           "report.unsigned"),
    Attack("signed by another device", lambda: seal(OTHER, state()), "report.key"),
    Attack("signed by another device in the name of this key",
           lambda: seal(OTHER, state(), keyid=key_id(KEY)), "report.signature"),
    Attack("a key id that no database takes", lambda: seal(OTHER, state(), keyid="\0"),
           "report.key"),
    Attack("altered", altered, "report.signature"),
    Attack("a state that is compressed",
           lambda: seal(KEY, compress(encode(state())), STATE + COMPRESSED), "report.type"),
    Attack("two signatures", twice_signed, "report.key"),
    Attack("an event on the topic of the state", lambda: seal(KEY, event(1)), "report.type"),
    Attack("signed as another kind", lambda: seal(KEY, encode(state()), EVENT), "report.type"),
    Attack("signed, and nonsense", lambda: seal(KEY, b"{}", STATE), "report.malformed"),
    Attack("signed, for another name", lambda: seal(KEY, state(device="pi-2")), "report.device"),
]  # fmt: skip


def noted(parts: SimpleNamespace, device: str | None = "pi-1") -> dict[str, int]:  # noqa: F811
    parts.security.flush()
    return {one.code: one.count for one in parts.security.page(PAGE, device=device).items}


@pytest.mark.parametrize("attack", [pytest.param(one, id=one.name) for one in ATTACKS])
def test_what_is_not_signed_by_the_device_changes_nothing(parts, line, attack: Attack) -> None:  # noqa: F811
    line.state(agent_version="honest")
    line.send(topics.state("pi-1"), attack.payload())
    wait_for(lambda: parts.intake.dropped[attack.code] == 1)
    assert shown(parts, "pi-1") == (True, 1, "honest")
    assert noted(parts) == {attack.code: 1}
    assert noted(parts, "pi-2") == {}
    (one,) = parts.security.page(PAGE).items
    assert (one.device, one.source) == ("pi-1", "server")
    assert parts.fleet.summary().security == parts.fleet.device("pi-1").security_events == 1
    assert parts.fleet.devices(PAGE, DeviceFilter(security=True)).total == 1


def test_what_a_newer_agent_says_is_no_attack(parts, line) -> None:  # noqa: F811
    newer = "application/vnd.edgectl.verdict.v1+json"
    line.send(topics.event("pi-1"), seal(KEY, b'{"device":"pi-1"}', newer))
    wait_for(lambda: parts.intake.dropped["unknown"] == 1)
    assert noted(parts) == {}
    line.send(topics.event("pi-1"), seal(OTHER, b'{"device":"pi-1"}', newer))
    wait_for(lambda: parts.intake.dropped["report.key"] == 1)
    assert noted(parts) == {"report.key": 1}


def batch(seq: int) -> bytes:
    return encode(told(seq, waits_boot=1, waits_seq=seq))


PACKED = PAYLOAD_TYPES[TelemetryBatch] + COMPRESSED


def test_compressed_telemetry_is_what_it_was_before(parts, line) -> None:  # noqa: F811
    line.send(topics.telemetry("pi-1"), seal(KEY, compress(batch(1)), PACKED))
    line.send(topics.telemetry("pi-1"), seal(KEY, batch(1), PAYLOAD_TYPES[TelemetryBatch]))
    line.send(topics.telemetry("pi-1"), seal(KEY, compress(batch(2)), PACKED))
    wait_for(lambda: len(line.acks) == 3)
    (boot,) = parts.receipts.show("pi-1").boots
    assert (boot.received, boot.duplicates, boot.last) == (2, 1, 2)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        batch(1),
        compress(batch(1))[:-1],
        compress(batch(1)) + b"x",
        compress(compress(batch(1))),
        compress(batch(1)[:-1] + b" " * REPORT_BYTES_MAX + b"}"),
        compress(bytes(50_000_000)),
    ],
    ids=["nothing", "plain", "cut off", "with a tail", "twice", "a little long", "a bomb"],
)
def test_what_is_compressed_otherwise_is_not_believed(parts, line, payload: bytes) -> None:  # noqa: F811
    line.send(topics.telemetry("pi-1"), seal(KEY, payload, PACKED))
    wait_for(lambda: parts.intake.dropped["report.malformed"] == 1)
    assert parts.receipts.show("pi-1").boots == []


def test_a_flood_of_lies_is_one_row(parts, line) -> None:  # noqa: F811
    for _ in range(300):
        line.send(topics.state("pi-1"), b"{}")
    wait_for(lambda: parts.intake.dropped["report.unsigned"] == 300)
    assert noted(parts) == {"report.unsigned": 300}
    for _ in range(20):
        line.send(topics.state("pi-1"), b"{}")
    wait_for(lambda: parts.intake.dropped["report.unsigned"] == 320)
    assert noted(parts) == {"report.unsigned": 320}
    with parts.database.read() as session:
        assert session.scalar(select(func.count()).select_from(SecurityEventRow)) == 1


def test_lies_about_many_devices_are_bounded_too(parts, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setattr(security_module, "NOTED_MAX", 10)
    for number in range(50):
        parts.security.note(f"pi-{number}", "report.unsigned", "x" * 5000)
    assert len(parts.security._noted) == 10
    parts.security.flush()
    assert noted(parts) == {"report.unsigned": 1}  # the others are no devices of ours


def test_an_old_state_is_not_news_and_a_very_old_one_is_an_event(parts, line, clock) -> None:  # noqa: F811
    old = [state(seq=number, sent_at=clock() + timedelta(minutes=number)) for number in range(30)]
    line.send(topics.state("pi-1"), old[20])
    for resent in (old[20], old[19], old[12]):  # a broker that was not acknowledged
        line.send(topics.state("pi-1"), resent)
    wait_for(lambda: len(line.done) == 4)
    assert noted(parts) == {}
    line.send(topics.state("pi-1"), old[3], retained=True)
    line.send(topics.state("pi-1"), old[4])
    wait_for(lambda: len(line.done) == 6)
    assert noted(parts) == {"report.replayed": 2}
    assert shown(parts, "pi-1")[1] == 20


def test_the_key_of_a_machine_before_does_not_count(parts, line) -> None:  # noqa: F811
    """Its state may still be retained: that is no attack until the new machine was heard."""
    line.state(agent_version="before")
    with parts.database.write() as session:
        device = session.get_one(Device, "pi-1")
        device.public_key_sha256, device.last_seen_at = key_id(OTHER), None
        device.boot = device.seq = 0
        device.reported = {}
    line.send(topics.state("pi-1"), state(), retained=True)
    wait_for(lambda: parts.intake.dropped["report.key"] == 1)
    assert noted(parts) == {}
    line.send(topics.state("pi-1"), state())
    wait_for(lambda: parts.intake.dropped["report.key"] == 2)
    assert noted(parts) == {"report.key": 1}
    assert shown(parts, "pi-1") == (True, 0, "before")


NONCES = [
    pytest.param(1, NONCE, 0, id="the right one"),
    pytest.param(1, "0" * 32, 1, id="another"),
    pytest.param(1, None, 1, id="none"),
    pytest.param(2, NONCE, 1, id="of an order that was never issued"),
    pytest.param(0, None, 0, id="no order yet"),
]


@pytest.mark.parametrize(("counter", "nonce", "complaints"), NONCES)
def test_a_state_tells_the_nonce_of_its_order(parts, line, counter, nonce, complaints) -> None:  # noqa: F811
    line.state(agent_version="a", order_counter=counter, order_nonce=nonce)
    assert noted(parts) == ({"report.nonce": 1} if complaints else {})
    assert shown(parts, "pi-1")[2] == "a"  # it is shown; tests of the rollouts: it is not believed


def test_an_event_of_another_order_with_the_same_number_is_not_stored(parts, line) -> None:  # noqa: F811
    line.send(topics.event("pi-1"), event(1))
    line.send(topics.event("pi-1"), event(2, nonce="0" * 32))
    wait_for(lambda: len(line.acks) == 2)  # acknowledged all the same: it is of no use to send it
    with parts.database.read() as session:
        assert session.scalars(select(DeviceEventRow.seq)).all() == [1]
    assert noted(parts) == {"report.nonce": 1}


def test_a_security_event_is_stored_once_and_acknowledged_each_time(parts, line, clock) -> None:  # noqa: F811
    reason = Reason(code="order.replayed", detail="number 3, 4 was accepted before")
    told = SecurityEvent(
        device="pi-1", boot=1, seq=9, at=clock(), until=clock(), reason=reason, count=4, order=3
    )
    for _ in range(3):
        line.send(topics.event("pi-1"), told)
    wait_for(lambda: line.acks == [(topics.ack("pi-1"), 1, 9)] * 3)
    (one,) = parts.security.page(PAGE, device="pi-1").items
    assert (one.source, one.code, one.count, one.order) == ("device", "order.replayed", 4, 3)
    assert parts.security.page(PageQuery("replayed", "-at", 0, 5)).total == 1
    assert parts.security.page(PageQuery("nothing like it", "", 0, 5)).total == 0
    with pytest.raises(NotFound):
        parts.security.page(PAGE, device="pi-9")


def test_security_events_are_kept_for_a_while_and_not_too_many(parts, clock, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setattr(security_module, "PER_DEVICE_MAX", 5)
    parts.security.note("pi-1", "report.unsigned", "long ago")
    parts.security.flush()
    clock.advance(days=29)
    for number in range(12):
        parts.security.note("pi-2", f"report.n{number}", "x")
        parts.security.flush()
        clock.advance(seconds=1)
    parts.security.delete_old()
    assert {one.code for one in parts.security.page(PAGE, device="pi-2").items} == {
        f"report.n{number}" for number in range(7, 12)
    }
    assert parts.security.page(PAGE, device="pi-1").total == 1
    clock.advance(days=2)
    parts.security.delete_old()
    assert parts.security.page(PAGE, device="pi-1").total == 0
    assert parts.fleet.summary().security == 0
