"""The certificate of the one client that may end connections at a broker of somebody else's.

It is its own authority, and the only one that the broker's second listener trusts: no certificate
of a device, of the server or of the broker opens that listener. It gives nothing but the power to
end connections. Made once; deleting both files and running ``edgectl server broker-config`` again
replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgectl_server.storage.files import write_durably

__all__ = ["DoorIdentity", "door_identity"]

_LIFETIME = timedelta(days=3650)
_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True)
class DoorIdentity:
    """Files of that client; `authority` is that of the broker's certificate."""

    certificate: Path
    key: Path
    authority: Path


def door_identity(directory: Path, now: datetime) -> DoorIdentity:
    """Return the identity that is kept in the authority's folder, made if there is none."""
    identity = DoorIdentity(
        directory / "operator.pem", directory / "operator.key", directory / "authority.pem"
    )
    if identity.certificate.exists() and identity.key.exists():
        return identity
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "operator")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, SHA256())
    )
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_durably(identity.key, content)
    write_durably(identity.certificate, certificate.public_bytes(Encoding.PEM), mode=0o644)
    return identity
