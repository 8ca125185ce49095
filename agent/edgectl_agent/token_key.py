"""The device's key in a token: a chip, a TPM or a stick that speaks PKCS #11.

Rules:

1. The key is made in the token and marked so that it cannot be read out. One that can be read out
   is refused: then a file would do.
2. A PIN is tried once. A token locks itself after a few wrong ones, and an agent that is started
   again and again would see to that.
3. The token is asked by one thread at a time, in one session. When it fails, its library is begun
   anew, once; after that the failure is `TokenAway`, and is tried again by whoever asked.
4. The token gets digests only: what it signs is hashed here.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgectl_agent.errors import AgentError, Refused, TokenAway
from edgectl_agent.key_uri import KeyUri
from edgectl_agent.signing_request import key_that_signs, signing_request
from edgectl_agent.tls_key import offer
from edgectl_protocol.enrolment import fingerprint_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

__all__ = ["TokenKey"]

_P256 = bytes.fromhex("06082a8648ce3d030107")
"""The DER of P-256's object identifier (RFC 5480, 2.1.1.1)."""
_ANOTHER_KEY = "make one in the token: name another with object=…, and the agent makes it"
_OCTET_STRING = b"\x04\x41"
"""What stands before a point of 65 bytes in CKA_EC_POINT; some tokens leave it away."""
_POINT_BYTES = 65
_log = logging.getLogger(__name__)


class _Opened(NamedTuple):
    session: Any
    private: Any
    point: bytes


class TokenKey:
    """An ECDSA P-256 key in a token."""

    def __init__(self, uri: KeyUri, path: Path, *, make: bool = False) -> None:
        """Find the key.

        Args:
            uri: where it is.
            path: of the file that holds `reference`, once somebody has written it.
            make: make it where there is none.

        Raises:
            UsageError: ``key.pin``: there is no PIN to be read.
            Refused: ``key.package``, ``key.token``, ``key.missing``, ``key.unsafe``, ``key.tls``:
                the token or the key cannot be used.
        """
        self._uri = uri
        self._path = path
        self._lock = threading.Lock()
        self._pin_refused = False
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        try:
            import pkcs11
        except ImportError as error:
            raise Refused(
                "key.package",
                "a key in a token needs a package that is not installed here",
                hint="pip install 'edgectl[agent,pkcs11]'",
            ) from error
        self._errors = (pkcs11.PKCS11Error, RuntimeError)
        """What the library of a token raises."""
        try:
            self._opened = self._open(make=make)
            self._public_key = _public_key(self._opened.point)
            self._check()
        except (*self._errors, OSError) as error:
            raise Refused(
                "key.token",
                f"the token cannot be used: {_told(error)}",
                hint=f"is it there, is {uri.module} its library, and the PIN right? Look with: "
                f"pkcs11-tool --module {uri.module} --login --list-objects",
            ) from error
        self.reference = offer(self._opened.point, self._sign_digest)
        """What stands in the file of the key instead of the key; no secret."""
        self._key_id = fingerprint_of(
            self._public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )

    @property
    def key_id(self) -> str:
        """SHA-256 of the public key, 64 hexadecimal digits."""
        return self._key_id

    def sign(self, content: bytes) -> bytes:
        """Return an ECDSA signature (P-256, SHA-256) in DER; raise `TokenAway` without it."""
        return self._sign_digest(hashlib.sha256(content).digest())

    def signing_request(self, device: str, encryption_key: bytes = b"") -> str:
        """Return a certificate signing request in PEM; raise `TokenAway` without it."""
        return signing_request(key_that_signs(self._public_key, self.sign), device, encryption_key)

    def certifies(self, certificate: Any) -> bool:
        """Say whether a certificate is of this key."""
        return bool(certificate.public_key() == self._public_key)

    def load_into(self, context: ssl.SSLContext, certificate: Path) -> None:
        """Have new connections present `certificate`; the token signs in each handshake."""
        context.load_cert_chain(str(certificate), str(self._path))

    def close(self) -> None:
        """Log out of the token."""
        with self._lock:
            self._close()

    def _sign_digest(self, digest: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

        with self._lock:
            try:
                raw = self._raw_signature(digest)
            except self._errors as error:
                _log.warning("the token fails, and is opened anew: %s", _told(error))
                raw = self._sign_again(digest)
        half = len(raw) // 2
        return encode_dss_signature(
            int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
        )

    def _sign_again(self, digest: bytes) -> bytes:
        import pkcs11

        self._close()
        try:
            pkcs11.lib(str(self._uri.module)).reinitialize()  # it may know of a daemon that is gone
            opened = self._open(make=False)
            if opened.point != self._opened.point:
                opened.session.close()
                raise TokenAway("there is another key in the token now")
            self._opened = opened
            return self._raw_signature(digest)
        except (*self._errors, AgentError) as error:
            raise TokenAway(f"the token cannot be used: {_told(error)}") from error

    def _close(self) -> None:
        try:
            self._opened.session.close()
        except self._errors as error:  # it is lost already
            _log.debug("closing the session: %s", _told(error))

    def _raw_signature(self, digest: bytes) -> bytes:
        import pkcs11

        return bytes(self._opened.private.sign(digest, mechanism=pkcs11.Mechanism.ECDSA))

    def _open(self, *, make: bool) -> _Opened:
        """Return a new session with the key; raise what the library raises, or `Refused`."""
        import pkcs11

        wanted: dict[str, Any] = {}
        if self._uri.token:
            wanted["token_label"] = self._uri.token
        if self._uri.serial:
            wanted["token_serial"] = self._uri.serial.encode()
        token = pkcs11.lib(str(self._uri.module)).get_token(**wanted)
        pin = self._uri.read_pin()
        if pin is not None and (
            self._pin_refused or token.flags & pkcs11.TokenFlag.USER_PIN_COUNT_LOW
        ):
            raise Refused(
                "key.token",
                "a wrong PIN was given to the token; before it locks itself, no other is tried",
                hint="log in by hand, which sets the count back: "
                f"pkcs11-tool --module {self._uri.module} --login --list-objects",
            )
        try:
            session = token.open(rw=make, user_pin=pin)
        except pkcs11.UserAlreadyLoggedIn:  # a login is of the process, not of the session
            session = token.open(rw=make)
        except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange):
            self._pin_refused = True
            raise
        try:
            return self._find(session, make=make)
        except BaseException:
            session.close()
            raise

    def _find(self, session: Any, *, make: bool) -> _Opened:
        from pkcs11 import Attribute, KeyType, ObjectClass

        wanted: dict[Any, Any] = {Attribute.KEY_TYPE: KeyType.EC}
        if self._uri.object:
            wanted[Attribute.LABEL] = self._uri.object
        if self._uri.id:
            wanted[Attribute.ID] = self._uri.id
        private = list(session.get_objects({**wanted, Attribute.CLASS: ObjectClass.PRIVATE_KEY}))
        public = list(session.get_objects({**wanted, Attribute.CLASS: ObjectClass.PUBLIC_KEY}))
        if make and not private and not public:
            new_public, new_private = self._make(session)
            private, public = [new_private], [new_public]
        if len(private) != 1 or len(public) != 1:
            raise Refused(
                "key.missing",
                f"there are {len(private)} private and {len(public)} public EC keys of that name "
                "in the token; it must be one of each",
                hint="name another with object=… and id=…, or make one with pkcs11-tool "
                "--keypairgen --key-type EC:prime256v1",
            )
        if private[0][Attribute.EXTRACTABLE] or not private[0][Attribute.SENSITIVE]:
            raise Refused(
                "key.unsafe",
                "the private key in the token can be read out",
                hint=_ANOTHER_KEY,
            )
        if bytes(public[0][Attribute.EC_PARAMS]) != _P256:
            raise Refused(
                "key.unsafe", "the key in the token is not one of P-256", hint=_ANOTHER_KEY
            )
        point = bytes(public[0][Attribute.EC_POINT])
        return _Opened(session, private[0], point[-_POINT_BYTES:])

    def _make(self, session: Any) -> tuple[Any, Any]:
        from pkcs11 import Attribute, KeyType, MechanismFlag
        from pkcs11.constants import DEFAULT

        _log.info("making the key %r in the token", self._uri.object)
        parameters = session.create_domain_parameters(
            KeyType.EC, {Attribute.EC_PARAMS: _P256}, local=True
        )
        private = {
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.DECRYPT: DEFAULT,
            Attribute.UNWRAP: DEFAULT,
        }
        public = {Attribute.ENCRYPT: DEFAULT, Attribute.WRAP: DEFAULT}
        # DEFAULT leaves it to the token: to some, saying no to what EC keys cannot do is an error.
        pair: tuple[Any, Any] = parameters.generate_keypair(
            id=self._uri.id or hashlib.sha256(self._uri.object.encode()).digest()[:8],
            label=self._uri.object or "edgectl",
            store=True,
            capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
            public_template=public,
            private_template=private,
        )
        return pair

    def _check(self) -> None:
        """Raise `Refused` unless the private key is that of the public one."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.hashes import SHA256

        try:
            self._public_key.verify(self.sign(b"edgectl"), b"edgectl", ECDSA(SHA256()))
        except InvalidSignature as error:
            raise Refused(
                "key.unsafe",
                "the private key in the token is not that of the public one",
                hint=_ANOTHER_KEY,
            ) from error


def _public_key(point: bytes) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError as error:
        raise Refused(
            "key.unsafe", "the public key in the token is no point of P-256", hint=_ANOTHER_KEY
        ) from error


def _told(error: BaseException) -> str:
    """Return what a token's library says: its errors are names without sentences."""
    return f"{type(error).__name__} {error}".strip()
