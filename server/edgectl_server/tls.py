"""TLS of the web server's own door: which certificate, which rules, and new files without a stop.

Rules: TLS 1.2 and 1.3, forward secrecy and authenticated encryption only (RFC 9325). A certificate
that has changed on disk serves the next connection: it is looked at every few seconds, and at once
on SIGHUP. What cannot be used, because it is half written, does not fit its key, or has ended, does
not replace what works: the reason is in the log. With ``tls = "own"`` the certificate comes from
the installation's own authority, for the names in `names_of`, and is renewed before it ends.

Without TLS the server listens on loopback alone, unless a trusted proxy speaks TLS for it, or the
operator says ``insecure_http``.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
import stat
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from edgectl_server.distribution.addresses import is_any_address
from edgectl_server.errors import Refused, Unavailable
from edgectl_server.settings import Settings
from edgectl_server.signing.authority import Authority, Identity

__all__ = ["ServerTls", "check_listening", "is_loopback", "names_of", "open_tls"]

logger = logging.getLogger(__name__)

_CIPHERS_OF_1_2 = "ECDHE+AESGCM:ECDHE+CHACHA20"
_FILE_BYTES_MAX = 1024 * 1024
_RENEWAL_EVERY = timedelta(hours=1)
_Version = tuple[int, int, int]


class ServerTls:
    """The certificate in use; `context` stays the same object while its content changes."""

    def __init__(
        self,
        certificate: Path,
        key: Path,
        now: Callable[[], datetime],
        *,
        passphrase: bytes | None = None,
        renew: Callable[[], object] | None = None,
    ) -> None:
        """Prepare to serve with two PEM files; `renew` writes them anew when that is due."""
        self._certificate = certificate
        self._key = key
        self._passphrase = passphrase or b""
        self._now = now
        self._renew = renew
        self._renewal_due = now() + _RENEWAL_EVERY
        self._seen: tuple[_Version, _Version] | None = None
        self._trouble = ""
        self.context = _new_context()

    def load(self) -> None:
        """Read both files, and serve with them from the next connection on.

        Raises:
            Unavailable: ``tls.files``: they cannot be used; what was served before still is.
        """
        self._seen = self._versions()
        ends = self._check()
        try:
            self._load_into(self.context)
        except (OSError, ssl.SSLError) as error:
            raise self._unusable(str(error)) from error
        logger.info("TLS certificate %s, good until %s", self._certificate, ends)

    def reload(self, *, at_once: bool = False) -> bool:
        """Load the files if they have changed; return whether new ones are served.

        Args:
            at_once: whether they have changed or not.
        """
        try:
            if self._renew is not None and self._now() >= self._renewal_due:
                self._renewal_due = self._now() + _RENEWAL_EVERY
                self._renew()
            if not at_once and self._versions() == self._seen:
                return False
            self.load()
        except Unavailable as error:
            if error.detail != self._trouble:
                logger.warning("%s; the former one is still served", error.detail)
            self._trouble = error.detail
            return False
        self._trouble = ""
        return True

    def ends_at(self) -> datetime:
        """Return when the certificate on disk ends; raise `Unavailable` ``tls.files``."""
        return self._read_certificate().not_valid_after_utc

    def _check(self) -> datetime:
        """Return when the certificate ends, after everything that could be wrong with it."""
        certificate = self._read_certificate()
        try:
            if self._key.stat().st_mode & stat.S_IRWXO:
                raise self._unusable(f"everybody may read {self._key}: chmod o= {self._key}")
            self._load_into(_new_context())  # what fails half-way must not be in use
        except (OSError, ssl.SSLError) as error:
            raise self._unusable(str(error)) from error
        if certificate.not_valid_after_utc <= self._now():
            raise self._unusable(f"it has ended at {certificate.not_valid_after_utc}")
        return certificate.not_valid_after_utc

    def _read_certificate(self) -> x509.Certificate:
        try:
            with self._certificate.open("rb") as file:
                return x509.load_pem_x509_certificate(file.read(_FILE_BYTES_MAX))
        except (OSError, ValueError) as error:
            raise self._unusable(str(error)) from error

    def _load_into(self, context: ssl.SSLContext) -> None:
        # Without a function for the passphrase, OpenSSL would ask at the terminal, and wait.
        context.load_cert_chain(self._certificate, self._key, password=lambda: self._passphrase)

    def _versions(self) -> tuple[_Version, _Version]:
        try:
            return _version(self._certificate), _version(self._key)
        except OSError as error:
            raise self._unusable(str(error)) from error

    def _unusable(self, why: str) -> Unavailable:
        return Unavailable(
            "tls.files",
            f"cannot serve with the certificate {self._certificate} and the key {self._key}: {why}",
            hint="tls_certificate is a PEM file with the certificate first, then what is between "
            "it and its authority; tls_key the PEM file of its key",
        )


def open_tls(
    settings: Settings,
    authority: Authority,
    now: Callable[[], datetime],
    *,
    passphrase: bytes | None = None,
) -> ServerTls | None:
    """Return the TLS of the web server, None without.

    Raises:
        Unavailable: ``tls.files``.
    """
    if settings.tls == "off":
        return None
    if settings.tls == "own":

        def renew() -> Identity:
            return authority.web_identity(names_of(settings), now())

        identity = renew()
        tls = ServerTls(identity.certificate, identity.key, now, renew=renew)
    else:
        files = Path(settings.tls_certificate), Path(settings.tls_key)
        tls = ServerTls(*files, now, passphrase=passphrase)
    tls.load()
    return tls


def check_listening(settings: Settings) -> None:
    """Refuse settings that would serve passwords and tokens to whoever listens on the network.

    Raises:
        Refused: ``tls.settings`` or ``tls.plain``.
    """
    given = bool(settings.tls_certificate), bool(settings.tls_key)
    if settings.tls == "files" and not all(given):
        raise Refused(
            "tls.settings",
            'tls = "files" needs tls_certificate and tls_key',
            hint='name both PEM files; or set tls = "own" for a certificate of our own authority',
        )
    if settings.tls != "files" and any(given):
        raise Refused(
            "tls.settings",
            f'tls_certificate and tls_key are not used with tls = "{settings.tls}"',
            hint='set tls = "files", or leave them out',
        )
    plain = settings.tls == "off" and not settings.insecure_http and not settings.trusted_proxies
    if plain and not is_loopback(settings.listen_host):
        raise Refused(
            "tls.plain",
            f"plain HTTP on {settings.listen_host or 'all addresses'} would show passwords and "
            "tokens to the network",
            hint='set tls = "own", or tls = "files" with a certificate; or name the proxy that '
            "speaks TLS in trusted_proxies; insecure_http = true does it all the same",
        )


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches what listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names_of(settings: Settings) -> tuple[str, ...]:
    """Return the names and addresses that the server's own certificate is for."""
    public = urlsplit(settings.public_url).hostname or ""
    listed = [name.strip() for name in settings.tls_names.split(",")]
    listening = "" if is_any_address(settings.listen_host) else settings.listen_host
    names = (*listed, public, listening, socket.gethostname())
    return tuple(dict.fromkeys(name for name in names if name))


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS_OF_1_2)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _version(path: Path) -> _Version:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino
