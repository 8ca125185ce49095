"""Who is let in without a token, on both databases: the list, requests, renewal; and who is not."""

import secrets
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import structs
from sqlalchemy import func, select

from edgectl_protocol.enrolment import (
    BrokerAddress,
    EnrolReply,
    EnrolRequest,
    RenewRequest,
    Waiting,
    fingerprint_of,
    format_fingerprint,
    parse_token,
    renewal_text,
    request_text,
)
from edgectl_protocol.errors import MalformedMessage, ProtocolError
from edgectl_server.admission import REQUESTS_PER_SOURCE_MAX, Admission
from edgectl_server.enrolment import Enroller
from edgectl_server.errors import (
    Conflict,
    Forbidden,
    NotFound,
    Refused,
    ServerError,
    TooMany,
    Unauthorized,
)
from edgectl_server.schemas import PreauthorisedEntry
from edgectl_server.signing.authority import Authority
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.repository import Repository
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery
from edgectl_server.storage.tables import Device, EnrolRequestRow, Preauthorised
from server.fleet.fleet_helpers import Clock

ALL = PageQuery("", "", 0, 200)
REQUESTS_MAX = 25


class Key:
    """A device's key, as the device uses it."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        der = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.fingerprint = format_fingerprint(fingerprint_of(der))

    def sign(self, text: bytes) -> str:
        return self.key.sign(text, ec.ECDSA(SHA256())).hex()

    def request(self, device: str) -> EnrolRequest:
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        csr_pem = builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM).decode()
        nonce = secrets.token_hex(16)
        proof = self.sign(request_text(nonce=nonce, device=device, csr_pem=csr_pem))
        return EnrolRequest(device=device, nonce=nonce, csr_pem=csr_pem, proof=proof)

    def renewal(self, device: str) -> RenewRequest:
        nonce = secrets.token_hex(16)
        proof = self.sign(renewal_text(nonce=nonce, device=device))
        return RenewRequest(device=device, nonce=nonce, proof=proof)


class Gate:
    """Admission and enrolment on one database and one clock."""

    def __init__(self, folder: Path, database: Database, **options: int) -> None:
        self.clock = Clock()
        self.database = database
        self.admission = Admission(
            database=database,
            now=self.clock,
            requests_max=options.get("requests_max", REQUESTS_MAX),
        )
        self.authority = Authority.open(folder / "pki", self.clock())
        self.enroller = Enroller(
            database=database,
            authority=self.authority,
            repository=Repository.open(folder / "tuf", Keys.open(folder / "keys"), self.clock()),
            admission=self.admission,
            broker=lambda: BrokerAddress(host="broker.example.org", port=8883),
            now=self.clock,
        )

    def ask(self, key: Key, device: str = "pi-1", address: str = "192.0.2.1") -> object:
        return self.enroller.enrol(key.request(device), address)

    def put(self, key: Key, device: str = "pi-1", group: str = "") -> None:
        entry = PreauthorisedEntry(device=device, fingerprint=key.fingerprint, group=group)
        self.admission.preauthorise([entry], "ana")

    def enrol(self, key: Key, device: str = "pi-1") -> None:
        self.put(key, device)
        assert isinstance(self.ask(key, device), EnrolReply)

    def shut_out(self, device: str, state: str) -> None:
        with self.database.write() as session:
            row = session.get_one(Device, device)
            row.state = state
            if state == "decommissioned":
                row.decommissioned_at = self.clock()
            else:
                row.revoked_at = self.clock()

    def device(self, name: str = "pi-1") -> Device:
        with self.database.read() as session:
            return session.get_one(Device, name)

    def count(self, table: type) -> int:
        with self.database.read() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0


@pytest.fixture
def gate(tmp_path: Path, database: Database) -> Gate:
    return Gate(tmp_path, database)


def code_of(call, *arguments, **options) -> str:
    with pytest.raises((ServerError, ProtocolError)) as caught:
        call(*arguments, **options)
    return caught.value.code


# ---------------------------------------------------------------- the list


def test_a_key_on_the_list_comes_in_once_and_no_other_does(gate: Gate) -> None:
    key, other = Key(), Key()
    gate.put(key, group="site-a")
    assert isinstance(gate.ask(other), Waiting)
    assert isinstance(gate.ask(key), EnrolReply)
    device = gate.device()
    assert (device.group, device.enrolled_by) == ("site-a", "list of ana")
    assert gate.count(Preauthorised) == 0
    assert isinstance(gate.ask(key), EnrolReply)  # the first answer may have been lost
    assert gate.device().certificate_serial == device.certificate_serial
    assert isinstance(gate.ask(other), Waiting)


def test_a_list_is_taken_whole_or_not_at_all(gate: Gate) -> None:
    key = Key()
    gate.enrol(key, "pi-1")
    fresh = PreauthorisedEntry(device="pi-2", fingerprint=Key().fingerprint)
    taken = PreauthorisedEntry(device="pi-1", fingerprint=Key().fingerprint)
    twice = [fresh, PreauthorisedEntry(device="pi-2", fingerprint=Key().fingerprint)]
    reserved = PreauthorisedEntry(device="server", fingerprint=Key().fingerprint)
    short = PreauthorisedEntry(device="pi-3", fingerprint="0" * 64 + "-")
    assert code_of(gate.admission.preauthorise, [fresh, taken], "ana") == "enrol.exists"
    assert code_of(gate.admission.preauthorise, twice, "ana") == "enrol.list"
    assert code_of(gate.admission.preauthorise, [fresh, reserved], "ana") == "protocol.name"
    assert gate.admission.preauthorise([short], "ana").added == 1  # separators do not matter
    broken = structs_replace(short, "zz" + "0" * 62)
    with pytest.raises(MalformedMessage):
        gate.admission.preauthorise([fresh, broken], "ana")
    assert gate.count(Preauthorised) == 1


def structs_replace(entry: PreauthorisedEntry, fingerprint: str) -> PreauthorisedEntry:
    return entry.model_copy(update={"fingerprint": fingerprint})


def test_the_same_list_again_changes_nothing(gate: Gate) -> None:
    enrolled, waiting = Key(), Key()
    gate.enrol(enrolled, "pi-1")
    entries = [
        PreauthorisedEntry(device="pi-1", fingerprint=enrolled.fingerprint),
        PreauthorisedEntry(device="pi-2", fingerprint=waiting.fingerprint),
    ]
    assert gate.admission.preauthorise(entries, "ana").model_dump() == {"added": 1, "unchanged": 1}
    assert gate.admission.preauthorise(entries, "ana").model_dump() == {"added": 0, "unchanged": 2}
    gate.admission.forget_preauthorised("pi-2")
    assert code_of(gate.admission.forget_preauthorised, "pi-2") == "enrol.list"
    assert isinstance(gate.ask(waiting, "pi-2"), Waiting)


@pytest.mark.parametrize("state", ["decommissioned", "revoked"])
def test_an_entry_from_before_does_not_bring_a_device_back(gate: Gate, state: str) -> None:
    key, other = Key(), Key()
    gate.enrol(key)
    gate.shut_out("pi-1", state)
    with gate.database.write() as session:  # as if it had been on the list since before
        session.add(
            Preauthorised(
                device="pi-1", public_key_sha256=other.fingerprint.replace("-", ""), group="",
                approved=False, created_at=gate.clock() - timedelta(days=1), created_by="ana",
            )
        )  # fmt: skip
    assert code_of(gate.ask, other) == "enrol.exists"
    gate.clock.advance(seconds=1)
    gate.put(other)
    assert isinstance(gate.ask(other), EnrolReply)
    assert gate.device().state == "enrolled"


def test_a_lost_device_that_comes_back_is_the_same_machine(gate: Gate) -> None:
    key = Key()
    gate.enrol(key)
    with gate.database.write() as session:
        device = session.get_one(Device, "pi-1")
        device.boot, device.seq, device.order_counter = 40, 7, 3
    gate.shut_out("pi-1", "revoked")
    assert isinstance(gate.ask(key), Waiting)
    gate.clock.advance(seconds=1)
    gate.admission.approve("pi-1", key.fingerprint, group="site-b", user="ben")
    assert isinstance(gate.ask(key), EnrolReply)
    device = gate.device()
    assert (device.state, device.boot, device.seq, device.order_counter) == ("enrolled", 40, 7, 3)
    assert (device.group, device.enrolled_by, device.revoked_at) == (
        "site-b", "approval of ben", None,
    )  # fmt: skip


# ---------------------------------------------------------------- requests


def test_what_is_not_signed_by_its_key_costs_nothing(gate: Gate) -> None:
    key, other = Key(), Key()
    request = key.request("pi-1")
    for bad in (
        structs.replace(request, device="pi-2"),
        structs.replace(request, nonce="0" * 32),
        structs.replace(request, csr_pem=other.request("pi-1").csr_pem),
        structs.replace(request, proof="00" * 40),
        structs.replace(request, proof=other.request("pi-1").proof),
    ):
        with pytest.raises(Unauthorized, match="not signed by the key"):
            gate.enroller.enrol(bad, "192.0.2.1")
    with pytest.raises(Refused):
        gate.enroller.enrol(structs.replace(request, csr_pem="no request"), "192.0.2.1")
    assert gate.count(EnrolRequestRow) == 0


def test_the_list_of_requests_is_bounded_and_nobody_is_pushed_out(gate: Gate) -> None:
    honest = Key()
    gate.ask(honest, "honest", "198.51.100.1")
    for number in range(REQUESTS_PER_SOURCE_MAX):
        gate.ask(Key(), f"flood-{number}", "203.0.113.1")
    with pytest.raises(TooMany) as caught:  # one address has its share and no more
        gate.ask(Key(), "flood-x", "203.0.113.1")
    assert caught.value.data["retry_after_s"] > 0
    for number in range(60):  # from a whole network of IPv6, no more than that
        try:
            gate.ask(Key(), f"six-{number}", f"2001:db8::{number:x}")
        except TooMany:
            continue
    assert gate.count(EnrolRequestRow) == 1 + 2 * REQUESTS_PER_SOURCE_MAX
    for number in range(60):  # from everywhere
        try:
            gate.ask(Key(), f"net-{number}", f"192.0.2.{number}")
        except TooMany:
            continue
    assert gate.count(EnrolRequestRow) == REQUESTS_MAX
    assert isinstance(gate.ask(honest, "honest", "198.51.100.1"), Waiting)
    gate.admission.approve("honest", honest.fingerprint, group="", user="ana")
    assert isinstance(gate.ask(honest, "honest", "198.51.100.1"), EnrolReply)


def test_requests_that_are_not_repeated_are_forgotten(gate: Gate) -> None:
    stays, leaves = Key(), Key()
    gate.ask(stays, "stays")
    gate.ask(leaves, "leaves")
    for _ in range(70):
        gate.clock.advance(minutes=1)
        gate.ask(stays, "stays")
    assert [one.device for one in gate.admission.requests(ALL).items] == ["stays"]
    assert code_of(gate.admission.approve, "gone", leaves.fingerprint, group="", user="a") == (
        "enrol.request"
    )
    for number in range(REQUESTS_PER_SOURCE_MAX - 1):
        gate.ask(Key(), f"new-{number}")  # its place is free
    assert gate.count(EnrolRequestRow) == REQUESTS_PER_SOURCE_MAX


def test_an_approval_is_of_the_key_and_not_of_the_name(gate: Gate) -> None:
    mine, theirs, nobody = Key(), Key(), Key()
    gate.ask(theirs)  # it was there first, under the same name
    gate.ask(mine)
    assert {one.fingerprint for one in gate.admission.requests(ALL).items} == {
        mine.fingerprint, theirs.fingerprint,
    }  # fmt: skip
    approve = gate.admission.approve
    assert code_of(approve, "pi-1", nobody.fingerprint, group="", user="a") == "enrol.fingerprint"
    assert code_of(approve, "pi-2", mine.fingerprint, group="", user="a") == "enrol.request"
    for part in (mine.fingerprint[:-1], mine.fingerprint[:9], ""):
        with pytest.raises(MalformedMessage):
            approve("pi-1", part, group="", user="a")
    approve("pi-1", mine.fingerprint.upper().replace("-", ":"), group="site-a", user="ana")
    assert isinstance(gate.ask(theirs), Waiting)
    assert isinstance(gate.ask(mine), EnrolReply)
    assert gate.device().group == "site-a"
    assert isinstance(gate.ask(theirs), Waiting)  # and will stay so
    assert [one.taken for one in gate.admission.requests(ALL).items] == [True]
    assert code_of(approve, "pi-1", theirs.fingerprint, group="", user="a") == "enrol.exists"


def test_a_rejected_key_is_told_so_for_a_day_and_keeps_nobody_out(gate: Gate) -> None:
    key, other = Key(), Key()
    gate.ask(key)
    gate.admission.reject("pi-1", key.fingerprint, user="ana")
    with pytest.raises(Forbidden, match="rejected"):
        gate.ask(key)
    assert isinstance(gate.ask(other), Waiting)
    gate.clock.advance(hours=23)
    assert code_of(gate.ask, key) == "enrol.rejected"
    gate.clock.advance(hours=2)
    assert isinstance(gate.ask(key), Waiting)
    gate.admission.reject("pi-1", key.fingerprint, user="ana")
    gate.admission.approve("pi-1", key.fingerprint, group="", user="ben")  # a change of mind
    assert isinstance(gate.ask(key), EnrolReply)


def test_rejecting_does_not_fill_the_database(tmp_path: Path, database: Database) -> None:
    gate = Gate(tmp_path, database, requests_max=5)
    for number in range(30):
        key = Key()
        gate.ask(key, f"flood-{number}", f"192.0.2.{number}")
        gate.admission.reject(f"flood-{number}", key.fingerprint, user="ana")
        gate.clock.advance(seconds=1)
    assert gate.count(EnrolRequestRow) <= 6
    assert isinstance(gate.ask(Key(), "honest"), Waiting)


def test_zero_switches_requests_off_and_leaves_the_list(tmp_path: Path, database: Database) -> None:
    gate = Gate(tmp_path, database, requests_max=0)
    key = Key()
    assert code_of(gate.ask, key) == "enrol.closed"
    assert gate.count(EnrolRequestRow) == 0
    gate.put(key)
    assert isinstance(gate.ask(key), EnrolReply)


def test_who_asks_does_not_wait_for_those_who_write(gate: Gate) -> None:
    known = Key()
    gate.enrol(known)
    gate.ask(waiting := Key(), "waiting")
    answered: list[object] = []

    def strangers() -> None:
        answered.append(gate.ask(known))
        answered.append(gate.ask(waiting, "waiting"))
        answered.append(gate.enroller.renew(known.renewal("pi-1")))
        answered.append(code_of(gate.enroller.renew, waiting.renewal("pi-1")))

    with gate.database.write() as session:
        session.get(Device, "pi-1", with_for_update=True)
        thread = threading.Thread(target=strangers)
        thread.start()
        thread.join(60)
        late = thread.is_alive()
    thread.join()
    assert not late
    assert len(answered) == 4


# ---------------------------------------------------------------- renewal


def serial_of(gate: Gate) -> str:
    return gate.device().certificate_serial


def test_a_certificate_is_renewed_in_its_last_third(gate: Gate) -> None:
    key = Key()
    gate.enrol(key)
    first = serial_of(gate)
    gate.clock.advance(days=240)
    gate.enroller.renew(key.renewal("pi-1"))
    assert serial_of(gate) == first
    gate.clock.advance(days=5)
    request = key.renewal("pi-1")
    gate.enroller.renew(request)
    second = serial_of(gate)
    assert second != first
    assert [serial for serial, _ in gate.device().earlier_serials] == [first]
    gate.enroller.renew(request)  # sent again by whoever has recorded it
    assert serial_of(gate) == second
    assert gate.device().public_key_sha256 == key.fingerprint.replace("-", "")


def test_all_who_may_not_renew_get_the_same_answer(gate: Gate) -> None:
    key, other = Key(), Key()
    gate.enrol(key, "pi-1")
    gate.enrol(gone := Key(), "gone")
    gate.shut_out("gone", "decommissioned")
    gate.enrol(lost := Key(), "lost")
    gate.shut_out("lost", "revoked")
    gate.clock.advance(days=300)
    request = key.renewal("pi-1")
    seen = set()
    for bad in (
        other.renewal("pi-1"),
        key.renewal("unknown"),
        gone.renewal("gone"),
        lost.renewal("lost"),
        structs.replace(request, nonce="0" * 32),
        structs.replace(request, device="gone"),
        structs.replace(request, proof="00" * 40),
        structs.replace(request, proof=key.request("pi-1").proof),
    ):
        with pytest.raises(Unauthorized) as caught:
            gate.enroller.renew(bad)
        seen.add((caught.value.code, caught.value.detail, caught.value.hint))
    assert len(seen) == 1
    assert gate.device().earlier_serials == []


def test_a_proof_to_enrol_is_none_to_renew(gate: Gate) -> None:
    key = Key()
    gate.enrol(key)
    gate.clock.advance(days=300)
    asked = key.request("pi-1")
    renewal = RenewRequest(device="pi-1", nonce=asked.nonce, proof=asked.proof)
    assert code_of(gate.enroller.renew, renewal) == "enrol.renewal"


def test_out_of_the_drawer_within_the_grace_and_after(gate: Gate) -> None:
    key = Key()
    gate.enrol(key)
    first = serial_of(gate)
    gate.clock.advance(days=365 + 300)
    gate.enroller.renew(key.renewal("pi-1"))
    second = serial_of(gate)
    assert second != first
    assert gate.device().earlier_serials == []  # it has expired: nothing to revoke
    gate.clock.advance(days=365 + 366)
    with pytest.raises(Conflict) as caught:
        gate.enroller.renew(key.renewal("pi-1"))
    assert caught.value.code == "enrol.expired"
    assert isinstance(gate.ask(key), Waiting)  # a person may approve; the key may stay
    gate.admission.approve("pi-1", key.fingerprint, group="", user="ana")
    assert isinstance(gate.ask(key), EnrolReply)
    assert serial_of(gate) != second


def test_many_at_once_get_one_new_certificate(gate: Gate) -> None:
    key = Key()
    gate.enrol(key)
    gate.clock.advance(days=300)
    replies: list[str] = []
    barrier = threading.Barrier(6)

    def run() -> None:
        barrier.wait()
        replies.append(gate.enroller.renew(key.renewal("pi-1")).renewal)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(replies) == 6
    assert len(set(replies)) == 1
    assert len(gate.device().earlier_serials) == 1


def test_tokens_are_listed_without_their_secrets_and_can_be_revoked(gate: Gate) -> None:
    made = gate.admission.create_token(uses=3, expires_in_s=600, user="ana", group="site-a")
    listed = gate.admission.tokens(ALL).items
    assert [(one.id, one.uses_left, one.group) for one in listed] == [(made.id, 3, "site-a")]
    assert parse_token(made.token).secret not in listed[0].model_dump_json()
    gate.admission.revoke_token(made.id)
    with pytest.raises(NotFound):
        gate.admission.revoke_token(made.id)
    gate.admission.create_token(uses=1, expires_in_s=60, user="ana")
    gate.clock.advance(seconds=61)
    assert gate.admission.tokens(ALL).total == 0
