"""The certificate signing request of a device (PKCS #10), with whatever key it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgectl_protocol.encryption import ENCRYPTION_KEY_OID

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

__all__ = ["key_that_signs", "signing_request"]


def signing_request(key: EllipticCurvePrivateKey, device: str, encryption_key: bytes = b"") -> str:
    """Return a signing request in PEM that names an encryption key, if one is given."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    if encryption_key:
        identifier = x509.ObjectIdentifier(ENCRYPTION_KEY_OID)
        extension = x509.UnrecognizedExtension(identifier, encryption_key)
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


def key_that_signs(
    public_key: EllipticCurvePublicKey, sign: Callable[[bytes], bytes]
) -> EllipticCurvePrivateKey:
    """Return a key for `signing_request` that is elsewhere and can only sign.

    Args:
        public_key: of P-256.
        sign: given content, returns an ECDSA signature (P-256, SHA-256) in DER.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    class Elsewhere(ec.EllipticCurvePrivateKey):
        """The interface of `cryptography`; what needs the secret is not there."""

        @property
        def curve(self) -> ec.EllipticCurve:
            return public_key.curve

        @property
        def key_size(self) -> int:
            return public_key.key_size

        def public_key(self) -> EllipticCurvePublicKey:
            return public_key

        def sign(self, data: Any, signature_algorithm: Any) -> bytes:
            if signature_algorithm.algorithm.name != "sha256":
                raise NotImplementedError
            return sign(bytes(data))

        def exchange(self, algorithm: Any, peer_public_key: Any) -> bytes:
            raise NotImplementedError

        def private_numbers(self) -> Any:
            raise NotImplementedError

        def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> bytes:  # noqa: A002 - the interface's name
            raise NotImplementedError

        def __copy__(self) -> Any:
            return self

        def __deepcopy__(self, memo: Any) -> Any:
            return self

    return Elsewhere()
