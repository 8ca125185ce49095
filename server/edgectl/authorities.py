"""Whom to believe that a server is the one it says: an authority of one's own choice.

A server with ``tls = "own"`` is vouched for by its installation's own authority, which no machine
knows beforehand. Rules: it is believed when a person says so, by its certificate's file (``--ca``),
or by the fingerprint of its key, which the server prints at its start; from then on nobody else is
believed for that address, the authorities of the machine included. Nothing secret is sent before.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from edgectl.errors import LocalError, UntrustedServer
from edgectl.transport import Connection, pinned_context
from edgectl_protocol.enrolment import fingerprint_of, format_fingerprint, parse_fingerprint
from edgectl_protocol.errors import MalformedMessage

__all__ = ["find_authority", "fingerprint_of_authority", "read_authority"]

_CERTIFICATE_BYTES_MAX = 64 * 1024
_SEQUENCE, _VERSION = 0x30, 0xA0
_TIMEOUT_S = 10.0


def find_authority(
    url: str,
    *,
    known: str = "",
    fingerprint: str = "",
    ask: Callable[[str], bool] | None = None,
) -> str:
    """Return the authority to believe for `url`, in PEM; empty: those that this machine knows.

    Args:
        url: of the server.
        known: what was believed before, in PEM.
        fingerprint: of the authority's key, from a person; empty: none was given.
        ask: shows a fingerprint and returns whether it is right; None: nobody is there.

    Raises:
        UntrustedServer: the server cannot be believed; its hint says what to do.
        LocalError: ``auth.fingerprint``: it is none.
    """
    if not url.startswith("https:"):
        return ""
    expected = _parsed(fingerprint) if fingerprint else ""
    if not expected:
        try:
            _probe(url, known)
        except UntrustedServer as error:
            if known:
                error.hint = (
                    "it is not the authority of the last login: if that is right, log in again "
                    "with --ca FILE or --fingerprint TEXT"
                )
                raise
            if ask is None:
                raise
        else:
            return known
    offered = _offered(url)
    found = fingerprint_of_authority(offered)
    if expected and found != expected:
        raise UntrustedServer(
            f"the authority of {url} has the fingerprint {format_fingerprint(found)}, "
            "which is not the one that was given",
            "compare it with what the server has printed; somebody may be in between",
        )
    _probe(url, offered)  # it has to vouch for this very server
    if not expected and (ask is None or not ask(format_fingerprint(found))):
        raise UntrustedServer(
            f"the authority of {url} was not confirmed",
            "`edgectl server fingerprint` on the server's machine shows the right one",
        )
    return offered


def read_authority(path: Path) -> str:
    """Return the certificates in the file `path`, in PEM.

    Raises:
        LocalError: ``auth.authority``: unreadable, or none.
    """
    hint = "it must be a PEM file, such as pki/authority.pem of the server's data folder"
    try:
        with path.open("rb") as file:
            pem = file.read(_CERTIFICATE_BYTES_MAX + 1).decode("ascii")
        if len(pem) > _CERTIFICATE_BYTES_MAX:
            raise LocalError("auth.authority", f"{path} is too long", hint)
        pinned_context(pem)
    except (OSError, UnicodeDecodeError, ssl.SSLError) as error:
        raise LocalError("auth.authority", f"{path} holds no certificate: {error}", hint) from error
    return pem


def fingerprint_of_authority(pem: str) -> str:
    """Return the fingerprint of the key in a certificate, 64 hexadecimal digits.

    Raises:
        LocalError: ``auth.authority``: it is no certificate.
    """
    try:
        return fingerprint_of(_public_key(ssl.PEM_cert_to_DER_cert(pem)))
    except (ValueError, IndexError) as error:
        raise LocalError("auth.authority", "this is no certificate in PEM") from error


def _parsed(fingerprint: str) -> str:
    try:
        return parse_fingerprint(fingerprint)
    except MalformedMessage as error:
        raise LocalError(
            "auth.fingerprint",
            f"{fingerprint!r} is {error}",
            "copy all of it, as the server prints it at its start",
        ) from error


def _probe(url: str, authority: str) -> None:
    """Ask something harmless of the server, with TLS as it will be used."""
    with (
        Connection(url, authority=authority, timeout_s=_TIMEOUT_S) as connection,
        connection.stream("GET", "/version"),
    ):
        pass


def _offered(url: str) -> str:
    """Return the authority that the server names, from whoever answers: believe nothing of it."""
    with (
        Connection(url, unchecked=True, timeout_s=_TIMEOUT_S) as connection,
        connection.stream("GET", "/authority.pem", accept={404}) as response,
    ):
        content = b""
        for piece in response.iter_bytes():
            content += piece
            if len(content) > _CERTIFICATE_BYTES_MAX:
                break
    try:
        pem = content.decode("ascii")
        pinned_context(pem)
    except (UnicodeDecodeError, ssl.SSLError, ValueError) as error:
        raise UntrustedServer(
            f"{url} is vouched for by an authority that this machine does not know",
            "give the authority's certificate with --ca FILE",
        ) from error
    return pem


def _public_key(der: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of a certificate (RFC 5280 §4.1), both in DER.

    Raises:
        ValueError: it is no certificate.
    """
    certificate, _, _ = _element(der, 0, _SEQUENCE)
    content, _, _ = _element(certificate, 0, _SEQUENCE)
    at = 0
    if content[0] == _VERSION:
        _, at, _ = _element(content, at)
    for _ in range(5):  # serial number, algorithm, issuer, validity, subject
        _, at, _ = _element(content, at)
    _, _, whole = _element(content, at, _SEQUENCE)
    return whole


def _element(data: bytes, at: int, tag: int | None = None) -> tuple[bytes, int, bytes]:
    """Return content, end and whole of the DER element that begins at `at`."""
    if tag is not None and data[at] != tag:
        raise ValueError("another element is expected here")
    length, begin = data[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 3:  # noqa: PLR2004 - nothing here is longer
            raise ValueError("this length is not one")
        length = int.from_bytes(data[begin : begin + size], "big")
        begin += size
    end = begin + length
    if end > len(data):
        raise ValueError("it is cut off")
    return data[begin:end], end, data[at:end]
