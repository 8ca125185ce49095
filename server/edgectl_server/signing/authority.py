"""The certificate authority of one installation: devices, the broker and the server.

Rules:

- ECDSA P-256 throughout, because the smallest TLS stacks of devices have it.
- A certificate is named by us, never by the request: of a signing request only the public key and
  the proof of its possession (the self-signature) are used.
- A device's certificate is for clients only and the broker's for servers only, so that no device
  can pose as the broker.
- Revocation is the file ``revoked.json``; the revocation list made of it lives long, because an
  expired list locks every device out at Mosquitto.
"""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgectl_protocol.names import check_device_id
from edgectl_server.errors import Refused, Unavailable
from edgectl_server.signing.keys import load_or_make_private_key
from edgectl_server.storage.files import make_private_directory, write_durably

__all__ = ["DEVICE_LIFETIME", "Authority", "Identity", "Issued", "public_key_sha256"]

_AUTHORITY_LIFETIME = timedelta(days=3650)
_OWN_LIFETIME = timedelta(days=365)
DEVICE_LIFETIME = timedelta(days=365)
_LIST_LIFETIME = timedelta(days=3650)
_CLOCK_SKEW = timedelta(hours=1)
_OWN_RENEWAL = timedelta(days=30)
_CSR_CHARACTERS_MAX = 8192
_CURVE = ec.SECP256R1


@dataclass(frozen=True)
class Identity:
    """Files with which one of our own programs speaks TLS."""

    certificate: Path
    key: Path
    authority: Path


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
        revoked: dict[int, datetime],
    ) -> None:
        self._directory = directory
        self._key = key
        self._certificate = certificate
        self._revoked = revoked
        self._lock = threading.Lock()

    @classmethod
    def open(cls, directory: Path, now: datetime, *, passphrase: bytes | None = None) -> Authority:
        """Load the authority in `directory`, or make it.

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
        return cls(directory, key, certificate, revoked)

    @property
    def certificate_pem(self) -> str:
        """The authority's own certificate, which devices and the broker trust."""
        return _pem(self._certificate).decode()

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

    def issue_device(self, csr_pem: str, device: str, now: datetime) -> Issued:
        """Certify the key of a signing request for `device`.

        Raises:
            Refused: ``enrol.csr``: no signing request, another curve, or not signed by its key.
            InvalidName: `device` cannot be a device's name.
        """
        check_device_id(device)
        public_key = _requested_key(csr_pem)
        ends = now + DEVICE_LIFETIME
        certificate = self._issue(
            device, public_key, ExtendedKeyUsageOID.CLIENT_AUTH, (), now=now, ends=ends
        )
        return Issued(
            certificate_pem=_pem(certificate).decode(),
            serial=f"{certificate.serial_number:x}",
            expires_at=certificate.not_valid_after_utc,
            public_key_sha256=_key_sha256(public_key),
        )

    def revoke(self, serial: str | int, now: datetime) -> None:
        """Revoke the certificate with this serial number (hexadecimal text, or the number)."""
        number = int(serial, 16) if isinstance(serial, str) else serial
        with self._lock:
            if number in self._revoked:
                return
            revoked = {**self._revoked, number: now.astimezone(UTC)}
            document = {"revoked": {f"{one:x}": at.isoformat() for one, at in revoked.items()}}
            content = json.dumps(document, indent=1).encode()
            write_durably(self._directory / "revoked.json", content, mode=0o600)
            self._revoked = revoked

    def is_revoked(self, serial: int) -> bool:
        """Say whether a certificate is revoked, by its serial number."""
        return serial in self._revoked

    def crl_pem(self, now: datetime) -> bytes:
        """Return the signed revocation list (RFC 5280 §5)."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now - _CLOCK_SKEW)
            .next_update(now + _LIST_LIFETIME)
            .add_extension(_authority_key_identifier(self._certificate), critical=False)
            .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
        )
        for serial, at in self._revoked.items():
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
            builder = builder.add_revoked_certificate(one)
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
            .not_valid_before(now - _CLOCK_SKEW)
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


def public_key_sha256(csr_pem: str) -> str:
    """Return the digest by which a signing request's key is known, in hexadecimal.

    Raises:
        Refused: ``enrol.csr``.
    """
    return _key_sha256(_requested_key(csr_pem))


def _requested_key(csr_pem: str) -> ec.EllipticCurvePublicKey:
    try:
        request = x509.load_pem_x509_csr(csr_pem[:_CSR_CHARACTERS_MAX].encode())
        public_key = request.public_key()
        signed = request.is_signature_valid
    except Exception as error:  # the parser's own errors are many, and all mean the same here
        raise Refused(
            "enrol.csr",
            "the certificate signing request cannot be read",
            hint="send a PKCS #10 request in PEM with an ECDSA P-256 key",
        ) from error
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(
        public_key.curve, _CURVE
    ):
        raise Refused(
            "enrol.csr", "the key of the signing request is not ECDSA P-256", hint="make such a key"
        )
    if not signed:
        raise Refused(
            "enrol.csr", "the signing request is not signed by its own key", hint="make a new one"
        )
    return public_key


def _key_sha256(public_key: ec.EllipticCurvePublicKey) -> str:
    digest = Hash(SHA256())
    digest.update(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()


def _private_key(path: Path, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    key = load_or_make_private_key(
        path, lambda: ec.generate_private_key(_CURVE()), passphrase=passphrase
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


def _read_revoked(path: Path) -> dict[int, datetime]:
    if not path.exists():
        return {}
    document = json.loads(path.read_bytes())
    return {
        int(serial, 16): datetime.fromisoformat(at) for serial, at in document["revoked"].items()
    }


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)
