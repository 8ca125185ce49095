"""TLS to servers and mirrors over HTTPS: whose certificates are good, by the setting `server_ca`.

Nothing is checked unless the setting says so. What comes over HTTP is judged by signed digests and
proofs, and a new device knows no authority yet: a wrong certificate costs nothing that plain HTTP
would not, and a renewed authority or a wrong clock shuts no device out. Who sets `server_ca` keeps
those in between from reading along and from holding answers back unnoticed.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from edgectl_agent.errors import Unreachable, UsageError

__all__ = ["SYSTEM", "check_server_ca", "server_context"]

SYSTEM = "system"
"""The authorities that the operating system trusts."""


def check_server_ca(server_ca: str) -> None:
    """Raise `UsageError` ``settings.value`` for what can be no setting; no file is read."""
    if server_ca not in {"", SYSTEM} and not Path(server_ca).is_absolute():
        raise UsageError(
            "settings.value",
            f"server_ca is {server_ca!r}",
            hint=f'write "{SYSTEM}", or the whole path of a file with certificates in PEM',
        )


def server_context(server_ca: str) -> ssl.SSLContext:
    """Return what a connection needs.

    Args:
        server_ca: empty: nothing is checked; ``system``; or a file of authorities in PEM, which
            alone are believed then.

    Raises:
        Unreachable: ``server.certificate``: the file cannot be read, or holds no certificate.
    """
    if server_ca:
        try:
            context = ssl.create_default_context(cafile=None if server_ca == SYSTEM else server_ca)
        except OSError as error:  # ssl.SSLError is one
            raise Unreachable(
                "server.certificate",
                f"server_ca is {server_ca}, which cannot be used: {error.strerror or error}",
                hint="it must be a file of certificates in PEM that the agent may read",
            ) from error
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
