"""What an idle device needs of keys and certificates, from the OpenSSL that `ssl` has loaded.

The package `cryptography` brings an OpenSSL of its own: some 10 MB of memory for one signature a
minute. It does the rest (enrolling, renewing, keys of encrypted bundles), and is loaded by that.

Rules:

1. Only documented functions of OpenSSL 3 are called: PEM_read_bio_PrivateKey(3),
   EVP_DigestSign(3), EVP_PKEY_check(3), X509_get0_notBefore(3), ASN1_TIME_to_tm(3).
2. Where something is not as expected, the answer is None: then `cryptography` judges and says what
   is wrong. So also where this Python's OpenSSL is no shared library.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import byref, c_char_p, c_int, c_long, c_size_t, c_void_p
from datetime import UTC, datetime
from typing import Any

__all__ = ["SigningKey", "open_key", "read_times"]

_P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
"""How a SubjectPublicKeyInfo of P-256 with an uncompressed point begins (RFC 5480)."""
_PUBLIC_BYTES = 91
_SIGNATURE_BYTES_MAX = 72
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ASN1_TIME_to_tm": (c_int, (c_void_p, c_void_p)),
    "BIO_free": (c_int, (c_void_p,)),
    "BIO_new_mem_buf": (c_void_p, (c_char_p, c_int)),
    "ERR_clear_error": (None, ()),
    "EVP_DigestSign": (c_int, (c_void_p, c_char_p, c_void_p, c_char_p, c_size_t)),
    "EVP_DigestSignInit": (c_int, (c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)),
    "EVP_MD_CTX_free": (None, (c_void_p,)),
    "EVP_MD_CTX_new": (c_void_p, ()),
    "EVP_PKEY_CTX_free": (None, (c_void_p,)),
    "EVP_PKEY_CTX_new": (c_void_p, (c_void_p, c_void_p)),
    "EVP_PKEY_check": (c_int, (c_void_p,)),
    "EVP_PKEY_free": (None, (c_void_p,)),
    "EVP_sha256": (c_void_p, ()),
    "PEM_read_bio_PrivateKey": (c_void_p, (c_void_p, c_void_p, c_void_p, c_char_p)),
    "PEM_read_bio_X509": (c_void_p, (c_void_p, c_void_p, c_void_p, c_char_p)),
    "X509_free": (None, (c_void_p,)),
    "X509_get0_notAfter": (c_void_p, (c_void_p,)),
    "X509_get0_notBefore": (c_void_p, (c_void_p,)),
    "i2d_PUBKEY": (c_int, (c_void_p, c_void_p)),
}


class _Time(ctypes.Structure):
    """``struct tm``, with what glibc and musl have at its end."""

    _fields_ = (("field", c_int * 9), ("offset", c_long), ("zone", c_char_p))


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        import _ssl

        library = ctypes.CDLL(_ssl.__file__)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (ImportError, AttributeError, OSError):
        return None
    return library


class SigningKey:
    """An ECDSA P-256 key; may be used from any thread."""

    def __init__(self, library: ctypes.CDLL, address: int, public_der: bytes) -> None:
        """Take over an EVP_PKEY, which is freed with this object."""
        self._library = library
        self._address = address
        self.public_der = public_der
        """SubjectPublicKeyInfo."""

    def __del__(self) -> None:
        """Free the key."""
        self._library.EVP_PKEY_free(self._address)

    def sign(self, content: bytes) -> bytes:
        """Return an ECDSA signature (P-256, SHA-256) in DER."""
        library = self._library
        signature = ctypes.create_string_buffer(_SIGNATURE_BYTES_MAX)
        size = c_size_t(_SIGNATURE_BYTES_MAX)
        context = library.EVP_MD_CTX_new()
        try:
            if (
                library.EVP_DigestSignInit(context, None, library.EVP_sha256(), None, self._address)
                != 1
                or library.EVP_DigestSign(context, signature, byref(size), content, len(content))
                != 1
            ):
                library.ERR_clear_error()
                raise MemoryError("OpenSSL does not sign")  # nothing else is left that may fail
        finally:
            library.EVP_MD_CTX_free(context)
        return signature.raw[: size.value]


def open_key(pem: bytes) -> SigningKey | None:
    """Return the P-256 key of an unencrypted PEM file; None where it has to be judged elsewhere."""
    library = _library()
    if library is None:
        return None
    # An empty passphrase: without one OpenSSL would ask the terminal for that of an encrypted key.
    address = _read(library, library.PEM_read_bio_PrivateKey, pem)
    if address is None:
        return None
    key = SigningKey(library, address, _public_der(library, address))
    good = len(key.public_der) == _PUBLIC_BYTES and key.public_der.startswith(_P256)
    return key if good and _belong_together(library, address) else None


def read_times(pem: bytes) -> tuple[datetime, datetime] | None:
    """Return from when until when a certificate is good; None where `open_key` gives None."""
    library = _library()
    certificate = None if library is None else _read(library, library.PEM_read_bio_X509, pem)
    if library is None or certificate is None:
        return None
    try:
        start = _moment(library, library.X509_get0_notBefore(certificate))
        end = _moment(library, library.X509_get0_notAfter(certificate))
    finally:
        library.X509_free(certificate)
    return None if start is None or end is None else (start, end)


def _read(library: ctypes.CDLL, function: Any, pem: bytes) -> int | None:
    source = library.BIO_new_mem_buf(pem, len(pem))
    try:
        found: int | None = function(source, None, None, b"")
    finally:
        library.BIO_free(source)
    library.ERR_clear_error()  # a failure of ours must not be found by the next one who uses TLS
    return found


def _public_der(library: ctypes.CDLL, key: int) -> bytes:
    size = library.i2d_PUBKEY(key, None)
    if size != _PUBLIC_BYTES:
        return b""
    content = ctypes.create_string_buffer(size)
    place = c_void_p(ctypes.addressof(content))
    library.i2d_PUBKEY(key, byref(place))
    return content.raw


def _belong_together(library: ctypes.CDLL, key: int) -> bool:
    """Say whether private and public half are one key: a bit on the disk may have flipped."""
    context = library.EVP_PKEY_CTX_new(key, None)
    good: bool = library.EVP_PKEY_check(context) == 1
    library.EVP_PKEY_CTX_free(context)
    library.ERR_clear_error()
    return good


def _moment(library: ctypes.CDLL, time: int) -> datetime | None:
    found = _Time()
    if library.ASN1_TIME_to_tm(time, byref(found)) != 1:
        library.ERR_clear_error()
        return None
    second, minute, hour, day, month, year, *_ = found.field
    try:
        return datetime(year + 1900, month + 1, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
