"""Enrolment on both databases: what a token is good for, and what it is not."""

import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec import structs
from sqlalchemy import func, select

from edgectl_protocol.enrolment import BrokerAddress
from edgectl_protocol.errors import InvalidName
from edgectl_protocol.messages import Reason, ReportedState
from edgectl_server.admission import Admission
from edgectl_server.enrolment import Enroller
from edgectl_server.errors import Conflict, Refused, Unauthorized
from edgectl_server.fleet import Fleet
from edgectl_server.signing.authority import Authority
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.repository import Repository
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    Device,
    DeviceEventRow,
    EnrolToken,
    FeatureWindowRow,
    MessageReceiptRow,
)
from edgectl_server.targets import open_targets
from server.fleet.fleet_helpers import Clock, make_request, read_reply

BROKER = BrokerAddress(host="broker.example.org", port=8883)


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Door(Enroller):
    """An enroller with the admission that it asks."""

    admission: Admission


@pytest.fixture
def enroller(tmp_path: Path, database: Database, clock: Clock) -> Door:
    admission = Admission(database=database, now=clock, requests_max=20)
    door = Door(
        database=database,
        authority=Authority.open(tmp_path / "pki", clock()),
        repository=Repository.open(tmp_path / "tuf", Keys.open(tmp_path / "keys"), clock()),
        admission=admission,
        broker=lambda: BROKER,
        now=clock,
    )
    door.admission = admission
    return door


def token_of(enroller: Door, uses: int = 1, expires_in_s: int = 3600, group: str = "") -> str:
    return enroller.admission.create_token(
        uses=uses, expires_in_s=expires_in_s, user="anna", group=group
    ).token


def uses_left(database: Database, token: str) -> int:
    with database.read() as session:
        return session.get_one(EnrolToken, token.split("_")[1]).uses_left


def decommission(database: Database, name: str, clock: Clock) -> None:
    with database.write() as session:
        device = session.get_one(Device, name)
        device.state, device.decommissioned_at = "decommissioned", clock()


def test_a_device_gets_everything_that_it_needs(enroller, database, tmp_path, clock) -> None:
    token = token_of(enroller)
    request = make_request(token, "pi-1")
    enrolment = read_reply(enroller.enrol(request), token, request)
    certificate = x509.load_pem_x509_certificate(enrolment.certificate_pem.encode())
    authority = x509.load_pem_x509_certificate(enrolment.authority_pem.encode())
    certificate.verify_directly_issued_by(authority)
    name = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    assert (name, enrolment.device, enrolment.broker) == ("pi-1", "pi-1", BROKER)
    assert (tmp_path / "tuf" / "1.root.json").read_text() == enrolment.root
    with database.read() as session:
        device = session.get_one(Device, "pi-1")
        assert device.state == "enrolled"
        assert device.certificate_serial == f"{certificate.serial_number:x}"
        assert token not in (device.enrol_token, session.get_one(EnrolToken, request.token_id).key)


def test_every_bad_token_is_the_same_error(enroller, database, clock) -> None:
    used = token_of(enroller)
    enroller.enrol(make_request(used, "pi-1"))
    expired = token_of(enroller, expires_in_s=60)
    clock.advance(seconds=60)
    good = token_of(enroller)
    request = make_request(good, "pi-2")
    bad = [
        make_request("ee_0123456789abcdef_" + "A" * 43, "pi-2"),
        make_request(used, "pi-2"),
        make_request(expired, "pi-2"),
        make_request(f"{good[:-1]}{'A' if good[-1] != 'A' else 'B'}", "pi-2"),
        structs.replace(request, device="pi-3"),
        structs.replace(request, nonce="0" * 32),
        structs.replace(request, csr_pem=make_request(good, "pi-2").csr_pem),
        structs.replace(request, proof="0" * 64),
    ]
    seen = set()
    for one in bad:
        with pytest.raises(Unauthorized) as caught:
            enroller.enrol(one)
        seen.add((caught.value.code, caught.value.detail, caught.value.hint))
    assert len(seen) == 1
    assert uses_left(database, good) == 1
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Device)) == 1


def test_a_lost_answer_can_be_asked_for_again(enroller, database, clock) -> None:
    """With a one-use token too; the very same request or a new one with the same key."""
    token, key = token_of(enroller), ec.generate_private_key(ec.SECP256R1())
    request = make_request(token, "pi-1", key)
    first = read_reply(enroller.enrol(request), token, request)
    assert uses_left(database, token) == 0
    for again in (request, make_request(token, "pi-1", key)):
        assert read_reply(enroller.enrol(again), token, again) == first
    assert uses_left(database, token) == 0
    clock.advance(hours=1)
    with pytest.raises(Unauthorized):
        enroller.enrol(request)


def test_a_name_belongs_to_its_key(enroller, database) -> None:
    token = token_of(enroller, uses=5)
    enroller.enrol(make_request(token, "pi-1"))
    with pytest.raises(Conflict) as caught:
        enroller.enrol(make_request(token, "pi-1"))
    assert caught.value.code == "enrol.exists"
    assert uses_left(database, token) == 4  # the refused attempt cost nothing


def test_a_name_is_free_again_only_for_a_token_made_after(enroller, database, clock) -> None:
    old, key = token_of(enroller, uses=5), ec.generate_private_key(ec.SECP256R1())
    enroller.enrol(make_request(old, "pi-1", key))
    with database.write() as session:
        device = session.get_one(Device, "pi-1")
        device.boot, device.seq, device.order_counter = 40, 7, 3
        session.add(
            DeviceEventRow(
                device="pi-1", boot=1, seq=1, at=clock(), received_at=clock(), slot="har",
                rollout=None, event={},
            )
        )  # fmt: skip
    clock.advance(seconds=1)
    decommission(database, "pi-1", clock)
    clock.advance(seconds=1)
    for request in (make_request(old, "pi-1"), make_request(old, "pi-1", key)):
        with pytest.raises(Conflict):
            enroller.enrol(request)

    new = token_of(enroller)
    enroller.enrol(make_request(new, "pi-1"))
    with database.read() as session:
        device = session.get_one(Device, "pi-1")
        assert (device.state, device.boot, device.seq) == ("enrolled", 0, 0)
        assert device.order_counter == 3  # orders of the old machine stay old
        assert session.scalar(select(func.count()).select_from(DeviceEventRow)) == 0


def test_what_a_new_machine_tells_is_no_repeat_of_what_the_old_one_told(
    enroller, database, clock
) -> None:
    enroller.enrol(make_request(token_of(enroller), "pi-1"))
    told = {"device": "pi-1", "boot": 1}
    with database.write() as session:
        session.add(
            FeatureWindowRow(
                **told, seq=5, slot="har", manifest="sha256:" + "0" * 64, start=clock(),
                end=clock(), hour=clock(), rows=1, skipped=0, clock_shift_s=0, counts={},
                received_at=clock(),
            )
        )  # fmt: skip
        session.add(
            MessageReceiptRow(
                **told, last=5, received=5, duplicates=0, forgotten=0, gaps=[], first_at=clock(),
                last_at=clock(),
            )
        )  # fmt: skip
    clock.advance(seconds=1)
    decommission(database, "pi-1", clock)
    clock.advance(seconds=1)
    enroller.enrol(make_request(token_of(enroller), "pi-1"))
    with database.read() as session:
        for table in (FeatureWindowRow, MessageReceiptRow):
            assert session.scalar(select(func.count()).select_from(table)) == 0, table


def test_a_key_that_has_lost_its_count_of_starts_is_told_it(enroller, database, clock) -> None:
    """A key in a token outlives the state directory; what it told before is no news, ever."""
    key = ec.generate_private_key(ec.SECP256R1())
    first = token_of(enroller)
    enroller.enrol(make_request(first, "pi-1", key))
    fleet = Fleet(
        database=database, ordering=None, authority=None, broker=None,
        targets=open_targets(), now=clock,
    )  # fmt: skip

    def take(boot: int, seq: int) -> Reason | None:
        state = ReportedState(device="pi-1", boot=boot, seq=seq, online=True, sent_at=clock())
        with database.write() as session:
            device = session.get_one(Device, "pi-1", with_for_update=True)
            return fleet.take_state(session, device, state, retained=False, link_age_s=1e6)

    def stored() -> tuple[int, int]:
        with database.read() as session:
            device = session.get_one(Device, "pi-1")
            return device.boot, device.seq

    take(40, 7)
    told = {"last": 5, "received": 5, "duplicates": 0, "forgotten": 0, "gaps": []}
    with database.write() as session:  # messages of a start whose state has not come
        session.add(
            MessageReceiptRow(device="pi-1", boot=41, first_at=clock(), last_at=clock(), **told)
        )
    clock.advance(minutes=30)
    take(1, 1)
    assert stored() == (40, 7), "a start that counts from one is taken for a repeat"
    for token in (first, token_of(enroller)):
        request = make_request(token, "pi-1", key)
        assert read_reply(enroller.enrol(request), token, request).boot == 41
    take(40, 7)
    take(39, 9)
    assert stored() == (40, 7), "what somebody has recorded is refused as before"
    take(42, 1)
    assert stored() == (42, 1)


def test_a_key_that_enrols_again_keeps_its_certificate_until_it_nears_its_end(
    enroller, database, clock
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())

    def enrol() -> str:
        token = token_of(enroller)
        request = make_request(token, "pi-1", key)
        return read_reply(enroller.enrol(request), token, request).certificate_pem

    first = enrol()
    assert enrol() == first
    clock.advance(days=300)
    second = enrol()
    assert second != first
    serial = x509.load_pem_x509_certificate(first.encode()).serial_number
    with database.read() as session:  # so that decommissioning revokes the old one too
        earlier = session.get_one(Device, "pi-1").earlier_serials
        assert [serial for serial, _ in earlier] == [f"{serial:x}"]


@pytest.mark.parametrize("name", ["server", "operator", "probe", "Server", "broker"])
def test_reserved_names_are_refused_and_cost_nothing(enroller, database, name) -> None:
    token = token_of(enroller)
    with pytest.raises(InvalidName):
        enroller.enrol(make_request(token, name))
    assert uses_left(database, token) == 1


def test_another_curve_is_refused_and_costs_nothing(enroller, database) -> None:
    token = token_of(enroller)
    with pytest.raises(Refused):
        enroller.enrol(make_request(token, "pi-1", ec.generate_private_key(ec.SECP384R1())))
    assert uses_left(database, token) == 1


def test_the_last_use_is_given_once(enroller, database) -> None:
    token = token_of(enroller, uses=2)
    requests = [make_request(token, f"pi-{number}") for number in range(6)]
    outcomes: list[str] = []
    barrier = threading.Barrier(len(requests))

    def run(request) -> None:
        barrier.wait()
        try:
            enroller.enrol(request)
            outcomes.append("in")
        except Unauthorized:
            outcomes.append("out")

    threads = [threading.Thread(target=run, args=(request,)) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["in"] * 2 + ["out"] * 4
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Device)) == 2


def test_without_a_token_nobody_waits_or_makes_others_wait(enroller, database) -> None:
    """Anybody can ask; who has no token gets the answer while others write, without a lock."""
    wrong = structs.replace(make_request(token_of(enroller), "pi-1"), proof="0" * 64)
    unknown = structs.replace(wrong, token_id="0" * 16)
    answered: list[type] = []

    def ask() -> None:
        for request in (wrong, unknown):
            try:
                enroller.enrol(request)
            except Unauthorized as error:
                answered.append(type(error))

    with database.write() as session:
        session.get(EnrolToken, wrong.token_id, with_for_update=True)
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(60)
        waited = thread.is_alive()
    thread.join()
    assert not waited
    assert answered == [Unauthorized] * 2


def test_old_tokens_are_forgotten(enroller, database, clock) -> None:
    token_of(enroller)
    clock.advance(days=8)
    token_of(enroller)
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(EnrolToken)) == 1
