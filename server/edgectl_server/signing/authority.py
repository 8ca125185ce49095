"""The certificate authority of one installation: devices, the broker and the server.

Rules:

- ECDSA P-256 throughout, because the smallest TLS stacks of devices have it.
- A certificate is named by us, never by the request: of a signing request only the public key and
  the proof of its possession (the self-signature) are used.
- A device's certificate is for clients only and the broker's for servers only, so that no device
  can pose as the broker.
- Revocation is the file ``revoked.json``; the revocation list made of it lives long, because an
  expired list locks every device out at Mosquitto. A certificate leaves it `_KEEP_EXPIRED` after it
  has expired: then it is refused without it, also where clocks differ.
- The authority's key signs certificates, revocation lists, and answers to devices
  (`edgectl_protocol.enrolment`). The latter begin with their purpose in letters, the others with a
  DER tag: neither can be taken for the other.
"""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgectl_protocol.names import check_device_id
from edgectl_server.errors import Unavailable
from edgectl_server.signing.key_proofs import CURVE, key_sha256, public_key_sha256, requested_key
from edgectl_server.signing.keys import load_or_make_private_key
from edgectl_server.storage.files import make_private_directory, write_durably

__all__ = [
    "DEVICE_LIFETIME",
    "Authority",
    "Identity",
    "Issued",
    "add_revoked",
    "fingerprint_of_certificate",
    "public_key_sha256",
]

_AUTHORITY_LIFETIME = timedelta(days=3650)
_OWN_LIFETIME = timedelta(days=365)
DEVICE_LIFETIME = timedelta(days=365)
_LIST_LIFETIME = timedelta(days=3650)
_CLOCK_SKEW = timedelta(hours=1)
_CLOCK_SKEW_SHARE = 10
"""Of a short life, such as of seconds in a test, the skew is at most this part."""
_KEEP_EXPIRED = timedelta(days=7)
_OWN_RENEWAL = timedelta(days=30)


@dataclass(frozen=True)
class Identity:
    """Files with which one of our own programs speaks TLS."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True)
class _Revoked:
    at: datetime
    expires_at: datetime | None
    """Of the certificate; None: not known, never forgotten."""

    def counts_at(self, now: datetime) -> bool:
        """Say whether the certificate would be good but for this."""
        return self.expires_at is None or self.expires_at + _KEEP_EXPIRED > now


@dataclass(frozen=True)
class Issued:
    """A device's certificate."""

    certificate_pem: str
    serial: str
    """Hexadecimal."""
    expires_at: datetime
    public_key_sha256: str
    """Of the SubjectPublicKeyInfo in DER, hexadecimal."""


class Authority:
    """Issues and revokes certificates. Its methods may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        key: ec.EllipticCurvePrivateKey,
        certificate: x509.Certificate,
        revoked: dict[int, _Revoked],
        device_lifetime: timedelta,
    ) -> None:
        self._directory = directory
        self._device_lifetime = device_lifetime
        self._key = key
        self._certificate = certificate
        self._revoked = revoked
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        directory: Path,
        now: datetime,
        *,
        passphrase: bytes | None = None,
        device_lifetime: timedelta = DEVICE_LIFETIME,
    ) -> Authority:
        """Load the authority in `directory`, or make it.

        Args:
            directory: made with mode 0700.
            now: for the authority's own certificate.
            passphrase: of its key; None where it is protected by its mode alone.
            device_lifetime: of the certificates that it issues to devices.

        Raises:
            Unavailable: ``keys.…`` as of `edgectl_server.signing.keys`, or ``pki.damaged``.
        """
        make_private_directory(directory)
        key = _private_key(directory / "authority.key", passphrase)
        path = directory / "authority.pem"
        try:
            if not path.exists():
                write_durably(path, _pem(_authority_certificate(key, now)), mode=0o644)
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            revoked = _read_revoked(directory / "revoked.json")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unavailable(
                "pki.damaged",
                f"cannot read the certificate authority in {directory}: {error}",
                hint="restore the folder from a backup",
            ) from error
        if certificate.public_key() != key.public_key():
            raise Unavailable(
                "pki.damaged",
                f"{path} is not the certificate of authority.key",
                hint="restore the folder from a backup",
            )
        return cls(directory, key, certificate, revoked, device_lifetime)

    @property
    def certificate_pem(self) -> str:
        """The authority's own certificate, which devices and the broker trust."""
        return _pem(self._certificate).decode()

    @property
    def expires_at(self) -> datetime:
        """When the authority's own certificate ends, and with it all that it has issued."""
        return self._certificate.not_valid_after_utc

    @property
    def fingerprint(self) -> str:
        """Of the authority's key: 64 hexadecimal digits, by which a new device knows us."""
        return key_sha256(self._key.public_key())

    def sign(self, text: bytes) -> str:
        """Return a signature of the authority's key (ECDSA, SHA-256, DER) in hexadecimal.

        Args:
            text: as of `edgectl_protocol.enrolment`, which begins with what it is for.
        """
        assert text.startswith(b"edgectl-"), "what is signed says what it is for"
        return self._key.sign(text, ec.ECDSA(SHA256())).hex()

    def server_identity(self, now: datetime) -> Identity:
        """The client certificate with which the server connects to the broker, CN ``server``."""
        return self._own("server", ExtendedKeyUsageOID.CLIENT_AUTH, (), now)

    def broker_identity(self, hosts: Iterable[str], now: datetime) -> Identity:
        """The broker's certificate, for `hosts` and for this machine.

        Args:
            hosts: names and addresses by which devices and the server reach the broker.
            now: a certificate near its end is replaced.
        """
        names = tuple(dict.fromkeys(("localhost", "127.0.0.1", "::1", *filter(None, hosts))))
        return self._own("broker", ExtendedKeyUsageOID.SERVER_AUTH, names, now)

    def web_identity(self, hosts: Iterable[str], now: datetime) -> Identity:
        """The web server's certificate, for `hosts` and for this machine; as `broker_identity`."""
        names = tuple(dict.fromkeys(("localhost", "127.0.0.1", "::1", *filter(None, hosts))))
        return self._own("web", ExtendedKeyUsageOID.SERVER_AUTH, names, now)

    def issue_broker(self, hosts: Iterable[str], now: datetime) -> tuple[bytes, bytes]:
        """Make certificate and key, both PEM, of a broker on another machine, reached by `hosts`.

        Neither is kept: a thief of that machine gets nothing that this one uses.
        """
        key = ec.generate_private_key(CURVE())
        certificate = self._issue(
            "broker",
            key.public_key(),
            ExtendedKeyUsageOID.SERVER_AUTH,
            tuple(hosts),
            now=now,
            ends=now + _OWN_LIFETIME,
        )
        content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return _pem(certificate), content

    def issue_device(self, csr_pem: str, device: str, now: datetime) -> Issued:
        """Certify the key of a signing request for `device`.

        Raises:
            Refused: ``enrol.csr``: no signing request, another curve, or not signed by its key.
            InvalidName: `device` cannot be a device's name.
        """
        check_device_id(device)
        return self._issue_device(requested_key(csr_pem), device, now)

    def renew_device(self, certificate_pem: str, device: str, now: datetime) -> Issued:
        """Certify the key of a device's present certificate, expired or not, anew."""
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        public_key = certificate.public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey), device
        return self._issue_device(public_key, device, now)

    def _issue_device(
        self, public_key: ec.EllipticCurvePublicKey, device: str, now: datetime
    ) -> Issued:
        ends = now + self._device_lifetime
        certificate = self._issue(
            device, public_key, ExtendedKeyUsageOID.CLIENT_AUTH, (), now=now, ends=ends
        )
        return Issued(
            certificate_pem=_pem(certificate).decode(),
            serial=f"{certificate.serial_number:x}",
            expires_at=certificate.not_valid_after_utc,
            public_key_sha256=key_sha256(public_key),
        )

    def revoke(
        self, serial: str | int, now: datetime, *, expires_at: datetime | None = None
    ) -> None:
        """Revoke a certificate. May be repeated.

        Args:
            serial: hexadecimal text, or the number.
            now: the moment of the revocation.
            expires_at: of the certificate; some time after it the entry is forgotten.
        """
        number = int(serial, 16) if isinstance(serial, str) else serial
        with self._lock:
            if number in self._revoked:
                return
            kept = {one: it for one, it in self._revoked.items() if it.counts_at(now)}
            revoked = {**kept, number: _Revoked(now.astimezone(UTC), expires_at)}
            document = {"revoked": {f"{one:x}": _entry(it) for one, it in revoked.items()}}
            content = json.dumps(document, indent=1).encode()
            write_durably(self._directory / "revoked.json", content, mode=0o600)
            self._revoked = revoked

    def is_revoked(self, serial: int) -> bool:
        """Say whether a certificate is revoked, by its serial number."""
        return serial in self._revoked

    @property
    def revocations(self) -> Collection[int]:
        """Serial numbers of what is revoked; another object after each change."""
        return self._revoked

    def crl_pem(self, now: datetime) -> bytes:
        """Return the signed revocation list (RFC 5280 §5).

        Its number is the time of the newest revocation, so that whoever makes a list of the same
        state gives it the same number.
        """
        newest = max((entry.at.timestamp() for entry in self._revoked.values()), default=0)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now - _CLOCK_SKEW)
            .next_update(now + _LIST_LIFETIME)
            .add_extension(_authority_key_identifier(self._certificate), critical=False)
            .add_extension(x509.CRLNumber(int(newest * 1000)), critical=False)
        )
        for serial, entry in self._revoked.items():
            if not entry.counts_at(now):
                continue
            one = x509.RevokedCertificateBuilder().serial_number(serial)
            builder = builder.add_revoked_certificate(one.revocation_date(entry.at).build())
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    # ------------------------------------------------------------ certificates

    def _own(
        self, name: str, usage: x509.ObjectIdentifier, hosts: tuple[str, ...], now: datetime
    ) -> Identity:
        identity = Identity(
            certificate=self._directory / f"{name}.pem",
            key=self._directory / f"{name}.key",
            authority=self._directory / "authority.pem",
        )
        # Not encrypted: the broker's own process reads it too, and it is replaced within a year.
        key = _private_key(identity.key, None)
        if not self._is_usable(identity.certificate, key, hosts, now):
            ends = now + _OWN_LIFETIME
            certificate = self._issue(name, key.public_key(), usage, hosts, now=now, ends=ends)
            write_durably(identity.certificate, _pem(certificate), mode=0o644)
        return identity

    def _is_usable(
        self, path: Path, key: ec.EllipticCurvePrivateKey, hosts: tuple[str, ...], now: datetime
    ) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            certificate.verify_directly_issued_by(self._certificate)
        except (FileNotFoundError, ValueError, TypeError, InvalidSignature):
            return False
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            has = set(names.value)
        except x509.ExtensionNotFound:
            has = set()
        return (
            certificate.public_key() == key.public_key()
            and certificate.not_valid_after_utc - now > _OWN_RENEWAL
            and {_general_name(host) for host in hosts} <= has
        )

    def _issue(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        usage: x509.ObjectIdentifier,
        hosts: tuple[str, ...],
        *,
        now: datetime,
        ends: datetime,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - min(_CLOCK_SKEW, (ends - now) / _CLOCK_SKEW_SHARE))
            .not_valid_after(min(ends, self._certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(_authority_key_identifier(self._certificate), critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, SHA256())


def fingerprint_of_certificate(path: Path) -> str:
    """Return the fingerprint of the authority whose certificate is in the file `path`.

    Raises:
        Unavailable: ``pki.damaged``.
    """
    try:
        public_key = x509.load_pem_x509_certificate(path.read_bytes()).public_key()
    except (OSError, ValueError) as error:
        raise Unavailable(
            "pki.damaged", f"cannot read {path}: {error}", hint="restore it from a backup"
        ) from error
    assert isinstance(public_key, ec.EllipticCurvePublicKey), "ours are all of one kind"
    return key_sha256(public_key)


def _private_key(path: Path, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    key = load_or_make_private_key(
        path, lambda: ec.generate_private_key(CURVE()), passphrase=passphrase
    )
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Unavailable("pki.damaged", f"{path} is no ECDSA key", hint="restore it from a backup")
    return key


def _authority_certificate(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    serial = x509.random_serial_number()
    name = x509.Name(  # the number tells the authorities of two installations apart
        [x509.NameAttribute(NameOID.COMMON_NAME, f"edgectl authority {serial % 2**32:08x}")]
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, SHA256())
    )


def _authority_key_identifier(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier.value)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _entry(revoked: _Revoked) -> dict[str, str | None]:
    end = revoked.expires_at
    return {"at": revoked.at.isoformat(), "expires_at": None if end is None else end.isoformat()}


def _read_revoked(path: Path) -> dict[int, _Revoked]:
    if not path.exists():
        return {}
    document = json.loads(path.read_bytes())
    return {
        int(serial, 16): _Revoked(
            datetime.fromisoformat(entry["at"]),
            None if entry["expires_at"] is None else datetime.fromisoformat(entry["expires_at"]),
        )
        for serial, entry in document["revoked"].items()
    }


def add_revoked(path: Path, serials: Mapping[int, datetime]) -> None:
    """Add to the file of what is revoked, of a server that does not run.

    Args:
        path: ``revoked.json`` of the authority; made if it is not there.
        serials: moments of revocation by serial number; nobody knows when they will expire.
    """
    added = {one: _Revoked(at, None) for one, at in serials.items()}
    document = {
        "revoked": {f"{n:x}": _entry(it) for n, it in (added | _read_revoked(path)).items()}
    }
    write_durably(path, json.dumps(document, indent=1).encode(), mode=0o600)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)
