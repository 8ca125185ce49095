"""The token that requests bring: ``Authorization: Bearer <token>``, RFC 6750.

It is read once, from a file that nobody else can read. Comparing takes the same time for every
wrong token of a length.
"""

from __future__ import annotations

import hmac
import os
import re
import stat
from pathlib import Path

__all__ = ["CHALLENGE", "Bearer", "TokenUnusable", "read_token"]

CHALLENGE = 'Bearer realm="edgectl"'
_CREDENTIALS = re.compile(rb"bearer +([^ ]+)", re.IGNORECASE)
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]{16,512}=*")
_FILE_BYTES_MAX = 1024


class TokenUnusable(Exception):
    """The file gives no token; the message says what to do."""


class Bearer:
    """Compares what a request brings with the token."""

    def __init__(self, token: bytes) -> None:
        self._token = token

    def admits(self, authorization: bytes | None) -> bool:
        """Say whether an Authorization header brings the token."""
        found = _CREDENTIALS.fullmatch(authorization or b"")
        return found is not None and hmac.compare_digest(found[1], self._token)


def read_token(path: Path) -> bytes:
    """Return the token of a file; raise `TokenUnusable`.

    The file must be regular, belong to root or to the user that this runs as, and be readable for
    its owner alone (mode 0600 or 0400).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise TokenUnusable(f"cannot read the token file {path}: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise TokenUnusable(f"the token file {path} is no regular file")
        if found.st_uid not in {0, os.geteuid()}:
            raise TokenUnusable(f"the token file {path} belongs to another user: chown it")
        if found.st_mode & 0o077:
            raise TokenUnusable(f"others may read the token file {path}: chmod 600 it")
        content = os.read(descriptor, _FILE_BYTES_MAX).strip()
    finally:
        os.close(descriptor)
    if _TOKEN.fullmatch(content) is None:
        raise TokenUnusable(
            f"the token file {path} must hold 16 to 512 letters, digits and any of ._~+/- "
            "(openssl rand -hex 32 makes one)"
        )
    return content
