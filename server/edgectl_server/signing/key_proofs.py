"""The keys of devices: which one a request is about, and whether its owner has made the request.

Everything here is read from strangers. Whatever cannot be read is refused, or proves nothing.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgectl_protocol.encryption import ENCRYPTION_KEY_OID
from edgectl_protocol.enrolment import fingerprint_of
from edgectl_server.errors import Refused

__all__ = [
    "CURVE",
    "encryption_key_of",
    "is_signed_by_certificate",
    "is_signed_by_request",
    "key_sha256",
    "public_key_sha256",
    "requested_key",
]

CURVE = ec.SECP256R1
_CSR_CHARACTERS_MAX = 8192
_ENCRYPTION_KEY = x509.ObjectIdentifier(ENCRYPTION_KEY_OID)


def requested_key(csr_pem: str) -> ec.EllipticCurvePublicKey:
    """Return the key of a signing request, which has signed it.

    Raises:
        Refused: ``enrol.csr``: no signing request, another curve, or not signed by its key.
    """
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
        public_key.curve, CURVE
    ):
        raise Refused(
            "enrol.csr", "the key of the signing request is not ECDSA P-256", hint="make such a key"
        )
    if not signed:
        raise Refused(
            "enrol.csr", "the signing request is not signed by its own key", hint="make a new one"
        )
    return public_key


def public_key_sha256(csr_pem: str) -> str:
    """Return the fingerprint by which a signing request's key is known, in hexadecimal.

    Raises:
        Refused: ``enrol.csr``.
    """
    return key_sha256(requested_key(csr_pem))


def encryption_key_of(csr_pem: str) -> str | None:
    """Return the X25519 key that a signing request names, in hexadecimal; None without one.

    Raises:
        Refused: ``enrol.csr``: it cannot be read, or nothing can be sealed to it.
    """
    requested_key(csr_pem)  # which vouches for what else the request says
    request = x509.load_pem_x509_csr(csr_pem[:_CSR_CHARACTERS_MAX].encode())
    try:
        extension = request.extensions.get_extension_for_oid(_ENCRYPTION_KEY).value
        assert isinstance(extension, x509.UnrecognizedExtension), extension
        # A point of low order would be found out only when an order is made.
        public_key = X25519PublicKey.from_public_bytes(extension.value)
        X25519PrivateKey.generate().exchange(public_key)
    except x509.ExtensionNotFound:
        return None
    except Exception as error:  # as above
        raise Refused(
            "enrol.csr",
            "the encryption key of the signing request is no X25519 key",
            hint="make a new one, or leave it out",
        ) from error
    return extension.value.hex()


def key_sha256(public_key: ec.EllipticCurvePublicKey) -> str:
    """Return the fingerprint of a key, in hexadecimal."""
    return fingerprint_of(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def is_signed_by_request(csr_pem: str, signature: str, text: bytes) -> bool:
    """Say whether `signature` (DER, hexadecimal) over `text` is of a signing request's key.

    Raises:
        Refused: ``enrol.csr``.
    """
    return _is_signed_by(requested_key(csr_pem), signature, text)


def is_signed_by_certificate(certificate_pem: str, signature: str, text: bytes) -> bool:
    """Say whether `signature` (DER, hexadecimal) over `text` is of a certificate's key."""
    try:
        public_key = x509.load_pem_x509_certificate(certificate_pem.encode()).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False
    return isinstance(public_key, ec.EllipticCurvePublicKey) and _is_signed_by(
        public_key, signature, text
    )


def _is_signed_by(public_key: ec.EllipticCurvePublicKey, signature: str, text: bytes) -> bool:
    try:
        public_key.verify(bytes.fromhex(signature), text, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True
