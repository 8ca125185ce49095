"""How devices come in: tokens, and the exchange of a token for a certificate.

The exchange is that of `edgectl_protocol.enrolment`: the token's secret never travels, both sides
prove that they know it. Rules:

1. Unknown, used up, expired and wrong are one error and take the same path, so that nobody learns
   which tokens exist. It is found out without a lock: those without a token must not be able to
   hold up those who write.
2. The token's use is counted in the transaction that makes the device. That is why nonces need no
   memory: a request that is replayed finds the device there, and changes nothing.
3. The same token, device and key again get the same certificate again, as long as the token has
   not expired, even if it was its last use: the first answer may have been lost on the way.
4. A name belongs to its key. Another key gets it only after the device was decommissioned, with a
   token made after that: then an operator knows of it.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import delete
from sqlalchemy.orm import Session

from edgectl_protocol.enrolment import (
    BrokerAddress,
    Enrolment,
    EnrolReply,
    EnrolRequest,
    Token,
    format_token,
    key_of,
    reply_mac,
    request_proof,
)
from edgectl_protocol.names import check_device_id
from edgectl_server.errors import Conflict, Unauthorized
from edgectl_server.schemas import EnrolTokenCreated
from edgectl_server.signing.authority import Authority, Issued, public_key_sha256
from edgectl_server.signing.repository import Repository
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    Device,
    DeviceEventRow,
    EnrolToken,
    ReportedSlot,
    SystemSampleRow,
    TelemetryWindow,
)

__all__ = ["RENEWAL", "Enroller"]

RENEWAL = timedelta(days=180)
"""A device that enrols again with its key gets a new certificate when less than this is left."""
_NOBODY = "0" * 64
_KEEP_EXPIRED = timedelta(days=7)
_SERIALS_MAX = 16


class Enroller:
    """Makes tokens and enrols devices. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        authority: Authority,
        repository: Repository,
        broker: Callable[[], BrokerAddress],
        now: Callable[[], datetime],
    ) -> None:
        """Take what it needs; `broker` says where devices reach the broker."""
        self._database = database
        self._authority = authority
        self._repository = repository
        self._broker = broker
        self._now = now

    def create_token(self, *, uses: int, expires_in_s: int, user: str) -> EnrolTokenCreated:
        """Make a token; what is returned is the only place where it is whole."""
        now = self._now()
        token = Token(secrets.token_hex(8), secrets.token_urlsafe(32))
        expires_at = now + timedelta(seconds=expires_in_s)
        with self._database.write() as session:
            session.execute(delete(EnrolToken).where(EnrolToken.expires_at < now - _KEEP_EXPIRED))
            session.add(
                EnrolToken(
                    id=token.id,
                    key=key_of(token.secret).hex(),
                    uses_left=uses,
                    expires_at=expires_at,
                    created_at=now,
                    created_by=user,
                )
            )
        return EnrolTokenCreated(
            token=format_token(token), id=token.id, uses=uses, expires_at=expires_at
        )

    def enrol(self, request: EnrolRequest) -> EnrolReply:
        """Enrol a device, or answer it again.

        Raises:
            Unauthorized: ``enrol.token``.
            Conflict: ``enrol.exists``: the name belongs to another key.
            Refused: ``enrol.csr``.
            InvalidName: the name is reserved.
        """
        now = self._now()
        key = self._proven_key(request, now)
        check_device_id(request.device)
        with self._database.write() as session:
            token = session.get(EnrolToken, request.token_id, with_for_update=True)
            if token is None or bytes.fromhex(token.key) != key:
                raise _no_token()  # deleted meanwhile
            certificate = self._certificate(session, request, token, now)
        enrolment = Enrolment(
            device=request.device,
            certificate_pem=certificate,
            authority_pem=self._authority.certificate_pem,
            broker=self._broker(),
            root=self._repository.first_root.decode(),
        )
        text = msgspec.json.encode(enrolment).decode()
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

    def _certificate(
        self, session: Session, request: EnrolRequest, token: EnrolToken, now: datetime
    ) -> str:
        """Return the device's certificate; use the token unless this very request was answered."""
        public_key = public_key_sha256(request.csr_pem)
        device = session.get(Device, request.device, with_for_update=True)
        known = (
            device is not None
            and device.state == "enrolled"
            and hmac.compare_digest(device.public_key_sha256, public_key)
        )
        if known:
            assert device is not None
            if device.enrol_token == token.id and device.certificate_expires_at > now:
                return device.certificate_pem
        if token.uses_left < 1:
            raise _no_token()
        if device is not None and not known:
            _check_may_take_over(device, token)
        token.uses_left -= 1
        if device is not None and known and device.certificate_expires_at - now > RENEWAL:
            device.enrol_token = token.id
            return device.certificate_pem
        issued = self._authority.issue_device(request.csr_pem, request.device, now)
        if device is None:
            session.add(_new_device(request.device, issued, token, now))
        else:
            _renew(session, device, issued, token, now, same_key=known)
        return issued.certificate_pem


def _check_may_take_over(device: Device, token: EnrolToken) -> None:
    freed = device.decommissioned_at
    if device.state == "decommissioned" and freed is not None and token.created_at > freed:
        return
    raise Conflict(
        "enrol.exists",
        f"the name {device.id} belongs to another device",
        hint="choose another name; or decommission the old device, then make a new token",
    )


def _new_device(name: str, issued: Issued, token: EnrolToken, now: datetime) -> Device:
    return Device(
        id=name,
        state="enrolled",
        public_key_sha256=issued.public_key_sha256,
        certificate_serial=issued.serial,
        certificate_expires_at=issued.expires_at,
        certificate_pem=issued.certificate_pem,
        earlier_serials=[],
        enrol_token=token.id,
        enrolled_at=now,
        decommissioned_at=None,
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


def _renew(
    session: Session,
    device: Device,
    issued: Issued,
    token: EnrolToken,
    now: datetime,
    *,
    same_key: bool,
) -> None:
    """Give the name a new certificate; a new key is a new machine and begins at its first boot."""
    if same_key:
        device.earlier_serials = [*device.earlier_serials, device.certificate_serial][
            -_SERIALS_MAX:
        ]
    else:
        for table in (DeviceEventRow, ReportedSlot, SystemSampleRow, TelemetryWindow):
            session.execute(delete(table).where(table.device == device.id))
        device.earlier_serials = []
        device.boot = device.seq = 0
        device.reported = {}
        device.enrolled_at = now
        device.decommissioned_at = None
        device.state = "enrolled"
        device.online = False
        device.last_seen_at = None
        # `order_counter` goes on: the broker may still hold an order of the old machine.
    device.public_key_sha256 = issued.public_key_sha256
    device.certificate_serial = issued.serial
    device.certificate_expires_at = issued.expires_at
    device.certificate_pem = issued.certificate_pem
    device.enrol_token = token.id


def _no_token() -> Unauthorized:
    return Unauthorized(
        "enrol.token",
        "the enrolment token is not valid: it is unknown, expired, used up or does not match",
        hint="make a new one with `edgectl devices token create`",
    )
