"""One OpenID provider, as seen by HTTP: discovery, keys, code against tokens, user info.

Rules: https, and http only between loopback addresses; no redirects; every answer has a length and
a time; at most `_REQUESTS_AT_ONCE` requests are under way, so that a slow provider cannot take the
threads of the server. What discovery says is kept for `_METADATA_S`, keys for `_KEYS_S`, or until
a token names a key that is not among them; a failure is kept for `_FAILURE_S`. Nothing is asked
before somebody wants to log in, and the server starts without the provider.
"""

from __future__ import annotations

import ssl
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar
from urllib.parse import quote_plus, urlsplit

import msgspec

from edgectl_server.errors import Unauthorized, Unavailable
from edgectl_server.openid.id_tokens import ALGORITHMS, import_keys

if TYPE_CHECKING:
    import httpx2
    from joserfc.jwk import KeySet

__all__ = ["Metadata", "Provider", "Tokens", "is_safe_address"]

_ANSWER_BYTES_MAX = 256 * 1024
_REQUEST_S = 5.0
_ANSWER_S_MAX = 10.0
_REQUESTS_AT_ONCE = 8
_METADATA_S = 600.0
_KEYS_S = 3600.0
_FAILURE_S = 10.0
_OK = 200
_REFUSED = frozenset({400, 401, 403})

Answer = TypeVar("Answer")


class Metadata(msgspec.Struct, frozen=True):
    """What discovery says (OpenID Connect Discovery 1.0, 3; RFC 9207); other fields are ignored."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    id_token_signing_alg_values_supported: tuple[str, ...] = ("RS256",)
    authorization_response_iss_parameter_supported: bool = False


class Tokens(msgspec.Struct, frozen=True):
    """The answer of the token endpoint; neither is kept."""

    id_token: str
    access_token: str = ""


class _Found(NamedTuple):
    at: float
    metadata: Metadata


class Provider:
    """Asks one provider; safe for use by several threads."""

    def __init__(self, issuer: str, client_id: str, client_secret: str) -> None:
        import httpx2

        self.issuer = issuer
        self.client_id = client_id
        self._secret = client_secret
        self._slots = threading.BoundedSemaphore(_REQUESTS_AT_ONCE)
        self._found: _Found | None = None
        self._failed_at: float | None = None
        self._keys: tuple[float, KeySet] | None = None
        self._missed_at: float | None = None
        self._http = httpx2.Client(
            verify=_authorities(),
            timeout=httpx2.Timeout(_REQUEST_S),
            follow_redirects=False,
            # Loopback is never reached through a proxy of the environment.
            trust_env=urlsplit(issuer).scheme == "https",
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )

    def close(self) -> None:
        """Close the sockets."""
        self._http.close()

    def metadata(self) -> Metadata:
        """Return what discovery says.

        Raises:
            Unavailable: ``openid.provider``.
        """
        at = time.monotonic()
        if self._found is not None and at - self._found.at < _METADATA_S:
            return self._found.metadata
        if self._failed_at is not None and at - self._failed_at < _FAILURE_S:
            _unavailable("did not answer a moment ago")
        try:
            metadata = self._discover()
        except Unavailable:
            self._failed_at, self._found = at, None
            raise
        self._found, self._failed_at = _Found(at, metadata), None
        return metadata

    def keys(self, *, fresh: bool = False) -> KeySet:
        """Return the keys that sign ID tokens.

        Args:
            fresh: one was missing; they are asked for anew, but not again and again for that.

        Raises:
            Unavailable: ``openid.provider``.
        """
        at = time.monotonic()
        if fresh and (self._missed_at is None or at - self._missed_at >= _FAILURE_S):
            self._missed_at = at
        elif self._keys is not None and at - self._keys[0] < _KEYS_S:
            return self._keys[1]
        document = self._ask("GET", self.metadata().jwks_uri, dict[str, Any])
        try:
            keys = import_keys(document)
        except ValueError as error:
            _unavailable("gave no keys that can be read", error)
        self._keys = (at, keys)
        return keys

    def exchange(self, code: str, verifier: str, redirect_uri: str) -> Tokens:
        """Exchange a code for tokens (RFC 6749, 4.1.3; RFC 7636).

        Raises:
            Unauthorized: ``openid.code``: the provider does not take the code, or not us.
            Unavailable: ``openid.provider``.
        """
        metadata = self.metadata()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        basic: tuple[str, str] | None = None
        if not self._secret:
            form["client_id"] = self.client_id
        elif "client_secret_basic" in metadata.token_endpoint_auth_methods_supported:
            # RFC 6749, 2.3.1: both are form-encoded before they are put together.
            basic = (quote_plus(self.client_id), quote_plus(self._secret))
        else:
            form |= {"client_id": self.client_id, "client_secret": self._secret}
        return self._ask("POST", metadata.token_endpoint, Tokens, data=form, auth=basic)

    def user_info(self, access_token: str) -> dict[str, Any]:
        """Return more claims of the person whose token it is (Core, 5.3); unsigned, by TLS only.

        Raises:
            Unauthorized: ``openid.code``.
            Unavailable: ``openid.provider``.
        """
        headers = {"Authorization": f"Bearer {access_token}"}
        address = self.metadata().userinfo_endpoint
        return self._ask("GET", address, dict[str, Any], headers=headers)

    def _discover(self) -> Metadata:
        address = f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"
        found = self._ask("GET", address, Metadata)
        if found.issuer != self.issuer:
            _unavailable(f"calls itself {found.issuer[:200]!r}: set oidc_issuer to exactly that")
        endpoints = (found.authorization_endpoint, found.token_endpoint, found.jwks_uri)
        optional = (found.userinfo_endpoint, found.end_session_endpoint)
        for one in (*endpoints, *(one for one in optional if one)):
            if not is_safe_address(one, loopback=self.issuer.startswith("http:")):
                _unavailable(f"names an address that is not https: {one[:200]!r}")
        if not set(found.id_token_signing_alg_values_supported) & set(ALGORITHMS):
            _unavailable(f"signs with none of {', '.join(ALGORITHMS)}")
        return found

    def _ask(self, method: str, address: str, kind: type[Answer], **options: Any) -> Answer:
        import httpx2

        if not self._slots.acquire(blocking=False):
            _unavailable("is slow, and others are waiting for it already")
        try:
            with self._http.stream(method, address, **options) as answer:
                content = _read(answer)
                if answer.status_code in _REFUSED:
                    raise Unauthorized(
                        "openid.code",
                        f"the provider refuses: {answer.status_code}, {_error_of(content)}",
                        hint="log in again; if it stays so, compare oidc_client_id, its secret and "
                        "the redirect address that the provider knows",
                    )
                if answer.status_code != _OK:
                    _unavailable(f"answered {answer.status_code} at {address[:200]}")
            return msgspec.json.decode(content, type=kind)
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            _unavailable("does not answer", error)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            _unavailable(f"gave an answer that is not understood at {address[:200]}", error)
        finally:
            self._slots.release()


@cache
def _authorities() -> ssl.SSLContext:
    """Return whom we trust for https, of the system or ``SSL_CERT_FILE``; slow, so read once."""
    import httpx2

    return httpx2.create_ssl_context()


def is_safe_address(address: str, *, loopback: bool) -> bool:
    """Say whether secrets may go to `address`: https, or http to loopback where that is allowed."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.username or parts.password or parts.fragment or not address.isascii():
        return False
    if parts.scheme == "https":
        return True
    return loopback and parts.scheme == "http" and host in {"127.0.0.1", "::1", "localhost"}


def _read(answer: httpx2.Response) -> bytes:
    until = time.monotonic() + _ANSWER_S_MAX
    if answer.headers.get("content-encoding", "identity") != "identity":
        _unavailable("compresses its answer, which was not asked for")
    content = bytearray()
    for piece in answer.iter_raw():
        content += piece
        if len(content) > _ANSWER_BYTES_MAX:
            _unavailable(f"gave an answer of more than {_ANSWER_BYTES_MAX} bytes")
        if time.monotonic() > until:
            _unavailable(f"did not end its answer within {_ANSWER_S_MAX:.0f} s")
    return bytes(content)


class _Refusal(msgspec.Struct):
    error: str


def _error_of(content: bytes) -> str:
    """Return the error code of RFC 6749, 5.2; nothing else that comes is shown."""
    try:
        return repr(msgspec.json.decode(content, type=_Refusal).error[:80])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "without a reason"


def _unavailable(why: str, cause: Exception | None = None) -> NoReturn:
    raise Unavailable(
        "openid.provider",
        f"the OpenID provider {why}",
        hint="log in with a password, or try again in a moment",
    ) from cause
