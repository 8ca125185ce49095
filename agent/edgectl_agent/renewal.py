"""The device renews its certificate by itself, with the key that it has.

Rules:

1. It asks when less than a third of the certificate's life is left, at a moment of its own, so that
   a fleet that enrolled together does not come together. An expired certificate is asked for at
   once: a device may come out of a drawer.
2. It also asks when it has been without a connection for `OFFLINE_S`: its clock may be wrong, and
   the broker may have refused for a reason that only the server knows.
3. What comes must be signed by the authority that is known since the enrolment, for this question,
   and be of our key and name. The clock plays no part in that: a wrong one cannot make the device
   lose what it has. The connection that is open goes on; the next one uses the new certificate.
4. The file is replaced in one durable step. Before it and after it there is a good certificate.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from edgectl_agent.clock import Moment
from edgectl_agent.core.timing import delay_s
from edgectl_agent.device_key import DeviceKey
from edgectl_agent.durable import Disk
from edgectl_agent.enrol import AUTHORITY_PATH, CERTIFICATE_PATH, check_certificate, signed_by
from edgectl_agent.errors import AgentError, Refused
from edgectl_agent.openssl import read_times
from edgectl_agent.server_request import ANSWER_HINT, endpoint_url, post
from edgectl_protocol.enrolment import (
    Renewal,
    RenewReply,
    RenewRequest,
    renewal_text,
    renewed_text,
)

__all__ = ["OFFLINE_S", "Renewer", "Validity", "read_validity", "renew"]

OFFLINE_S = 600.0
RETRY_FIRST_S = 60.0
RETRY_MAX_S = 3600.0
LOOK_S_MAX = 300.0
"""The wall clock may be set at any time; so it is looked at this often at least."""
_RETRIES_IN_A_LIFE = 60
_JOIN_S = 5.0
_log = logging.getLogger(__name__)


class Validity(NamedTuple):
    """From when until when a certificate is good."""

    start: datetime
    end: datetime

    @property
    def life_s(self) -> float:
        """Seconds from the start to the end."""
        return (self.end - self.start).total_seconds()

    def due_s(self, now: datetime, jitter: float) -> float:
        """Return in how many seconds to ask, negative where it is late already.

        Args:
            now: by the wall clock.
            jitter: 0 to 1; spreads a fleet over the first quarter of the last third of the life.
        """
        lead_s = self.life_s / 3 * (0.75 + 0.25 * jitter)
        return (self.end - now).total_seconds() - lead_s


def renew(
    disk: Disk, *, server: str, device: str, key: DeviceKey, server_ca: str = ""
) -> Validity | None:
    """Ask for a new certificate and write it; safe to be called again after any failure.

    Returns:
        Until when the new one is good; None where the server says that the present one will do.

    Raises:
        UsageError: ``settings.value``: `server` is no address.
        Refused: ``enrol.renewal``, ``enrol.expired``, ``enrol.reply``.
        Unreachable: ``server.unreachable``, ``server.certificate``.
    """
    url = endpoint_url(server, "renew")
    nonce = secrets.token_hex(16)
    proof = key.sign(renewal_text(nonce=nonce, device=device)).hex()
    request = RenewRequest(device=device, nonce=nonce, proof=proof)
    answer = post(url, msgspec.json.encode(request), server_ca=server_ca)
    authority_pem = disk.read(AUTHORITY_PATH, 65536).decode()
    try:
        reply = msgspec.json.decode(answer.content, type=RenewReply)
        text = renewed_text(nonce=nonce, renewal=reply.renewal)
        if not signed_by(_certificate(authority_pem), reply.signature, text):
            raise Refused(
                "enrol.reply",
                "the answer was not signed by this device's authority",
                hint=ANSWER_HINT,
            )
        renewal = msgspec.json.decode(reply.renewal, type=Renewal)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused(
            "enrol.reply", "the answer is not that of an edgectl server", hint=ANSWER_HINT
        ) from error
    pem = renewal.certificate_pem
    check_certificate(pem, device=device, key=key, authority_pem=authority_pem)
    if pem.encode() == disk.read(CERTIFICATE_PATH, 65536):
        return None
    disk.write_atomic(CERTIFICATE_PATH, pem.encode())
    return read_validity(disk)


def read_validity(disk: Disk) -> Validity:
    """Return until when the device's certificate is good.

    Raises:
        Refused: ``enrol.damaged``: it cannot be read.
    """
    try:
        pem = disk.read(CERTIFICATE_PATH, 65536)
        times = read_times(pem)
        if times is not None:
            return Validity(*times)
        certificate = _certificate(pem.decode())
    except (FileNotFoundError, ValueError) as error:
        raise Refused(
            "enrol.damaged",
            f"{disk.locate(CERTIFICATE_PATH)} cannot be read",
            hint="remove the folder identity/ and enrol again",
        ) from error
    return Validity(certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def _certificate(pem: str) -> Any:
    from cryptography import x509

    return x509.load_pem_x509_certificate(pem.encode())


class Renewer:
    """Looks after the certificate in a thread of its own."""

    def __init__(
        self,
        disk: Disk,
        *,
        server: str,
        device: str,
        key: DeviceKey,
        connected: Callable[[], bool],
        now: Callable[[], Moment],
        say: Callable[[dict[str, Any]], None],
        server_ca: str = "",
    ) -> None:
        """Prepare.

        Args:
            disk: the state directory.
            server: where to ask.
            device: its name.
            key: of the certificate.
            connected: whether the broker has let the device in.
            now: both clocks.
            say: told of a new certificate.
            server_ca: whose certificates of HTTPS servers are good.
        """
        self._disk = disk
        self._server = server
        self._server_ca = server_ca
        self._device = device
        self._key = key
        self._connected = connected
        self._now = now
        self._say = say
        self._random = random.SystemRandom()
        self._jitter = self._random.random()
        self._failures = 0
        self._retry_s = 0.0
        self._failure = ""
        self._connected_s = now().elapsed_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="renewal", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End; a request that is under way is not waited for."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stopping.wait(wait_s):
            try:
                wait_s = self.look()
            except Exception:  # noqa: BLE001 - our bug must not end the only thread that renews
                _log.exception("renewing the certificate")
                wait_s = LOOK_S_MAX

    def look(self) -> float:
        """Ask if it is time to; return after how many seconds to look again."""
        at = self._now()
        if self._connected():
            self._connected_s = at.elapsed_s
        try:
            validity = read_validity(self._disk)
        except (AgentError, OSError) as error:
            self._note(error)
            return LOOK_S_MAX
        due_s = validity.due_s(at.wall, self._jitter)
        lost = at.elapsed_s - self._connected_s >= OFFLINE_S
        if due_s > 0 and not lost:
            self._failures = 0
            return min(due_s, LOOK_S_MAX)
        if at.elapsed_s < self._retry_s:
            return min(self._retry_s - at.elapsed_s, LOOK_S_MAX)
        if self._ask():
            self._failures = 0
            self._connected_s = at.elapsed_s
            return 0.0
        self._failures += 1
        wait_s = delay_s(
            self._failures,
            first_s=min(RETRY_FIRST_S, validity.life_s / _RETRIES_IN_A_LIFE),
            max_s=min(RETRY_MAX_S, validity.life_s / 10),
            jitter=self._random.random(),
        )
        self._retry_s = at.elapsed_s + wait_s
        return min(wait_s, LOOK_S_MAX)

    def _ask(self) -> bool:
        """Say whether there is a new certificate."""
        try:
            renewed = renew(
                self._disk,
                server=self._server,
                server_ca=self._server_ca,
                device=self._device,
                key=self._key,
            )
        except (AgentError, OSError) as error:
            self._note(error)
            return False
        self._failure = ""
        if renewed is None:
            return False
        _log.info("the certificate was renewed, until %s", renewed.end.isoformat())
        self._say({"event": "renewed", "expires_at": renewed.end.isoformat()})
        return True

    def _note(self, error: Exception) -> None:
        """Log a failure once, not at every attempt."""
        if str(error) != self._failure:
            _log.warning("the certificate could not be renewed: %s", error)
        self._failure = str(error)
