"""The audit log's newest row, signed now and then and kept outside of the database.

Rules: one line of JSON a head (`edgectl_protocol.audit.AuditHead`), only ever appended, one file a
month, ``<data>/audit/heads/<year>-<month>.jsonl``; the key is ``<data>/audit/key.pem``, Ed25519,
and of no other use. Whoever can write the database but not this folder cannot rewrite or cut off
what a head has vouched for without `edgectl audit verify` saying so. Before each new head the one
before is compared with the database: what does not fit is said at once, in the log of the server,
and nothing more is signed, or else later heads would vouch for the rewritten rows. Copy the lines
elsewhere, or close the files with ``chattr +a``, against who can write here too.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgectl_protocol.audit import LINE_BYTES_MAX, AuditHead, head_message
from edgectl_server.audit import AuditLog
from edgectl_server.errors import Unavailable
from edgectl_server.signing.key_files import load_or_make_private_key
from edgectl_server.storage.files import make_private_directory, sync_directory

__all__ = ["AuditHeads"]

logger = logging.getLogger(__name__)


class AuditHeads:
    """Signs and keeps heads; its methods may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        key: Ed25519PrivateKey,
        log: AuditLog,
        now: Callable[[], datetime],
    ) -> None:
        self._directory = directory
        self._key = key
        self._log = log
        self._now = now
        self._lock = threading.Lock()
        self._newest: AuditHead | None = None
        self.alarm = ""
        """What does not fit between the heads and the database; empty: nothing is known."""

    @classmethod
    def open(
        cls,
        directory: Path,
        log: AuditLog,
        now: Callable[[], datetime],
        *,
        passphrase: bytes | None = None,
    ) -> AuditHeads:
        """Read what is in `directory`, or begin there.

        Raises:
            Unavailable: ``keys.…`` as of `edgectl_server.signing`, or ``audit.heads``: the newest
                file cannot be read.
        """
        make_private_directory(directory)
        make_private_directory(directory / "heads")
        key = load_or_make_private_key(
            directory / "key.pem", Ed25519PrivateKey.generate, passphrase=passphrase
        )
        if not isinstance(key, Ed25519PrivateKey):
            raise Unavailable(
                "audit.heads",
                f"{directory / 'key.pem'} is no Ed25519 key",
                hint="move it away: a new one is made, and heads name the key that signed them",
            )
        heads = cls(directory / "heads", key, log, now)
        heads._mend()
        for head in heads.heads():
            if heads._newest is None or head.number >= heads._newest.number:
                heads._newest = head
        return heads

    @property
    def public_key(self) -> str:
        """The key that signs now: raw Ed25519, hexadecimal."""
        return self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    @property
    def anchored(self) -> int:
        """The number of the newest row that is signed; 0: none is."""
        return 0 if self._newest is None else self._newest.number

    def anchor(self) -> bool:
        """Sign the newest row if it has not been; return whether there is a new head."""
        with self._lock:
            if not self._fits():
                return False
            number, digest = self._log.head()
            newest = self._newest
            if number == 0 or (
                newest is not None and (newest.number, newest.hash) == (number, digest)
            ):
                return False
            at = self._now().astimezone(UTC)
            unsigned = AuditHead(
                number=number,
                hash=digest,
                at=at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                key=self.public_key,
                signature="",
            )
            signature = self._key.sign(head_message(unsigned)).hex()
            head = msgspec.structs.replace(unsigned, signature=signature)
            self._append(self._directory / f"{at:%Y-%m}.jsonl", msgspec.json.encode(head) + b"\n")
            self._newest = head
            return True

    def heads(self) -> Iterator[AuditHead]:
        """Yield all heads, the oldest first.

        Raises:
            Unavailable: ``audit.heads``: a line is none.
        """
        for path in sorted(self._directory.glob("*.jsonl")):
            with path.open("rb") as file:
                while line := file.readline(LINE_BYTES_MAX):
                    if not line.endswith(b"\n"):
                        break  # being written
                    try:
                        yield msgspec.json.decode(line, type=AuditHead)
                    except (msgspec.DecodeError, UnicodeDecodeError) as error:
                        raise Unavailable(
                            "audit.heads",
                            f"{path} holds a line that is no head: {error}",
                            hint="somebody has written there: keep the file, and look who did",
                        ) from error

    def _fits(self) -> bool:
        newest = self._newest
        if newest is None:
            return True
        found = self._log.hash_of(newest.number)
        if found == newest.hash:
            return True
        what = "is missing in" if found is None else "is another one in"
        alarm = f"row {newest.number} of the audit log, signed at {newest.at}, {what} the database"
        if alarm != self.alarm:
            logger.error("%s: somebody has changed it; `edgectl audit verify` says where", alarm)
        self.alarm = alarm
        return False

    def _mend(self) -> None:
        """Take away the beginning of a line that a power loss has left."""
        for path in sorted(self._directory.glob("*.jsonl"))[-1:]:
            with path.open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - LINE_BYTES_MAX))
                tail = file.read()
                whole = tail.rfind(b"\n") + 1
                if whole != len(tail):
                    file.truncate(size - len(tail) + whole)
                    os.fsync(file.fileno())

    @staticmethod
    def _append(path: Path, line: bytes) -> None:
        is_new = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            written = os.write(descriptor, line)
            assert written == len(line), "a short write"
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            sync_directory(path.parent)
