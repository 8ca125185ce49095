"""How devices come in, and how they stay: requests exchanged for certificates.

The exchange is that of `edgectl_protocol.enrolment`. Rules:

1. Of tokens, unknown, used up, expired and wrong are one error and take the same path, so that
   nobody learns which exist. Of renewals, likewise, unknown, shut out and not proven.
2. What a stranger sends is judged without a lock and without a write: those who may not come in
   must not be able to hold up those who write.
3. A token's use is counted, and a list entry used up, in the transaction that makes the device.
   That is why nonces need no memory: a request that is replayed finds the device there, and changes
   nothing. Its answer is for the nonce of the replayed request, which no device waits for any more.
4. Who has the key of an enrolled device gets its certificate again, by enrolling with the token
   that it used last (while that has not expired), by enrolling without a token, or by renewing: the
   first answer may have been lost on the way.
5. A new certificate is issued when less than a third of the life of the present one is left, and
   after its end for as long as `grace` says. The old one stays good until its own end.
6. A name belongs to its key. Another key gets it only after the device was shut out, by a token, a
   list entry or an approval made after that: then an operator knows of it.
7. What a key has told before never counts again. A device that has lost its state, but not its key,
   is told which starts were heard of, and counts on.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
from cryptography import x509
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from edgectl_protocol.enrolment import (
    BrokerAddress,
    Enrolment,
    EnrolReply,
    EnrolRequest,
    Renewal,
    RenewReply,
    RenewRequest,
    Waiting,
    format_fingerprint,
    renewal_text,
    renewed_text,
    reply_mac,
    reply_text,
    request_proof,
    request_text,
)
from edgectl_protocol.names import check_device_id
from edgectl_server.admission import Admission, shut_out_at
from edgectl_server.audit import describe
from edgectl_server.errors import Conflict, Unauthorized
from edgectl_server.signing.authority import Authority, Issued
from edgectl_server.signing.key_proofs import (
    encryption_key_of,
    is_signed_by_certificate,
    is_signed_by_request,
    public_key_sha256,
)
from edgectl_server.signing.repository import Repository
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    AnsweredHour,
    Device,
    DeviceEventRow,
    EnrolToken,
    FeatureWindowRow,
    MessageReceiptRow,
    Preauthorised,
    ReportedSlot,
    SystemSampleRow,
    TelemetryWindow,
)

__all__ = ["Enroller"]

_NOBODY = "0" * 64
_RENEWAL_SHARE = 3
"""A certificate is renewed in the last third of its life."""
_SERIALS_MAX = 16


class Enroller:
    """Enrols devices and renews their certificates. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        authority: Authority,
        repository: Repository,
        admission: Admission,
        broker: Callable[[], BrokerAddress],
        now: Callable[[], datetime],
        grace: timedelta = timedelta(days=365),
    ) -> None:
        """Take what it needs.

        Args:
            database: of the devices.
            authority: issues certificates.
            repository: has the first root.
            admission: knows who may come in.
            broker: says where devices reach the broker.
            now: the clock.
            grace: how long after its end a certificate may still be renewed.
        """
        self._database = database
        self._authority = authority
        self._repository = repository
        self._admission = admission
        self._broker = broker
        self._now = now
        self._grace = grace

    def enrol(self, request: EnrolRequest, address: str = "") -> EnrolReply | Waiting:
        """Enrol a device, or answer it again.

        Args:
            request: as it came.
            address: where it came from.

        Returns:
            The reply; `Waiting` where a person has to approve first.

        Raises:
            Unauthorized: ``enrol.token``; ``enrol.proof``: not signed by the key of the request.
            Conflict: ``enrol.exists``: the name belongs to another key.
            Refused: ``enrol.csr``.
            InvalidName: the name is reserved.
            Forbidden: ``enrol.closed``, ``enrol.rejected``.
            TooMany: ``enrol.full``.
        """
        if request.token_id:
            return self._enrol_with_token(request)
        said = request_text(nonce=request.nonce, device=request.device, csr_pem=request.csr_pem)
        if not is_signed_by_request(request.csr_pem, request.proof, said):
            raise Unauthorized(
                "enrol.proof",
                "the request is not signed by the key that it asks a certificate for",
                hint="sign it as docs/protocol.md says",
            )
        check_device_id(request.device)
        certificate = self._certificate_without_token(request)
        if certificate is None:
            key = public_key_sha256(request.csr_pem)
            self._admission.note_request(request.device, key, address)
            return Waiting(fingerprint=format_fingerprint(key))
        text = self._text(request.device, certificate)
        signature = self._authority.sign(reply_text(nonce=request.nonce, enrolment=text))
        return EnrolReply(enrolment=text, signature=signature)

    def renew(self, request: RenewRequest) -> RenewReply:
        """Return the device's certificate, a new one if it is time for that.

        Raises:
            Unauthorized: ``enrol.renewal``.
            Conflict: ``enrol.expired``: longer ago than may be renewed.
        """
        said = renewal_text(nonce=request.nonce, device=request.device)
        with self._database.read() as session:
            device = session.get(Device, request.device)
        if (
            device is None
            or device.state != "enrolled"
            or not is_signed_by_certificate(device.certificate_pem, request.proof, said)
        ):
            raise Unauthorized(
                "enrol.renewal",
                "there is no enrolled device with this name and key",
                hint="it may have been shut out: ask who operates the server",
            )
        certificate = self._renewed(device, self._now())
        if certificate is None:
            raise Conflict(
                "enrol.expired",
                f"the certificate expired at {device.certificate_expires_at.isoformat()}, "
                f"more than {self._grace.days} days ago",
                hint="enrol again, with a token or an approval; the key may stay",
            )
        renewal = Renewal(device=request.device, certificate_pem=certificate)
        text = msgspec.json.encode(renewal).decode()
        signature = self._authority.sign(renewed_text(nonce=request.nonce, renewal=text))
        return RenewReply(renewal=text, signature=signature)

    def _text(self, device: str, certificate: str) -> str:
        with self._database.read() as session:
            boot = _newest_boot(session, device)
        enrolment = Enrolment(
            device=device,
            certificate_pem=certificate,
            authority_pem=self._authority.certificate_pem,
            broker=self._broker(),
            root=self._repository.newest_root.decode(),
            boot=boot,
        )
        return msgspec.json.encode(enrolment).decode()

    # ------------------------------------------------------------ with a token

    def _enrol_with_token(self, request: EnrolRequest) -> EnrolReply:
        now = self._now()
        key = self._proven_key(request, now)
        check_device_id(request.device)
        with self._database.write() as session:
            token = session.get(EnrolToken, request.token_id, with_for_update=True)
            if token is None or bytes.fromhex(token.key) != key:
                raise _no_token()  # deleted meanwhile
            certificate = self._certificate_with_token(session, request, token, now)
        text = self._text(request.device, certificate)
        return EnrolReply(enrolment=text, mac=reply_mac(key, nonce=request.nonce, enrolment=text))

    def _proven_key(self, request: EnrolRequest, now: datetime) -> bytes:
        """Return K of the request's token, which the sender knows and which has not expired."""
        with self._database.read() as session:
            token = session.get(EnrolToken, request.token_id)
        key = bytes.fromhex(_NOBODY if token is None else token.key)
        expected = request_proof(
            key, nonce=request.nonce, device=request.device, csr_pem=request.csr_pem
        )
        proven = hmac.compare_digest(expected, request.proof)
        if token is None or not proven or token.expires_at <= now:
            raise _no_token()
        return key

    def _certificate_with_token(
        self, session: Session, request: EnrolRequest, token: EnrolToken, now: datetime
    ) -> str:
        """Return the device's certificate; use the token unless this very request was answered."""
        key = public_key_sha256(request.csr_pem)
        device = session.get(Device, request.device, with_for_update=True)
        known = device is not None and device.state == "enrolled" and _has(device, key)
        if known:
            assert device is not None
            if device.enrol_token == token.id and device.certificate_expires_at > now:
                return device.certificate_pem
        if token.uses_left < 1:
            raise _no_token()
        _check_may_have(device, key, token.created_at)
        token.uses_left -= 1
        if known:
            assert device is not None
            device.enrol_token = token.id
            device.group = token.group
            device.enrolled_by = f"token {token.id} of {token.created_by}"
            _take_encryption_key(device, request, now)
            if not _is_due(device, now):
                return device.certificate_pem
        return self._admit(
            session,
            request,
            device,
            now,
            group=token.group,
            enrolled_by=f"token {token.id} of {token.created_by}",
            token_id=token.id,
        )

    # ------------------------------------------------------------ without

    def _certificate_without_token(self, request: EnrolRequest) -> str | None:
        """Return a certificate to a key that is enrolled or on the list, None to any other."""
        now = self._now()
        key = public_key_sha256(request.csr_pem)
        with self._database.read() as session:
            device = session.get(Device, request.device)
            entry = session.get(Preauthorised, request.device)
        if device is not None and device.state == "enrolled" and _has(device, key):
            certificate = self._renewed(device, now)
            if certificate is not None:
                return certificate
        if entry is None or not hmac.compare_digest(entry.public_key_sha256, key):
            return None
        with self._database.write() as session:
            entry = session.get(Preauthorised, request.device, with_for_update=True)
            device = session.get(Device, request.device, with_for_update=True)
            if entry is None or not hmac.compare_digest(entry.public_key_sha256, key):
                return None  # used or taken back meanwhile; the device asks again
            _check_may_have(device, key, entry.created_at)
            how = "approval" if entry.approved else "list"
            session.delete(entry)
            return self._admit(
                session,
                request,
                device,
                now,
                group=entry.group,
                enrolled_by=f"{how} of {entry.created_by}",
                token_id="",
            )

    def _admit(
        self,
        session: Session,
        request: EnrolRequest,
        device: Device | None,
        now: datetime,
        *,
        group: str,
        enrolled_by: str,
        token_id: str,
    ) -> str:
        """Issue a certificate and write the device down."""
        issued = self._authority.issue_device(request.csr_pem, request.device, now)
        if device is None:
            device = _new_device(request.device, issued, now)
            session.add(device)
        else:
            if not _has(device, issued.public_key_sha256) or device.state == "decommissioned":
                _begin_anew(session, device, now)
            else:
                _remember(device, now)
            _take(device, issued)
        device.state = "enrolled"
        device.decommissioned_at = device.revoked_at = None
        device.group, device.enrolled_by, device.enrol_token = group, enrolled_by, token_id
        _take_encryption_key(device, request, now)
        describe(
            actor=f"device/{device.id}",
            via="enrolment",
            object=device.id,
            by=enrolled_by,
            group=group,
            key=issued.public_key_sha256,
            certificate=issued.serial,
        )
        return issued.certificate_pem

    # ------------------------------------------------------------ renewal

    def _renewed(self, device: Device, now: datetime) -> str | None:
        """Return the certificate that an enrolled device is to use; None after the grace."""
        if now - device.certificate_expires_at > self._grace:
            return None
        if not _is_due(device, now):
            return device.certificate_pem
        with self._database.write() as session:
            found = session.get(Device, device.id, with_for_update=True)
            if (
                found is None
                or found.state != "enrolled"
                or not _has(found, device.public_key_sha256)
            ):
                return None  # shut out meanwhile
            if _is_due(found, now):
                issued = self._authority.renew_device(found.certificate_pem, found.id, now)
                _remember(found, now)
                _take(found, issued)
                describe(
                    actor=f"device/{found.id}",
                    via="enrolment",
                    object=found.id,
                    certificate=issued.serial,
                )
            return found.certificate_pem


def _is_due(device: Device, now: datetime) -> bool:
    certificate = x509.load_pem_x509_certificate(device.certificate_pem.encode())
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - now < life / _RENEWAL_SHARE


def _has(device: Device, key: str) -> bool:
    return hmac.compare_digest(device.public_key_sha256, key)


def _check_may_have(device: Device | None, key: str, made_at: datetime) -> None:
    """Check that what was made at `made_at` may give the device's name to `key`."""
    if device is None or (device.state == "enrolled" and _has(device, key)):
        return
    left = shut_out_at(device)
    if left is not None and made_at > left:
        return
    raise Conflict(
        "enrol.exists",
        f"the name {device.id} belongs to another device",
        hint="choose another name; or shut the old device out, then make a new token",
    )


def _new_device(name: str, issued: Issued, now: datetime) -> Device:
    return Device(
        id=name,
        public_key_sha256=issued.public_key_sha256,
        certificate_serial=issued.serial,
        certificate_expires_at=issued.expires_at,
        certificate_pem=issued.certificate_pem,
        earlier_serials=[],
        enrolled_at=now,
        online=False,
        last_seen_at=None,
        boot=0,
        seq=0,
        order_counter=0,
        order=None,
        order_expires_at=None,
        reported={},
        agent_version="",
    )


def _begin_anew(session: Session, device: Device, now: datetime) -> None:
    """Forget the machine that had the name: a new one begins at its first boot.

    What is kept by boot and number most of all: of the new machine it would pass for a repeat.
    """
    for table in (
        AnsweredHour,
        DeviceEventRow,
        FeatureWindowRow,
        MessageReceiptRow,
        ReportedSlot,
        SystemSampleRow,
        TelemetryWindow,
    ):
        session.execute(delete(table).where(table.device == device.id))
    device.earlier_serials = []
    device.boot = device.seq = 0
    device.reported = {}
    device.enrolled_at = now
    device.online = False
    device.last_seen_at = None
    # `order_counter` goes on: the broker may still hold an order of the old machine.


def _newest_boot(session: Session, device: str) -> int:
    """Return the newest start of a device that anything was heard of; 0 for none."""
    told = select(func.max(MessageReceiptRow.boot)).where(MessageReceiptRow.device == device)
    return max(session.get_one(Device, device).boot, session.scalar(told) or 0)


def _remember(device: Device, now: datetime) -> None:
    """Keep the serial of the present certificate, to be revoked with the next if need be."""
    earlier = [one for one in device.earlier_serials if datetime.fromisoformat(one[1]) > now]
    if device.certificate_expires_at > now:
        earlier.append([device.certificate_serial, device.certificate_expires_at.isoformat()])
    device.earlier_serials = earlier[-_SERIALS_MAX:]


def _take(device: Device, issued: Issued) -> None:
    device.public_key_sha256 = issued.public_key_sha256
    device.certificate_serial = issued.serial
    device.certificate_expires_at = issued.expires_at
    device.certificate_pem = issued.certificate_pem


def _take_encryption_key(device: Device, request: EnrolRequest, now: datetime) -> None:
    """Note the key to which content keys are sealed; a new one needs a token or an approval."""
    key = encryption_key_of(request.csr_pem)
    if key != device.encryption_key:
        device.encryption_key = key
        if device.order is not None:
            device.order_expires_at = now  # it is made anew soon, sealed to the new key


def _no_token() -> Unauthorized:
    return Unauthorized(
        "enrol.token",
        "the enrolment token is not valid: it is unknown, expired, used up or does not match",
        hint="make a new one with `edgectl devices token create`",
    )
