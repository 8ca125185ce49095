"""TLS with a key that Python's `ssl` cannot read: a provider for OpenSSL 3 that asks us to sign.

`ssl.SSLContext.load_cert_chain` takes files only. So a file is given that names a key instead of
holding one, and OpenSSL is given a provider, written here, that understands it. It then calls us
back for the one signature that a handshake needs.

Rules:

1. Only documented interfaces are used: provider(7), provider-keymgmt(7), provider-signature(7),
   provider-decoder(7). The numbers below are those of ``openssl/core_dispatch.h``.
2. The provider does one thing: sign with a key that was offered. All else (public keys, other
   files, random numbers, the handshake itself) stays with OpenSSL's own provider, and it is checked
   that it does.
3. What OpenSSL holds of ours is memory of OpenSSL's own, freed by its own function: nothing of
   Python is called for it, also not when the interpreter has ended.
4. An exception does not pass through C: it is logged, and OpenSSL told that it failed. The
   handshake fails then, and is tried again as any other.
"""

from __future__ import annotations

import binascii
import ctypes
import functools
import hashlib
import logging
import threading
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_size_t, c_uint, c_void_p
from typing import Any

from edgectl_agent.errors import Refused

__all__ = ["is_reference", "offer"]

_NAME = b"edgectl"
_SIGNATURES = b"EDGECTL-ECDSA"
"""A name of our own, so that nobody else's ECDSA comes here."""
_HEAD = b"-----BEGIN EDGECTL KEY IN A TOKEN-----\n"
_TAIL = b"\n-----END EDGECTL KEY IN A TOKEN-----\n"
_POINT_BYTES = 65
_FILE_BYTES = len(_HEAD) + 88 + len(_TAIL)
"""88: the point in base64."""
_SIGNATURE_BYTES_MAX = 72
_DIGESTS = {
    b"SHA256": hashlib.sha256,
    b"SHA2-256": hashlib.sha256,
    b"SHA384": hashlib.sha384,
    b"SHA2-384": hashlib.sha384,
    b"SHA512": hashlib.sha512,
    b"SHA2-512": hashlib.sha512,
}
_DIGEST_BYTES = 32
"""What ECDSA with P-256 uses of a digest: its first 256 bits (FIPS 186-5, 6.4.1)."""
_OPERATION_KEYS, _OPERATION_SIGNATURES, _OPERATION_DECODERS = 10, 12, 21
_CORE_BIO_READ = 42
_PROVIDER_QUERY = 1027
_SELECT_PRIVATE = 0x01
_INTEGER, _TEXT, _OCTETS = 1, 4, 5
_OBJECT_IS_KEY = 2
_log = logging.getLogger(__name__)


class _Dispatch(Structure):
    _fields_ = (("function_id", c_int), ("function", c_void_p))


class _Algorithm(Structure):
    _fields_ = (
        ("names", c_char_p),
        ("properties", c_char_p),
        ("implementation", POINTER(_Dispatch)),
        ("description", c_char_p),
    )


class _Parameter(Structure):
    _fields_ = (
        ("key", c_char_p),
        ("data_type", c_uint),
        ("data", c_void_p),
        ("data_size", c_size_t),
        ("return_size", c_size_t),
    )


class _Key(Structure):
    """What OpenSSL holds as a key: its public point, and whether we sign with it."""

    _fields_ = (("private", c_int), ("point", ctypes.c_ubyte * _POINT_BYTES))


class _Signing(Structure):
    """What OpenSSL holds of a signature that is being made."""

    _fields_ = (("key", _Key), ("digest", ctypes.c_char * 16))


_Callback = CFUNCTYPE(c_int, POINTER(_Parameter), c_void_p)


def offer(point: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """Have OpenSSL sign with a key of ours.

    Args:
        point: its public half, an uncompressed point of P-256 (65 bytes).
        sign: given a digest (32 bytes), returns an ECDSA signature in DER; called from any thread
            that connects.

    Returns:
        The content of a file that `ssl.SSLContext.load_cert_chain` takes for the key. It is no
        secret: it holds the public half.

    Raises:
        Refused: ``key.tls``: this Python's OpenSSL takes no provider.
    """
    if len(point) != _POINT_BYTES:
        raise ValueError("a point of P-256 has 65 bytes")
    with _loading:
        _provider().signers[point] = sign
    return _HEAD + binascii.b2a_base64(point, newline=False) + _TAIL


def is_reference(content: bytes) -> bool:
    """Say whether the content of a file is of `offer`'s making."""
    return content.startswith(_HEAD)


_loading = threading.Lock()


@functools.cache
def _provider() -> _Provider:
    try:
        import _ssl

        library = ctypes.CDLL(_ssl.__file__)
        return _Provider(library)
    except (ImportError, AttributeError, OSError) as error:
        raise Refused(
            "key.tls",
            "TLS with a key in a token needs OpenSSL 3 as a shared library, and the one of this "
            f"Python is not: {error}",
            hint="use the Python of the distribution",
        ) from error


def _guarded(call: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(call)
    def guarded(*arguments: Any) -> int:
        try:
            return call(*arguments)
        except Exception:  # noqa: BLE001 - it must not pass through C
            _log.exception("TLS with a key in a token")
            return 0

    return guarded


class _Provider:
    """The provider; made once in a process, and never taken down."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Give it to OpenSSL; raise `AttributeError` or `OSError` where that cannot be."""
        self.signers: dict[bytes, Callable[[bytes], bytes]] = {}
        self._library = library
        self._alive: list[Any] = []
        """Whatever OpenSSL has the address of."""
        self._read_bio: Any = None
        self._signature_name = ctypes.create_string_buffer(_SIGNATURES)
        self._allocate = library.CRYPTO_malloc
        self._allocate.restype, self._allocate.argtypes = c_void_p, (c_size_t, c_char_p, c_int)
        self._free = ctypes.cast(library.CRYPTO_free, c_void_p).value
        self._locate = library.OSSL_PARAM_locate
        self._locate.restype = POINTER(_Parameter)
        self._locate.argtypes = (POINTER(_Parameter), c_char_p)
        self._operations = {
            _OPERATION_KEYS: self._table(b"EC", b"provider=edgectl", self._key_functions()),
            _OPERATION_SIGNATURES: self._table(
                _SIGNATURES, b"provider=edgectl", self._signature_functions()
            ),
            _OPERATION_DECODERS: self._table(
                b"EC", b"provider=edgectl,input=pem", self._decoder_functions()
            ),
        }
        self._start()

    def _start(self) -> None:
        library = self._library
        kind = CFUNCTYPE(c_int, c_void_p, POINTER(_Dispatch), POINTER(c_void_p), POINTER(c_void_p))
        start = kind(_guarded(self._initialise))
        self._alive.append(start)
        library.OSSL_PROVIDER_add_builtin.argtypes = (c_void_p, c_char_p, c_void_p)
        library.OSSL_PROVIDER_try_load.restype = c_void_p
        library.OSSL_PROVIDER_try_load.argtypes = (c_void_p, c_char_p, c_int)
        keep_the_default = 1
        if not library.OSSL_PROVIDER_add_builtin(
            None, _NAME, ctypes.cast(start, c_void_p)
        ) or not library.OSSL_PROVIDER_try_load(None, _NAME, keep_the_default):
            raise OSError("OpenSSL refuses the provider")
        library.EVP_KEYMGMT_fetch.restype = c_void_p
        library.EVP_KEYMGMT_fetch.argtypes = (c_void_p, c_char_p, c_char_p)
        library.EVP_KEYMGMT_get0_provider.restype = c_void_p
        library.EVP_KEYMGMT_get0_provider.argtypes = (c_void_p,)
        library.OSSL_PROVIDER_get0_name.restype = c_char_p
        library.OSSL_PROVIDER_get0_name.argtypes = (c_void_p,)
        library.EVP_KEYMGMT_free.argtypes = (c_void_p,)
        common = library.EVP_KEYMGMT_fetch(None, b"EC", None)
        name = library.OSSL_PROVIDER_get0_name(library.EVP_KEYMGMT_get0_provider(common))
        library.EVP_KEYMGMT_free(common)
        if name == _NAME:
            raise OSError("its other keys would come to the provider as well")

    def _initialise(self, handle: int, core: Any, functions: Any, context: Any) -> int:
        position = 0
        while core[position].function_id:
            if core[position].function_id == _CORE_BIO_READ:
                kind = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, POINTER(c_size_t))
                self._read_bio = kind(core[position].function)
            position += 1
        query = CFUNCTYPE(c_void_p, c_void_p, c_int, POINTER(c_int))(_guarded(self._query))
        table = self._dispatch([(_PROVIDER_QUERY, query)])
        functions[0] = ctypes.cast(table, c_void_p).value
        context[0] = handle
        return int(self._read_bio is not None)

    def _query(self, _context: int, operation: int, no_cache: Any) -> int:
        no_cache[0] = 0
        table = self._operations.get(operation)
        return 0 if table is None else ctypes.addressof(table)

    def _dispatch(self, functions: list[tuple[int, Any]]) -> Any:
        table = (_Dispatch * (len(functions) + 1))()
        for place, (number, function) in enumerate(functions):
            address = function if isinstance(function, int) else ctypes.cast(function, c_void_p)
            table[place] = _Dispatch(number, address)
        self._alive += [table, functions]
        return table

    def _table(self, names: bytes, properties: bytes, functions: list[tuple[int, Any]]) -> Any:
        table = (_Algorithm * 2)()
        table[0] = _Algorithm(names, properties, self._dispatch(functions), None)
        return table

    def _new(self, kind: type[Structure]) -> int:
        """Return the address of zeroed memory of OpenSSL's own."""
        address = self._allocate(ctypes.sizeof(kind), b"", 0)
        if address is None:
            raise MemoryError
        ctypes.memset(address, 0, ctypes.sizeof(kind))
        return int(address)

    # ------------------------------------------------------------ keys

    def _key_functions(self) -> list[tuple[int, Any]]:
        described = self._parameters(
            (b"bits", _INTEGER),
            (b"security-bits", _INTEGER),
            (b"max-size", _INTEGER),
            (b"group", _TEXT),
            (b"point-format", _TEXT),
            (b"field-type", _TEXT),
            (b"default-digest", _TEXT),
            (b"pub", _OCTETS),
        )
        taken = self._parameters((b"group", _TEXT), (b"pub", _OCTETS))
        library = self._library
        for name in ("OSSL_PARAM_set_int", "OSSL_PARAM_set_utf8_string"):
            getattr(library, name).argtypes = (
                POINTER(_Parameter),
                c_int if name.endswith("int") else c_char_p,
            )
        library.OSSL_PARAM_set_octet_string.argtypes = (POINTER(_Parameter), c_char_p, c_size_t)
        two = CFUNCTYPE(c_int, c_void_p, c_int)
        return [
            (1, CFUNCTYPE(c_void_p, c_void_p)(_guarded(lambda _context: self._new(_Key)))),
            (8, CFUNCTYPE(c_void_p, POINTER(c_void_p), c_size_t)(_guarded(self._take))),
            (10, self._free),
            (11, CFUNCTYPE(c_int, c_void_p, POINTER(_Parameter))(_guarded(self._describe))),
            (12, CFUNCTYPE(c_void_p, c_void_p)(_guarded(lambda _context: described))),
            (20, CFUNCTYPE(c_void_p, c_int)(_guarded(self._operation_name))),
            (21, two(_guarded(lambda key, what: _key(key).private or not what & _SELECT_PRIVATE))),
            (23, CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)(_guarded(self._same))),
            (40, CFUNCTYPE(c_int, c_void_p, c_int, POINTER(_Parameter))(_guarded(self._import))),
            (41, CFUNCTYPE(c_void_p, c_int)(_guarded(lambda _selection: taken))),
        ]

    def _parameters(self, *parameters: tuple[bytes, int]) -> int:
        table = (_Parameter * (len(parameters) + 1))()
        for place, (key, kind) in enumerate(parameters):
            table[place] = _Parameter(key, kind, None, 0, 0)
        self._alive.append(table)
        return ctypes.addressof(table)

    def _operation_name(self, operation: int) -> int:
        """Say that only we sign with these keys."""
        if operation != _OPERATION_SIGNATURES:
            return 0
        return ctypes.addressof(self._signature_name)

    @staticmethod
    def _take(reference: Any, _size: int) -> int:
        """Take over a key that `_decode` made."""
        address = reference[0]
        reference[0] = None
        return int(address)

    def _describe(self, key: int, parameters: Any) -> int:
        library, point = self._library, bytes(_key(key).point)
        done = True
        for name, number in ((b"bits", 256), (b"security-bits", 128), (b"max-size", 72)):
            if asked := self._locate(parameters, name):
                done &= bool(library.OSSL_PARAM_set_int(asked, number))
        for name, text in (
            (b"group", b"prime256v1"),
            (b"point-format", b"uncompressed"),
            (b"field-type", b"prime-field"),
            (b"default-digest", b"SHA256"),
        ):
            if asked := self._locate(parameters, name):
                done &= bool(library.OSSL_PARAM_set_utf8_string(asked, text))
        if asked := self._locate(parameters, b"pub"):
            done &= bool(library.OSSL_PARAM_set_octet_string(asked, point, _POINT_BYTES))
        return int(done)

    @staticmethod
    def _same(first: int, second: int, _selection: int) -> int:
        return int(bytes(_key(first).point) == bytes(_key(second).point))

    def _import(self, key: int, selection: int, parameters: Any) -> int:
        """Take a public key, which is then compared: a certificate's with ours."""
        found = self._locate(parameters, b"pub")
        if selection & _SELECT_PRIVATE and self._locate(parameters, b"priv"):
            return 0
        if not found or found[0].data_size != _POINT_BYTES:
            return 0
        ctypes.memmove(_key(key).point, found[0].data, _POINT_BYTES)
        return 1

    # ------------------------------------------------------------ signatures

    def _signature_functions(self) -> list[tuple[int, Any]]:
        return [
            (1, CFUNCTYPE(c_void_p, c_void_p, c_void_p)(_guarded(lambda *_: self._new(_Signing)))),
            (
                8,
                CFUNCTYPE(c_int, c_void_p, c_char_p, c_void_p, c_void_p)(_guarded(self._begin)),
            ),
            (
                11,
                CFUNCTYPE(
                    c_int, c_void_p, c_void_p, POINTER(c_size_t), c_size_t, c_void_p, c_size_t
                )(_guarded(self._sign)),
            ),
            (16, self._free),
        ]

    @staticmethod
    def _begin(signing: int, digest: bytes | None, key: int | None, _parameters: Any) -> int:
        state = _Signing.from_address(signing)
        digest = (digest or b"SHA256").upper()
        if digest not in _DIGESTS or key is None or not _key(key).private:
            return 0
        state.digest = digest
        ctypes.memmove(byref(state), key, ctypes.sizeof(_Key))
        return 1

    def _sign(  # noqa: PLR0917 - as OpenSSL calls it
        self, signing: int, into: int | None, size: Any, room: int, text: int, text_size: int
    ) -> int:
        if into is None:
            size[0] = _SIGNATURE_BYTES_MAX
            return 1
        state = _Signing.from_address(signing)
        digest = _DIGESTS[state.digest](ctypes.string_at(text, text_size)).digest()
        signature = self.signers[bytes(state.key.point)](digest[:_DIGEST_BYTES])
        if len(signature) > room:
            return 0
        ctypes.memmove(into, signature, len(signature))
        size[0] = len(signature)
        return 1

    # ------------------------------------------------------------ files

    def _decoder_functions(self) -> list[tuple[int, Any]]:
        decode = CFUNCTYPE(
            c_int, c_void_p, c_void_p, c_int, _Callback, c_void_p, c_void_p, c_void_p
        )
        return [
            (1, CFUNCTYPE(c_void_p, c_void_p)(_guarded(lambda _context: self._new(_Key)))),
            (2, self._free),
            (11, decode(_guarded(self._decode))),
        ]

    def _decode(
        self, _context: int, source: int, _selection: int, found: Any, argument: int, *_: Any
    ) -> int:
        """Give a key for a file that `offer` wrote; pass over anything else."""
        content = ctypes.create_string_buffer(_FILE_BYTES)
        size = c_size_t(0)
        self._read_bio(source, content, _FILE_BYTES, byref(size))
        if not content.raw.startswith(_HEAD):
            return 1
        point = binascii.a2b_base64(content.raw[len(_HEAD) : -len(_TAIL)])
        if point not in self.signers:
            return 1
        reference = c_void_p(self._new(_Key))
        key = _key(reference.value)
        key.private = 1
        key.point[:] = point
        kind, name = c_int(_OBJECT_IS_KEY), ctypes.create_string_buffer(b"EC")
        parameters = (_Parameter * 4)(
            _Parameter(b"type", _INTEGER, _address(kind), ctypes.sizeof(kind), 0),
            _Parameter(b"data-type", _TEXT, _address(name), 2, 0),
            _Parameter(b"reference", _OCTETS, _address(reference), ctypes.sizeof(reference), 0),
        )
        done = found(parameters, argument)
        if reference.value is not None:
            self._library.CRYPTO_free(reference, b"", 0)
        return int(done)


def _key(address: int | None) -> _Key:
    assert address is not None
    return _Key.from_address(address)


def _address(of: Any) -> int:
    return ctypes.addressof(of)
