"""Who is at the other end: the verified client certificate of a TLS connection."""

from __future__ import annotations

import ssl
from asyncio import sslproto
from typing import NamedTuple

from edgectl_broker.errors import CannotListen
from edgectl_broker.settings import TlsFiles

__all__ = ["Identity", "identity_of", "limit_read_buffers", "server_context"]


class Identity(NamedTuple):
    """A certificate's common name, serial number and end; all None on a connection without TLS."""

    name: str | None
    serial: int | None
    valid_until: float | None


_READ_BUFFER_BYTES = 32 * 1024


def limit_read_buffers() -> None:
    """Make asyncio's TLS connections of this process read 32 KiB at a time instead of 256 KiB.

    asyncio allocates that buffer for each connection, and has no setting for it: three hundred
    idle devices cost 90 MB with its default, a third of that with this.
    """
    sslproto.SSLProtocol.max_size = _READ_BUFFER_BYTES


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Build the TLS settings of the listener: TLS 1.2 or newer, client certificate required.

    Raises:
        CannotListen: a file is missing or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    # No resumption: each connection shows its certificate, and a quarter of the handshake is saved.
    context.num_tickets = 0
    try:
        context.load_cert_chain(files.certificate, files.key)
        context.load_verify_locations(files.authority)
    except (OSError, ssl.SSLError) as error:
        raise CannotListen(
            f"the certificate files {files.certificate}, {files.key} and {files.authority} cannot "
            "be used; check that they exist, are readable and belong together"
        ) from error
    return context


def identity_of(connection: ssl.SSLObject) -> Identity | None:
    """Return the identity of the peer, whose certificate OpenSSL has verified.

    None for a certificate without exactly one usable common name.
    """
    certificate = connection.getpeercert()
    if not certificate:
        return None
    subject: object = certificate.get("subject", ())
    assert isinstance(subject, tuple)
    names = [value for part in subject for key, value in part if key == "commonName"]
    serial, not_after = certificate.get("serialNumber"), certificate.get("notAfter")
    if len(names) != 1 or not isinstance(serial, str) or not isinstance(not_after, str):
        return None
    name = names[0]
    if not name or set(name) & set("+#/\0"):  # would be read as part of a topic pattern
        return None
    return Identity(name, int(serial, 16), float(ssl.cert_time_to_seconds(not_after)))
