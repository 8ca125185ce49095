"""Keys that samples are sealed to: the server's own, and those that people keep elsewhere.

Rules:

1. The server's key is made by itself, and opens samples when they have arrived. Its private half
   lies in the database, sealed to ``secrets.pem`` of the key folder: who has the database or a
   backup of it alone opens nothing.
2. Of a key that people keep elsewhere there is the public half alone, with who has brought it. What
   is sealed to it stays so here.
3. None is ever deleted: samples name the key that they are sealed to, and devices may have some for
   an older one. The newest of the server's is the one that policies carry.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.sealed_samples import KEY_BYTES, open_sample, sample_key_id
from edgectl_server.errors import Refused, Unavailable
from edgectl_server.schemas import SampleKeyInfo
from edgectl_server.signing.sealed_secrets import SealedSecrets
from edgectl_server.signing.sealing_key import SUITE
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import SampleKeyRow, SampleRow

__all__ = ["OUTSIDE", "SERVER", "Opened", "SampleKeys", "bring_key", "server_key"]

SERVER, OUTSIDE = "server", "outside"
_BY_ITSELF = "server"


class Opened(NamedTuple):
    """What came of opening a sealed sample; one of the two is there.

    Attributes:
        content: the file of the sample.
        problem: why there is none, a sentence.
    """

    content: bytes | None
    problem: str


class SampleKeys:
    """Its methods may be called from any thread."""

    def __init__(
        self, database: Database, secrets: SealedSecrets, now: Callable[[], datetime]
    ) -> None:
        """Take what it needs."""
        self._database = database
        self._secrets = secrets
        self._now = now

    def ensure(self) -> None:
        """Make a key of the server's if it has none."""
        with self._database.read() as session:
            if server_key(session) is not None:
                return
        with self._database.write() as session:
            if server_key(session) is None:
                self.make(session, _BY_ITSELF)

    def make(self, session: Session, user: str) -> SampleKeyInfo:
        """Make a new key of the server's, which policies carry from now on."""
        private = X25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw()
        name = sample_key_id(public)
        secret = b64encode(private.private_bytes_raw()).decode()
        row = SampleKeyRow(
            id=name,
            public=b64encode(public).decode(),
            holder=SERVER,
            secret=self._secrets.seal(secret, _purpose(name)),
            created_at=self._now(),
            created_by=user,
        )
        session.add(row)
        session.flush()
        return _info(row, current=True, samples=0)

    def all(self) -> list[SampleKeyInfo]:
        """Return all keys, the newest first, with how many samples came sealed to each."""
        counted = select(SampleRow.key, func.count()).group_by(SampleRow.key)
        with self._database.read() as session:
            counts = {name: int(count) for name, count in session.execute(counted)}
            newest = _newest(session)
            rows = session.scalars(
                select(SampleKeyRow).order_by(SampleKeyRow.created_at.desc(), SampleKeyRow.id)
            ).all()
        current = None if newest is None else newest.id
        return [
            _info(row, current=row.id == current, samples=counts.get(row.id, 0)) for row in rows
        ]

    def holder(self, key: str) -> str | None:
        """Return who holds a key: `SERVER`, `OUTSIDE`, or None: nobody has ever named it here."""
        with self._database.read() as session:
            row = session.get(SampleKeyRow, key)
            return None if row is None else row.holder

    def open(self, content: bytes, key: str) -> Opened:
        """Open a sealed sample with a key of the server's."""
        with self._database.read() as session:
            kept = session.get_one(SampleKeyRow, key).secret
        assert kept is not None, "only the server's keys open anything"
        try:
            secret = b64decode(self._secrets.unseal(kept, _purpose(key)))
        except Unavailable as error:
            return Opened(None, f"the server's key {key} cannot be read: {error.detail}")
        private = X25519PrivateKey.from_private_bytes(secret)
        try:
            plain = open_sample(content, lambda sealed, info: SUITE.decrypt(sealed, private, info))
            return Opened(plain, "")
        except ProtocolError as error:
            return Opened(None, f"{error}")
        except (InvalidTag, ValueError):
            detail = f"it does not open with the key {key} that it names: it was altered on its way"
            return Opened(None, f"{detail}, or is sealed to another key")


def server_key(session: Session) -> bytes | None:
    """Return the public key of the server's that policies carry; None: there is none yet."""
    row = _newest(session)
    return None if row is None else b64decode(row.public)


def bring_key(session: Session, text: str, *, user: str, now: datetime) -> str:
    """Note a public key that people keep the private half of, and return its name.

    Args:
        session: that writes.
        text: the public key, base64.
        user: who has brought it.
        now: the time.

    Raises:
        Refused: ``sample.key``: it is no public key, or the server's own.
    """
    try:
        public = b64decode(text, validate=True)
        SUITE.encrypt(b"", X25519PublicKey.from_public_bytes(public), b"")  # points of small order
    except ValueError as error:
        raise Refused(
            "sample.key",
            f"this is no public key of {KEY_BYTES} bytes that anything can be sealed to",
            hint="`edgectl samples key create FILE` makes one",
        ) from error
    name = sample_key_id(public)
    row = session.get(SampleKeyRow, name)
    if row is not None and row.holder == SERVER:
        raise Refused("sample.key", "this is the server's own key", hint="say `--seal server`")
    if row is None:
        session.add(
            SampleKeyRow(
                id=name,
                public=b64encode(public).decode(),
                holder=OUTSIDE,
                secret=None,
                created_at=now,
                created_by=user,
            )
        )
        session.flush()
    return name


def _newest(session: Session) -> SampleKeyRow | None:
    wanted = select(SampleKeyRow).where(SampleKeyRow.holder == SERVER)
    newest = wanted.order_by(SampleKeyRow.created_at.desc(), SampleKeyRow.id.desc())
    return session.scalars(newest.limit(1)).first()


def _purpose(name: str) -> str:
    return f"sample-key/{name}"


def _info(row: SampleKeyRow, *, current: bool, samples: int) -> SampleKeyInfo:
    return SampleKeyInfo(
        id=row.id,
        public=row.public,
        holder=row.holder,  # type: ignore[arg-type]  # only these are written
        current=current,
        created_at=row.created_at,
        created_by=row.created_by,
        samples=samples,
    )
