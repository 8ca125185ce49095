"""Who may pull over HTTP, how much at a time, and how much it was.

Rules:

1. A person, or their program, pulls with an API token that reads: as a bearer token, or as the
   password of HTTP's Basic authentication with any user name, which is what registry clients speak.
2. A device pulls with a proof by its own key (`edgectl_protocol.pulls`), checked against its row at
   every request: one that was revoked pulls nothing from that moment on.
3. Nobody pulls anonymously.
4. Each of them has at most `BODIES_MAX_EACH` answers under way, all together `BODIES_MAX`.
5. Bytes are counted for each of them, in memory, since the start of this process: a database
   that is written to at every range would be the bottleneck of a rollout.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.pulls import PULL_S, PULL_SCHEME, parse_pull, pull_text
from edgectl_server.auth import Auth
from edgectl_server.errors import Forbidden, TooMany, Unauthorized
from edgectl_server.signing.key_proofs import is_signed_by_certificate
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device

__all__ = ["BODIES_MAX", "BODIES_MAX_EACH", "Pulled", "Puller", "Pullers"]

BODIES_MAX = 256
BODIES_MAX_EACH = 8
BUSY_RETRY_S = 5
_COUNTED_MAX = 16384
_CREDENTIALS_CHARACTERS_MAX = 1024


@dataclass(frozen=True)
class Puller:
    """Somebody who may pull: ``device/<name>`` or ``token/<id>``, and whose token it is."""

    name: str
    user: str = ""


@dataclass
class Pulled:
    """What somebody has been sent."""

    puller: Puller
    bytes_sent: int = 0
    answers: int = 0
    last_at: datetime | None = None


class Pullers:
    """Lets in, and counts. Its methods may be called from any thread."""

    def __init__(self, database: Database, auth: Auth, now: Callable[[], datetime]) -> None:
        self._database = database
        self._auth = auth
        self._now = now
        self._lock = threading.Lock()
        self._under_way: dict[str, int] = {}
        self._pulled: OrderedDict[str, Pulled] = OrderedDict()

    def identify(self, authorization: str, path: str) -> Puller:
        """Return who sent a header ``Authorization``.

        Raises:
            Unauthorized: ``auth.required``, ``pull.proof``, ``pull.clock``, ``pull.expired``.
            Forbidden: ``auth.scope``.
        """
        scheme, _, credentials = authorization.partition(" ")
        match scheme.lower():
            case "bearer":
                return self._person(credentials.strip())
            case "basic":
                return self._person(_password(credentials.strip()))
            case found if found == PULL_SCHEME.lower():
                return self._device(authorization, path)
        raise _login()

    def _person(self, token: str) -> Puller:
        principal = self._auth.principal_of_token(token)
        if principal is None:
            raise _login()
        if principal.scopes is not None and "read" not in principal.scopes:
            raise Forbidden("auth.scope", "this needs a token with the scope read")
        return Puller(f"token/{principal.token}", principal.user)

    def _device(self, authorization: str, path: str) -> Puller:
        try:
            proof = parse_pull(authorization)
        except MalformedMessage as error:
            raise _no_device() from error
        now = self._now()
        if abs(now.timestamp() - proof.at) > PULL_S:
            raise Unauthorized("pull.clock", f"the proof is not of now, {now:%H:%M:%S} UTC")
        with self._database.read() as session:
            device = session.get(Device, proof.device)
        said = pull_text(device=proof.device, at=proof.at, path=path)
        if (
            device is None
            or device.state != "enrolled"
            or not is_signed_by_certificate(device.certificate_pem, proof.proof, said)
        ):
            raise _no_device()
        if device.certificate_expires_at <= now:
            raise Unauthorized(
                "pull.expired", "the device's certificate has expired", hint="it has to renew it"
            )
        return Puller(f"device/{proof.device}")

    # ------------------------------------------------------------ how much

    @contextmanager
    def sending(self, puller: Puller) -> Iterator[Callable[[int], None]]:
        """Take a place for an answer; yields what is to be told of the bytes that were sent.

        Raises:
            TooMany: ``pull.busy``.
        """
        self._enter(puller)
        try:
            yield lambda count: self._count(puller, count)
        finally:
            self._leave(puller)

    def _enter(self, puller: Puller) -> None:
        with self._lock:
            mine = self._under_way.get(puller.name, 0)
            if mine >= BODIES_MAX_EACH or sum(self._under_way.values()) >= BODIES_MAX:
                raise TooMany(
                    "pull.busy",
                    f"{mine} answers to {puller.name} are under way, at most {BODIES_MAX_EACH} "
                    f"each and {BODIES_MAX} together",
                    hint="try again in some seconds",
                    data={"retry_after_s": BUSY_RETRY_S},
                )
            self._under_way[puller.name] = mine + 1
            pulled = self._pulled.setdefault(puller.name, Pulled(puller))
            self._pulled.move_to_end(puller.name)
            pulled.answers += 1
            pulled.last_at = self._now()
            if len(self._pulled) > _COUNTED_MAX:
                self._pulled.popitem(last=False)

    def _leave(self, puller: Puller) -> None:
        with self._lock:
            left = self._under_way[puller.name] - 1
            if left:
                self._under_way[puller.name] = left
            else:
                del self._under_way[puller.name]

    def _count(self, puller: Puller, count: int) -> None:
        with self._lock:
            pulled = self._pulled.get(puller.name)
            if pulled is not None:
                pulled.bytes_sent += count

    def pulled(self) -> Sequence[Pulled]:
        """Return what everybody has been sent, who came last first."""
        with self._lock:
            return [
                Pulled(one.puller, one.bytes_sent, one.answers, one.last_at)
                for one in reversed(self._pulled.values())
            ]


def _password(credentials: str) -> str:
    """Return the password of Basic credentials (RFC 7617), empty where they are none."""
    try:
        decoded = base64.b64decode(credentials[:_CREDENTIALS_CHARACTERS_MAX], validate=True)
        return decoded.decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _login() -> Unauthorized:
    return Unauthorized(
        "auth.required",
        "pulling needs an API token as the password, and the one that was sent is missing, wrong "
        "or expired",
        hint="edgectl tokens create NAME --scope read",
    )


def _no_device() -> Unauthorized:
    return Unauthorized("pull.proof", "there is no enrolled device with this name and key")
