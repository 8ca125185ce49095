"""The revocation list: made once for each change, and given to whoever asks.

It is no secret, and signed. That its bytes stay the same until something is revoked is what tells a
broker whether it has to read it again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

from edgectl_server.signing.authority import Authority

__all__ = ["RevocationList"]


class RevocationList:
    """The newest list of an authority. Its method may be called from any thread."""

    def __init__(self, authority: Authority, now: Callable[[], datetime]) -> None:
        self._authority, self._now = authority, now
        self._lock = threading.Lock()
        self._of: object = None
        self._pem = b""

    def pem(self) -> bytes:
        """Return it, as PEM."""
        with self._lock:
            revocations = self._authority.revocations  # before: a change meanwhile makes another
            if revocations is not self._of:
                self._pem, self._of = self._authority.crl_pem(self._now()), revocations
            return self._pem
