"""Messages of devices into both databases: what counts, in which order, and what is dropped.

`Line` stands for the link to the broker: it keeps what was acknowledged and answered. The same code
runs on the real link in test_control_plane.py.
"""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import func, select

from edgectl_protocol import topics
from edgectl_protocol.histograms import LATENCY_EDGES_US
from edgectl_protocol.messages import (
    PAYLOAD_TYPES,
    Ack,
    Capabilities,
    DeviceEvent,
    InferenceWindow,
    Reason,
    ReportedState,
    SeedRequest,
    SlotReport,
    SystemSample,
    TelemetryBatch,
    UpdateReport,
    decode,
)
from edgectl_protocol.names import digest_of
from edgectl_protocol.update import UpdateEvent, UpdateState
from edgectl_protocol.watching import WatchPolicy
from edgectl_server import allowance, missed_states
from edgectl_server import intake as intake_module
from edgectl_server.benchmarks import Benchmarks
from edgectl_server.contracts import Contracts
from edgectl_server.device_uploads import open_device_uploads
from edgectl_server.distribution.link import Incoming
from edgectl_server.features import Features
from edgectl_server.flapping import BREAKS_MAX, GOING, SETTLE_S
from edgectl_server.fleet import Fleet
from edgectl_server.ground_truth import GroundTruth
from edgectl_server.intake import QUEUE_MAX, Intake
from edgectl_server.log_follows import LogFollows
from edgectl_server.measurements import Measurements
from edgectl_server.ordering import Ordering
from edgectl_server.receipts import BOOTS_MAX, Receipts
from edgectl_server.references import References
from edgectl_server.rollouts import Rollouts
from edgectl_server.security import SecurityEvents
from edgectl_server.settings import Settings
from edgectl_server.signing.authority import Authority
from edgectl_server.signing.content_keys import ContentKeys
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.orders import OrderSigner
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    Device,
    DeviceEventRow,
    FeatureWindowRow,
    TelemetryWindow,
)
from edgectl_server.targets import open_targets
from edgectl_server.telemetry import Telemetry
from server.fleet.fleet_helpers import CAPABILITIES, Clock, new_device
from signed import seal
from waiting import wait_for

KEY = ec.generate_private_key(ec.SECP256R1())
NONCE = "5" * 32
TELEMETRY = PAYLOAD_TYPES[TelemetryBatch]


class Line:
    """What would go over the broker."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.done: list[str] = []
        self.acks: list[tuple[str, int, int]] = []
        self.kept: list[tuple[int, int]] = []
        self.seeds: list[SeedRequest] = []
        self.read: list[str] = []

    def read_again(self, asked: list[str]) -> None:
        self.read += asked

    def publish(self, topic: str, payload: bytes, *, timeout_s: float) -> None:
        ack = decode(Ack, payload)
        if ack.capabilities_seq is not None:
            assert (topic, ack.seq) == (topics.ack("pi-1"), 0)
            self.kept.append((ack.boot, ack.capabilities_seq))
            return
        self.acks.append((topic, ack.boot, ack.seq))

    def send(
        self,
        topic: str,
        message,
        *,
        retained: bool = False,
        age_s: float = 1e6,
        stale: bool = False,
    ) -> None:
        """Send a message as the device that it names would; bytes as they are."""
        payload = message if isinstance(message, bytes) else seal(KEY, message)
        done = lambda: self.done.append(topic)  # noqa: E731
        self.intake.put(Incoming(topic, payload, retained, done, age_s, lambda: stale))

    def state(self, *, retained: bool = False, age_s: float = 1e6, **fields) -> None:
        """Send a state and wait until it has been dealt with."""
        fields = {"device": "pi-1", "boot": 1, "seq": 1, "online": True} | fields
        before = len(self.done)
        state = ReportedState(**fields)
        self.send(topics.state(state.device), state, retained=retained, age_s=age_s)
        wait_for(lambda: len(self.done) > before)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def parts(tmp_path: Path, database: Database, clock: Clock) -> SimpleNamespace:
    signer = OrderSigner(Keys.open(tmp_path / "keys"))
    content_keys = ContentKeys.open(tmp_path / "keys")
    ordering = Ordering(database=database, signer=signer, content_keys=content_keys, now=clock)
    authority = Authority.open(tmp_path / "pki", clock())
    targets = open_targets()
    fleet = Fleet(
        database=database,
        ordering=ordering,
        authority=authority,
        broker=None,
        targets=targets,
        now=clock,
    )
    measurements = Measurements(database=database, targets=targets, now=clock)
    benchmarks = Benchmarks(
        database=database,
        measurements=measurements,
        ordering=ordering,
        signer=signer,
        now=clock,
    )
    telemetry = Telemetry(database=database, retention_days=30, now=clock)
    rollouts = Rollouts(database=database, ordering=ordering, now=clock)
    security = SecurityEvents(database=database, retention_days=30, now=clock)
    receipts = Receipts(database=database, retention_days=30, now=clock)
    intake = Intake(
        database=database,
        fleet=fleet,
        telemetry=telemetry,
        features=Features(
            database=database,
            references=References(BlobStore(str(tmp_path / "blobs"))),
            retention_days=30,
            watch=WatchPolicy(),
            now=clock,
        ),
        rollouts=rollouts,
        security=security,
        benchmarks=benchmarks,
        uploads=open_device_uploads(
            Settings(data=str(tmp_path)), database, owners={}, now=clock, wake=lambda: None
        ),
        log_follows=LogFollows(database=database, signer=signer, now=clock),
        receipts=receipts,
        ground_truth=GroundTruth(
            database=database,
            contracts=Contracts(BlobStore(str(tmp_path / "blobs"))),
            now=clock,
        ),
    )
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(KEY, SHA256())
    csr_pem = csr.public_bytes(Encoding.PEM).decode()
    issued = authority.issue_device(csr_pem, "pi-1", clock())

    def add(name: str) -> None:
        device = new_device(
            name,
            clock(),
            public_key_sha256=issued.public_key_sha256,
            certificate_pem=issued.certificate_pem,
            order_counter=1,
            order_nonces={"1": NONCE},
        )
        with database.write() as session:
            session.add(device)

    add("pi-1")
    add("pi-2")
    return SimpleNamespace(
        fleet=fleet,
        telemetry=telemetry,
        security=security,
        intake=intake,
        receipts=receipts,
        database=database,
        clock=clock,
        add=add,
    )


@pytest.fixture
def line(parts: SimpleNamespace) -> Iterator[Line]:
    line = Line(parts.intake)
    parts.intake.start(line, seed=line.seeds.append)
    yield line
    parts.intake.close()


def event(seq: int, **fields) -> DeviceEvent:
    given = {
        "device": "pi-1", "boot": 1, "seq": seq, "at": datetime(2031, 1, 1, tzinfo=UTC),
        "slot": "har", "order": 1, "nonce": NONCE, "version": "1", "variant": "int8",
        "manifest": digest_of(b"m"),
        "before": UpdateState.IDLE, "event": UpdateEvent.ORDERED, "after": UpdateState.REFRESHING,
    }  # fmt: skip
    return DeviceEvent(**(given | fields))


def shown(parts: SimpleNamespace, name: str) -> tuple[bool, int, str]:
    with parts.database.read() as session:
        device = session.get_one(Device, name)
        return device.online, device.seq, device.agent_version


def case(steps, expected, *, id: str):  # noqa: A002
    return id, steps, expected


STATES = [
    case([{"seq": 3, "agent_version": "a"}], (True, 3, "a"), id="first"),
    case(
        [{"seq": 3, "agent_version": "a"}, {"seq": 2, "agent_version": "b"}],
        (True, 3, "a"),
        id="older",
    ),
    case(
        [{"boot": 2, "seq": 9}, {"boot": 3, "seq": 1, "agent_version": "b"}],
        (True, 1, "b"),
        id="after a restart",
    ),
    case(
        [{"boot": 3, "seq": 1, "agent_version": "b"}, {"boot": 2, "seq": 9}],
        (True, 1, "b"),
        id="late, of an older boot",
    ),
    case(
        [{"seq": 3, "agent_version": "a"}, {"seq": 0, "online": False}],
        (False, 3, "a"),
        id="the will",
    ),
    case(
        [{"boot": 2, "seq": 3}, {"boot": 1, "seq": 0, "online": False}],
        (True, 3, ""),
        id="the will of an older boot",
    ),
    case(
        [{"boot": 1, "seq": 3}, {"boot": 2, "seq": 0, "online": False}],
        (False, 3, ""),
        id="the will of a boot that never said anything",
    ),
    case(
        [{"seq": 3, "connection": 2}, {"seq": 0, "online": False, "connection": 1}],
        (True, 3, ""),
        id="the will of a connection before",
    ),
    case(
        [{"seq": 3, "connection": 2}, {"seq": 0, "online": False, "connection": 2}],
        (False, 3, ""),
        id="the will of this connection",
    ),
    case(
        [{"seq": 3}, {"seq": 0, "online": False}, {"seq": 3}],
        (True, 3, ""),
        id="back with the same state",
    ),
    case(
        [{"seq": 3}, {"seq": 0, "online": False}, {"seq": 3, "retained": True}],
        (False, 3, ""),
        id="what is retained does not bring it back",
    ),
    case(
        [{"seq": 3}, {"seq": 4, "agent_version": "r", "retained": True}],
        (True, 4, "r"),
        id="retained while the server was away",
    ),
    case(
        [{"boot": 50, "seq": 3, "retained": True}, {"boot": 1, "seq": 1}],
        (True, 1, ""),
        id="retained of the machine that had the name before",
    ),
    case(
        [{"seq": 3}, {"seq": 4, "online": False}],
        (False, 4, ""),
        id="it says goodbye itself",
    ),
]


def test_which_state_counts(parts, line) -> None:
    for number, (name, steps, expected) in enumerate(STATES):
        device = f"case-{number}"
        parts.add(device)
        for step in steps:
            line.state(device=device, **step)
        assert shown(parts, device) == expected, name


def test_only_a_connection_that_breaks_counts_against_a_device(parts, line) -> None:
    def breaks(device: str) -> int:
        with parts.database.read() as session:
            return len(session.get_one(Device, device).disconnects)

    parts.add("breaks")
    for number in range(1, 7):
        line.state(device="breaks", seq=number, connection=number)
        line.state(device="breaks", seq=0, online=False, connection=number)
        line.state(device="breaks", seq=0, online=False, connection=number)  # sent again
        assert breaks("breaks") == min(number, BREAKS_MAX)
    parts.add("leaves")
    line.state(device="leaves", seq=3)
    line.state(device="leaves", seq=4, online=False)  # it says goodbye itself
    assert breaks("leaves") == 0


def test_what_says_more_of_the_broker_than_of_the_device_is_no_break(parts, line, clock) -> None:
    def breaks(device: str) -> int:
        with parts.database.read() as session:
            return len(session.get_one(Device, device).disconnects)

    def breaks_one(device: str, number: int, **options) -> None:
        line.state(device=device, seq=number, connection=number)
        line.state(device=device, seq=0, online=False, connection=number, **options)
        assert not parts.fleet.device(device).online  # in any case

    for name in ("we-came-back", "said-before", "broker-goes"):
        parts.add(name)
    for number in range(1, 7):
        breaks_one("we-came-back", number, age_s=SETTLE_S - 0.1)
        breaks_one("said-before", number, retained=True)
    assert breaks("we-came-back") == breaks("said-before") == 0
    breaks_one("we-came-back", 7, age_s=SETTLE_S)
    assert breaks("we-came-back") == 1

    breaks_one("broker-goes", 1)
    clock.advance(seconds=GOING.total_seconds() + 1)
    breaks_one("broker-goes", 2)
    clock.advance(seconds=1)
    lost_at = clock()
    clock.advance(seconds=1)
    breaks_one("broker-goes", 3)  # it was in our queue when the broker went
    assert breaks("broker-goes") == 3
    parts.fleet.forgive_breaks(lost_at)
    assert breaks("broker-goes") == 1
    assert breaks("we-came-back") == 1


def test_what_is_shown_is_what_was_reported(parts, line) -> None:
    update = UpdateReport(
        order=1,
        version="2",
        variant="int8",
        manifest=digest_of(b"m"),
        state=UpdateState.DOWNLOADING,
        bytes_done=5,
        bytes_total=9,
    )
    line.state(
        agent_version="0.1.0",
        capabilities=CAPABILITIES,
        order_counter=1,
        order_nonce=NONCE,
        endpoint="http://127.0.0.1:8500",
        slots={"har": SlotReport(update=update)},
        rejected=(digest_of(b"bad"),),
    )
    device = parts.fleet.device("pi-1")
    assert (device.machine, device.accepted_order_counter) == ("aarch64", 1)
    assert device.rejected == [digest_of(b"bad")]
    (slot,) = device.slots
    assert slot.running is None
    assert (slot.update.state, slot.update.bytes_done, slot.update.bytes_total) == (
        "downloading", 5, 9,
    )  # fmt: skip
    assert parts.fleet.summary().updating == 1
    assert (device.refusal, device.refused_order_counter, slot.fault) == (None, None, None)
    hung = Reason(code="inference.hung", detail="it did not answer any more and was ended")
    expired = Reason(code="order.expired", detail="the clock is wrong")
    line.state(seq=2, refusal=expired, refused_counter=5, slots={"har": SlotReport(fault=hung)})
    device = parts.fleet.device("pi-1")
    assert (device.refusal.code, device.refused_order_counter) == ("order.expired", 5)
    assert device.slots[0].fault.code == "inference.hung"
    line.state(seq=3, slots={})
    assert parts.fleet.device("pi-1").refusal is None
    assert parts.fleet.summary().updating == 0
    assert parts.fleet.device("pi-1").slots == []


def test_events_count_once_and_are_acknowledged_each_time(parts, line) -> None:
    for _ in range(3):
        line.send(topics.event("pi-1"), event(1))
    line.send(topics.event("pi-1"), event(2))
    wait_for(lambda: len(line.acks) == 4)
    assert sorted(line.acks) == [
        (topics.ack("pi-1"), 1, 1), (topics.ack("pi-1"), 1, 1),
        (topics.ack("pi-1"), 1, 1), (topics.ack("pi-1"), 1, 2),
    ]  # fmt: skip
    assert len(line.done) == 4
    with parts.database.read() as session:
        assert session.scalar(select(func.count()).select_from(DeviceEventRow)) == 2


def test_capabilities_are_kept_for_reports_without_them(parts, line) -> None:
    what = Capabilities(machine="aarch64", cores=4, labels={"site": "porto"})

    def stored() -> ReportedState:
        with parts.database.read() as session:
            return msgspec.convert(session.get_one(Device, "pi-1").reported, ReportedState)

    line.state(seq=1, capabilities=what, capabilities_seq=1)
    line.state(seq=2, capabilities_seq=1, agent_version="9")
    assert (stored().capabilities, stored().agent_version) == (what, "9")
    line.state(seq=2, capabilities_seq=1)  # resent
    assert line.kept == [(1, 1)]
    line.state(boot=2, seq=1, capabilities_seq=1)  # of another start: not what we keep
    assert stored().capabilities == what
    line.state(boot=2, seq=2, capabilities_seq=1)
    assert line.kept == [(1, 1), (2, 0), (2, 0)]
    line.state(boot=2, seq=3, capabilities=what, capabilities_seq=1)
    line.state(boot=2, seq=4, capabilities_seq=1)
    assert line.kept == [(1, 1), (2, 0), (2, 0), (2, 1)]
    line.state(boot=2, seq=5, capabilities=what)  # of an older agent
    line.state(boot=2, seq=6)
    assert stored().capabilities is None
    assert len(line.kept) == 4


def test_an_event_of_no_order_is_stored(parts, line) -> None:
    """Somebody at the device has installed something before any order came."""
    line.send(topics.event("pi-1"), event(1, order=0, nonce="0" * 32))
    wait_for(lambda: line.acks == [(topics.ack("pi-1"), 1, 1)])
    with parts.database.read() as session:
        assert session.scalar(select(func.count()).select_from(DeviceEventRow)) == 1


def test_nobody_speaks_for_another(parts, line) -> None:
    line.send(topics.state("pi-1"), ReportedState(device="pi-2", boot=9, seq=9, online=True))
    line.send(topics.event("pi-1"), event(1, device="pi-2"))
    wait_for(lambda: parts.intake.dropped["report.device"] == 2)
    with parts.database.read() as session:
        assert session.get_one(Device, "pi-2").boot == 0
    assert line.acks == []


def test_strangers_and_the_decommissioned_are_not_heard(parts, line) -> None:
    with parts.database.write() as session:
        session.get_one(Device, "pi-2").state = "decommissioned"
    line.send(topics.event("pi-2"), event(1, device="pi-2"))
    line.send(topics.event("pi-3"), event(1, device="pi-3"))
    line.send(topics.seed("pi-3"), SeedRequest(device="pi-3", blob=digest_of(b"x"), chunks=(0,)))
    wait_for(lambda: parts.intake.dropped["stranger"] == 3)
    assert (line.acks, line.seeds) == ([], [])
    assert len(line.done) == 3


def test_seed_requests_are_handed_on(parts, line) -> None:
    request = SeedRequest(device="pi-1", blob=digest_of(b"x"), chunks=(0, 1))
    line.send(topics.seed("pi-1"), request)
    assert wait_for(lambda: line.seeds) == [request]


POISON = [
    pytest.param(event(1, reason={"code": "a.b", "detail": "\0"}), id="NUL in JSON"),
    pytest.param(event(1, at=datetime(1, 1, 1, tzinfo=UTC)), id="the year 1"),
    pytest.param(event(2**62), id="a large number"),
]


def test_what_the_database_refuses_does_not_stop_the_others(parts, line) -> None:
    """PostgreSQL takes no NUL in a text; SQLite takes it, which is as good."""
    for number in range(20):
        line.send(topics.event("pi-1"), event(number + 1))
        state = ReportedState(
            device="pi-2", boot=1, seq=number + 1, online=True, agent_version=f"a\0{number}"
        )
        line.send(topics.state("pi-2"), state)
    wait_for(lambda: len(line.done) == 40)
    wait_for(lambda: len(line.acks) == 20)
    refused = parts.intake.dropped["refused"]
    assert refused == (20 if parts.database.dialect == "postgresql" else 0)


@pytest.mark.parametrize("message", POISON)
def test_extreme_values_are_taken_or_dropped(parts, line, message) -> None:
    line.send(topics.event("pi-1"), message)
    line.send(topics.event("pi-1"), event(77))
    wait_for(lambda: (topics.ack("pi-1"), 1, 77) in line.acks)
    assert len(line.done) == 2


def test_what_the_broker_sends_again_waits_for_that(parts, line) -> None:
    """The connection on which it came has ended: done now, it would be done twice."""
    line.send(topics.event("pi-1"), event(1), stale=True)
    line.send(topics.event("pi-1"), event(2))
    wait_for(lambda: (topics.ack("pi-1"), 1, 2) in line.acks)
    line.send(topics.event("pi-1"), event(1))
    wait_for(lambda: (topics.ack("pi-1"), 1, 1) in line.acks)
    assert len(line.done) == len(line.acks) == 2


def test_a_flood_is_not_stored_and_not_acknowledged(parts, line, monkeypatch) -> None:
    monkeypatch.setattr(allowance, "BURST_BYTES", 10_000)
    monkeypatch.setattr(allowance, "BYTES_PER_S", 0.0)
    for number in range(40):
        line.send(topics.event("pi-1"), event(number))
    line.send(topics.event("pi-2"), event(1, device="pi-2"))
    line.state(agent_version="still heard")
    wait_for(lambda: len(line.done) == 42)
    stored = 41 - parts.intake.dropped["allowance"]
    cost = len(seal(KEY, event(10))) + allowance.MESSAGE_BYTES
    assert stored - 1 in range(10_000 // (cost + 8), 10_000 // (cost - 8) + 1)
    assert len(line.acks) == stored  # what was dropped comes again from an honest device
    assert (topics.ack("pi-2"), 1, 1) in line.acks
    assert shown(parts, "pi-1")[2] == "still heard"


def test_absurd_telemetry_hurts_nobody(parts, line) -> None:
    """What is taken can be shown; the rest is dropped, whatever it was."""
    most = 2**63 - 1
    window = (
        '{"slot":"har","version":"1","manifest":"%s","start":"%s","end":"%s","requests":%s,'
        '"errors":%s,"classes":[%s]}'
    )
    digest = digest_of(b"m")
    odd = [
        ("9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59-23:59", 1, 1),
        ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59+00:00", 1, 1),
        ("2031-01-01T00:00:00Z", "2031-01-01T00:00:00Z", most, most),
        ("2031-01-01T00:00:00Z", "2031-01-01T00:00:00Z", most + 1, 0),
        ("2031-01-01T00:00:00Z", "2031-01-01T00:00:00Z", "1e400", 0),
        ("2031-01-01T00:00:00Z", "2031-01-01T00:00:00Z", "NaN", 0),
        ("2031-01-01T00:00:00Z", "2030-01-01T00:00:00Z", 1, 0),
    ]
    for seq, (start, end, requests, errors) in enumerate(odd * 2):
        text = window % (digest, start, end, requests, errors, ",".join([str(most)] * 1024))
        batch = f'{{"device":"pi-1","boot":{most},"seq":{seq},"windows":[{text}]}}'
        line.send(topics.telemetry("pi-1"), seal(KEY, batch.encode(), TELEMETRY))
        for load in ("1e999", "-1e308", "1e308"):
            sample = f'{{"at":"{start}","load_1min":{load},"temperature_c":{load}}}'
            batch = f'{{"device":"pi-1","boot":{seq},"seq":{most},"system":{sample}}}'
            line.send(topics.telemetry("pi-1"), seal(KEY, batch.encode(), TELEMETRY))
    line.send(topics.event("pi-1"), event(77))
    wait_for(lambda: (topics.ack("pi-1"), 1, 77) in line.acks)
    for summary in parts.telemetry.summary(model=None, since_s=60):
        assert summary.requests <= 4 * most
        json.loads(summary.model_dump_json(), parse_constant=pytest.fail)
    json.loads(parts.fleet.device("pi-1").model_dump_json(), parse_constant=pytest.fail)


def test_telemetry_is_added_up_by_manifest(parts, line) -> None:
    latency = [0] * (len(LATENCY_EDGES_US) + 1)
    latency[10] = 9
    latency[20] = 1
    for seq in range(3):
        window = InferenceWindow(
            slot="har",
            version="1",
            manifest=digest_of(b"m"),
            start=datetime(2031, 1, 1, tzinfo=UTC),
            end=datetime(2031, 1, 1, 0, 1, tzinfo=UTC),
            requests=10,
            errors=1,
            refused=2,
            latency=tuple(latency),
            classes=(1,) * (seq + 1),
        )
        odd = InferenceWindow(
            slot="har", version="1", manifest=digest_of(b"m"), start=window.start,
            end=window.end, requests=1000, latency=(1, 2, 3),
        )  # fmt: skip
        batch = TelemetryBatch(device="pi-1", boot=1, seq=seq, windows=(window, odd))
        line.send(topics.telemetry("pi-1"), batch)
    wait_for(lambda: len(line.acks) == 3)
    assert parts.intake.dropped["windows"] == 3
    (one,) = parts.telemetry.summary(model="har", since_s=60)
    assert (one.windows, one.requests, one.errors, one.classes) == (3, 30, 3, [3, 2, 1])
    assert one.refused == 6
    assert one.latency_p50_us == LATENCY_EDGES_US[10]
    assert one.latency_p95_us == LATENCY_EDGES_US[20]
    assert parts.telemetry.summary(model="other", since_s=60) == []
    assert parts.telemetry.device_summary("pi-2", since_s=60) == []


def test_old_telemetry_is_deleted_by_the_time_it_came(parts, line, clock) -> None:
    def window() -> InferenceWindow:
        wrong = datetime(2099, 1, 1, tzinfo=UTC)  # of a device without a clock
        return InferenceWindow(
            slot="har", version="1", manifest=digest_of(b"m"), start=wrong, end=wrong, requests=1
        )

    for seq in range(2):
        batch = TelemetryBatch(device="pi-1", boot=1, seq=seq, windows=(window(),))
        line.send(topics.telemetry("pi-1"), batch)
        wait_for(lambda seq=seq: len(line.acks) == seq + 1)
        clock.advance(days=20)
    assert parts.telemetry.delete_old() == 1
    with parts.database.read() as session:
        assert session.scalars(select(TelemetryWindow.seq)).all() == [1]


def test_a_full_queue_drops_unacknowledged_and_says_so(parts, monkeypatch) -> None:
    monkeypatch.setattr(intake_module, "_PLACE_S", 0.01)
    line = Line(parts.intake)  # never started: nothing is taken out
    for number in range(QUEUE_MAX + 7):
        line.send(topics.event("pi-1"), event(number))
    assert parts.intake.dropped["queue"] == 7
    assert line.done == []  # the broker sends them again


def test_a_cleared_topic_is_no_message(parts, line) -> None:
    line.send(topics.state("pi-1"), b"", retained=True)
    wait_for(lambda: line.done)
    assert not parts.intake.dropped


def test_a_state_that_got_lost_is_asked_for_by_the_event_that_came_with_it(
    parts: SimpleNamespace, line: Line, monkeypatch
) -> None:
    monkeypatch.setattr(missed_states, "WAIT_S", 0.0)
    at = datetime(2031, 1, 1, tzinfo=UTC)
    line.state(seq=1, sent_at=at)
    line.send(topics.event("pi-1"), event(1, at=at))
    wait_for(lambda: len(line.acks) == 1)
    parts.intake.ask_for_states()
    assert line.read == []
    line.send(topics.event("pi-1"), event(2, at=at + timedelta(seconds=1)))
    wait_for(lambda: len(line.acks) == 2)
    parts.intake.ask_for_states()
    assert line.read == [topics.state("pi-1")]
    line.state(seq=2, sent_at=at + timedelta(seconds=1), retained=True)
    parts.intake.ask_for_states()
    assert line.read == [topics.state("pi-1")]


def told(seq: int, *, boot: int = 1, **said: int) -> TelemetryBatch:
    """Health, with what the device says of its spool."""
    sample = SystemSample(at=datetime(2031, 1, 1, tzinfo=UTC), **said)
    return TelemetryBatch(device="pi-1", boot=boot, seq=seq, system=sample)


def test_what_came_twice_or_not_at_all_is_shown(parts, line) -> None:
    line.send(topics.telemetry("pi-1"), told(1))
    line.send(topics.event("pi-1"), event(2))
    for _ in range(3):
        line.send(topics.telemetry("pi-1"), told(6, waits_boot=1, waits_seq=4, dropped=2))
    wait_for(lambda: len(line.acks) == 5)
    found = parts.receipts.show("pi-1")
    (boot,) = found.boots
    assert (boot.boot, boot.received, boot.duplicates, boot.last) == (1, 3, 2, 6)
    assert [(one.first, one.last, one.state) for one in boot.gaps] == [(3, 5, "partly lost")]
    assert found.dropped == 2
    line.send(topics.telemetry("pi-1"), told(4))
    line.send(topics.telemetry("pi-1"), told(5))
    line.send(topics.telemetry("pi-1"), told(1, boot=2, waits_boot=2, waits_seq=1))
    wait_for(lambda: len(line.acks) == 8)
    newest, oldest = parts.receipts.show("pi-1").boots
    assert (newest.boot, newest.received, newest.gaps) == (2, 1, [])
    assert [(one.first, one.last, one.state) for one in oldest.gaps] == [(3, 3, "lost")]
    assert parts.receipts.show("pi-2").boots == []


def test_telemetry_waits_for_company_and_everything_else_for_nothing(
    parts, line, monkeypatch
) -> None:
    writes: list[int] = []
    write = parts.intake._write

    def counted(batch):
        writes.append(len(batch))
        return write(batch)

    monkeypatch.setattr(parts.intake, "_write", counted)
    monkeypatch.setattr(intake_module, "GATHER_S", 30.0)
    line.send(topics.telemetry("pi-1"), told(1))
    line.send(topics.telemetry("pi-1"), told(2))
    line.send(topics.event("pi-1"), event(3))
    wait_for(lambda: len(line.acks) == 3)
    line.send(topics.event("pi-1"), event(4))
    wait_for(lambda: len(line.acks) == 4)
    for seq in range(10):  # half of what a broker sends before something is acknowledged
        line.send(topics.telemetry("pi-1"), told(10 + seq))
    wait_for(lambda: len(line.acks) == 14)
    assert sum(writes) == 14
    assert len(writes) <= 4, "few transactions"
    monkeypatch.setattr(intake_module, "GATHER_S", 0.05)
    line.send(topics.telemetry("pi-1"), told(30))
    wait_for(lambda: len(line.acks) == 15)


def test_an_end_does_not_wait_for_company(parts, line, monkeypatch) -> None:
    monkeypatch.setattr(intake_module, "GATHER_S", 30.0)
    line.send(topics.telemetry("pi-1"), told(1))
    began = time.monotonic()
    parts.intake.close()
    assert time.monotonic() - began < 10


def test_what_is_not_stored_has_not_come(parts, line) -> None:
    line.send(topics.telemetry("pi-1"), b"not a message")
    line.send(topics.telemetry("pi-1"), told(3))
    wait_for(lambda: len(line.acks) == 1)
    (boot,) = parts.receipts.show("pi-1").boots
    assert (boot.received, boot.duplicates) == (1, 0)


def test_numbers_that_are_made_up_take_no_room(parts, line, clock) -> None:
    for number in range(60):
        line.send(topics.telemetry("pi-1"), told(2**62, boot=2**40 + number))
        if number % 7 == 0:
            line.send(topics.telemetry("pi-1"), told(2**62 - 2, boot=2**40))
    line.send(topics.telemetry("pi-1"), told(1))
    wait_for(lambda: (topics.ack("pi-1"), 1, 1) in line.acks)
    assert len(parts.receipts.show("pi-1").boots) == BOOTS_MAX
    clock.advance(days=31)
    parts.receipts.delete_old()
    assert parts.receipts.show("pi-1").boots == []


def test_clock_jumps_are_listed(parts) -> None:
    at = datetime(2031, 1, 1, tzinfo=UTC)
    with parts.database.write() as session:
        for seq, seconds in enumerate((0, 4, -3600, 86400)):
            session.add(
                FeatureWindowRow(
                    device="pi-1", boot=1, seq=seq, slot="har", manifest=digest_of(b"m"),
                    start=at, end=at, hour=at, rows=1, skipped=0, clock_shift_s=seconds,
                    counts={}, rolled=False, received_at=at + timedelta(seconds=seq),
                )
            )  # fmt: skip
    found = parts.receipts.show("pi-1")
    assert [one.seconds for one in found.clock_jumps] == [86400, -3600]
    assert found.feature_windows == 4
