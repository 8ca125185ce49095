"""One HTTP connection to the server: requests out, typed answers or errors in.

Order of checks: no answer → `ServerUnreachable`; an answer larger than `ANSWER_BYTES_MAX` or not
decodable → `ApiError` ``client.answer``; a problem (RFC 9457) → `ApiError` with the server's code.
What is asked for by default is not said: the server's defaults are the same, and an older server
refuses fields that it does not know.
The token goes to this one address only: redirects are not followed, and loopback addresses are
never reached through a proxy.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import structs

from edgectl.errors import ApiError, EdgectlError, LocalError, ServerUnreachable, UntrustedServer
from edgectl.types import Problem
from edgectl_protocol import __version__

if TYPE_CHECKING:
    import httpx2

__all__ = [
    "ANSWER_BYTES_MAX",
    "Connection",
    "Patience",
    "RetryPolicy",
    "is_loopback",
    "pinned_context",
    "server_url",
]

ANSWER_BYTES_MAX = 64 * 1024 * 1024
_TEXT_SHOWN_MAX = 200
_UNAUTHORISED = 401
_FIELDS_SHOWN_MAX = 5
_HINTS = {
    401: "log in with `edgectl login`, or set EDGECTL_TOKEN",
    403: "ask an administrator for a higher role, then log in again",
    404: "see what there is: `edgectl models list`, `devices list`, `rollout list`, `jobs list`",
}
_HINTS_BY_CODE = {
    "route.unknown": "is the server older than this edgectl? upgrade it, or use its version",
}
"""Next steps where the server names none."""

_ERRNO = re.compile(r"\[Errno -?\d+\] ")

Answer = TypeVar("Answer")


def server_url(text: str) -> str:
    """Return the address of a server without a trailing slash.

    Raises:
        LocalError: ``config.url``: not ``http(s)://host[:port][/prefix]``.
    """
    hint = "write it like http://127.0.0.1:8080 or https://edge.example.org"
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise LocalError("config.url", f"{text!r} is not an address", hint) from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise LocalError("config.url", f"{text!r} is not the address of a server", hint)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise LocalError(
            "config.url", "an address must not hold a user, a password, a query or a fragment", hint
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def pinned_context(authority: str) -> ssl.SSLContext:
    """Return a context that believes `authority` (PEM) and nobody else.

    Raises:
        ssl.SSLError: it is no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=authority)
    return context


def is_loopback(url: str) -> bool:
    """Return whether `url` names this very machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class RetryPolicy:
    """How long a lost connection is waited for, in seconds."""

    delay_s: float = 0.25
    """Before the first attempt; doubles with each."""
    delay_s_max: float = 5.0
    give_up_s: float = 120.0
    """Since the first of a row of failures."""


class Patience:
    """Counts failures in a row and waits between them."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._since: float | None = None
        self._delay_s = policy.delay_s

    def succeeded(self) -> None:
        """Forget the failures so far."""
        self._since = None
        self._delay_s = self._policy.delay_s

    def failed(self, error: EdgectlError) -> None:
        """Wait before the next attempt, or raise `error` when it has lasted too long."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if now + self._delay_s - self._since > self._policy.give_up_s:
            raise error
        time.sleep(self._delay_s)
        self._delay_s = min(self._delay_s * 2, self._policy.delay_s_max)


class Connection:
    """Requests to ``<url>/api/v1``; closes its sockets as a context manager.

    Args:
        url: of the server.
        token: sent with every request.
        timeout_s: of one request.
        retry: how long a lost connection is waited for.
        login_hint: the next step when the server does not take the token: who gave it knows it.
        authority: in PEM, the only one that is believed; empty: those that this machine knows.
        unchecked: believe whoever answers, and send no token.
    """

    def __init__(
        self,
        url: str,
        token: str = "",
        *,
        timeout_s: float = 30.0,
        retry: RetryPolicy | None = None,
        login_hint: str = "",
        authority: str = "",
        unchecked: bool = False,
    ) -> None:
        import httpx2

        assert not (unchecked and token), "a token is for who has been checked"
        self.url = server_url(url)
        self._pinned = bool(authority)
        self._login_hint = login_hint
        self.retry = retry or RetryPolicy()
        headers = {"User-Agent": f"edgectl/{__version__}", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._http = httpx2.Client(
            base_url=f"{self.url}/api/v1",
            headers=headers,
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
            trust_env=not is_loopback(self.url),
            verify=pinned_context(authority) if authority else not unchecked,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets."""
        self._http.close()

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        params: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        content: bytes | Iterator[bytes] | None = None,
        read_timeout_s: float | None = None,
        accept: Collection[int] = (),
    ) -> Iterator[httpx2.Response]:
        """Send a request; yield its answer with the body still to be read.

        Answers of status 2xx, and those in `accept`, are no refusals.

        Raises:
            ApiError: the server refused.
            ServerUnreachable: no answer, or it broke off; also while the body is read inside.
        """
        import httpx2

        options: dict[str, Any] = {}
        if read_timeout_s is not None:
            options["timeout"] = httpx2.Timeout(10.0, read=read_timeout_s)
        try:
            with self._http.stream(
                method, path, params=list(params), headers=headers, content=content, **options
            ) as response:
                if not (response.is_success or response.status_code in accept):
                    refusal = _refusal(response, _body(response))
                    if refusal.status == _UNAUTHORISED and self._login_hint:
                        refusal.hint = self._login_hint
                    raise refusal
                yield response
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        except httpx2.RequestError as error:
            raise ApiError(
                "client.answer", f"the answer cannot be read: {error}", status=0
            ) from error

    def request(
        self,
        method: str,
        path: str,
        kind: type[Answer],
        *,
        params: Sequence[tuple[str, str]] = (),
        body: msgspec.Struct | msgspec.Raw | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        accept: Collection[int] = (),
    ) -> Answer:
        """Send a request and return its answer, decoded as `kind` (``type(None)``: no body).

        Raises:
            ApiError: the server refused, or its answer is not one.
            ServerUnreachable: no answer.
        """
        sent = dict(headers or {})
        if body is not None:
            sent["Content-Type"] = "application/json"
        content = msgspec.json.encode(_said(body)) if body is not None else None
        with self.stream(
            method, path, params=params, headers=sent, content=content, accept=accept
        ) as response:
            text = _body(response)
            if kind is type(None):
                return None
            try:
                return msgspec.json.decode(text, type=kind)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ApiError(
                    "client.answer",
                    f"the answer to {method} {path} is not understood: {error}",
                    "an edgectl server of another version, or none? `edgectl doctor`",
                    status=response.status_code,
                ) from error

    def content(self, path: str) -> bytes:
        """Return the body of an answer as it is; raises as `request` does."""
        with self.stream("GET", path) as response:
            return _body(response)

    def patiently(self, attempt: Callable[[], Answer]) -> Answer:
        """Call `attempt` until the server answers, at most for the retry policy's time."""
        patience = Patience(self.retry)
        while True:
            try:
                return attempt()
            except EdgectlError as error:
                if not is_passing(error):
                    raise
                patience.failed(error)

    def date(self) -> str:
        """Return the ``Date`` header of the server, empty when it sends none."""
        with self.stream("GET", "/version") as response:
            return str(response.headers.get("date", ""))

    def _unreachable(self, error: httpx2.TransportError) -> ServerUnreachable:
        if _has_cause(error, ssl.SSLCertVerificationError):
            return UntrustedServer(
                f"the certificate of {self.url} cannot be verified: {error}",
                f"log in with its authority: edgectl login {self.url} --ca FILE, or with the "
                "fingerprint that the server prints: --fingerprint TEXT",
            )
        what = _ERRNO.sub("", str(error)) or type(error).__name__
        return ServerUnreachable(
            f"no answer from {self.url}: {what}",
            "is it running (`edgectl server start`), is the address right (`edgectl login URL`)?",
        )


def is_passing(error: EdgectlError) -> bool:
    """Return whether the same request may succeed a little later."""
    if isinstance(error, ServerUnreachable):
        return not _has_cause(error, ssl.SSLCertVerificationError)
    return isinstance(error, ApiError) and error.status in {429, 502, 503, 504}


def _has_cause(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False


def _body(response: httpx2.Response) -> bytes:
    content = bytearray()
    for piece in response.iter_bytes():
        content += piece
        if len(content) > ANSWER_BYTES_MAX:
            raise ApiError(
                "client.answer",
                f"the answer is larger than {ANSWER_BYTES_MAX} bytes",
                "ask for fewer at once with --limit",
                status=response.status_code,
            )
    return bytes(content)


def _said(value: Any) -> Any:
    """Return what is to be sent, its structs without the fields that are as by default."""
    match value:
        case msgspec.Struct():
            fields = ((one, getattr(value, one.name)) for one in structs.fields(type(value)))
            return {one.encode_name: _said(it) for one, it in fields if it != _default(one)}
        case dict():
            return {key: _said(one) for key, one in value.items()}
        case list() | tuple():
            return [_said(one) for one in value]
    return value


def _default(field: structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def _refusal(response: httpx2.Response, content: bytes) -> ApiError:
    status = response.status_code
    try:
        problem = msgspec.json.decode(content, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _foreign_refusal(response, content)
    if problem.code == "request.invalid" and problem.detail.startswith("path."):
        name = problem.detail.removeprefix("path.").partition(":")[0]
        return ApiError(
            "request.invalid",
            f"this is not how the id of a {name} is written",
            status=status,
            hint=_HINTS[404],
        )
    detail = problem.detail
    for entry in problem.errors[:_FIELDS_SHOWN_MAX]:
        wrong = f"{entry.get('field', '?')}: {entry.get('message', 'wrong')}"
        if wrong not in detail:
            detail += f"; {wrong}"
    hint = problem.hint or _HINTS_BY_CODE.get(problem.code) or _HINTS.get(status, "")
    return ApiError(problem.code, detail, hint, status=status, data=problem.data)


def _foreign_refusal(response: httpx2.Response, content: bytes) -> ApiError:
    status = response.status_code
    text = content.decode("utf-8", "replace").strip()[:_TEXT_SHOWN_MAX]
    if response.is_redirect:
        place = response.headers.get("location", "?")
        return ApiError(
            f"http.{status}",
            f"the server redirects to {place}, and a token is not sent elsewhere",
            "log in there if you trust it: `edgectl login URL`",
            status=status,
        )
    return ApiError(
        f"http.{status}",
        f"the server answered {status} {response.reason_phrase}: {text or 'no text'}",
        "is this the address of an edgectl server? `edgectl doctor`",
        status=status,
    )
