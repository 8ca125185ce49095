"""One question to a server or mirror over HTTP, with bounds that `http.client` does not have.

Rules:

1. A watch ends the connection when the head of the answer does not come within `HEAD_S_MAX`, when
   nobody says `Reply.alive` for `STALL_S`, and when the step is cancelled: whatever the other side
   does, byte by byte or not at all, the caller gets an exception.
2. At most `REDIRECTS_MAX` redirects, to HTTP and HTTPS only, and not from HTTPS to HTTP. The proof
   of who we are goes to the origin that was configured, and to no other.
3. A connection whose answer was read to its end is kept for the next question, for `IDLE_S`: a
   bundle is five questions, and a handshake costs more bytes than most of them. When it turns out
   to have gone meanwhile, the question is put again, once.
4. The certificate of an HTTPS server, and of where it redirects to, is checked where the setting
   `server_ca` says by what: what comes is judged by signed digests in any case, and what we send
   holds no secret that could be used for anything else.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

from edgectl_agent.errors import Unreachable, UsageError
from edgectl_agent.server_tls import server_context
from edgectl_agent.tls_stream import TlsStream
from edgectl_protocol.pulls import PULL_CLOCK

__all__ = ["Denied", "HttpClient", "Proof", "Reply", "Trouble", "parse_address"]

CONNECT_S = 10.0
HEAD_S_MAX = 20.0
STALL_S = 60.0
IDLE_S = 2.0
REDIRECTS_MAX = 3
RETRY_AFTER_S_MAX = 300.0
_LOCATION_CHARACTERS_MAX = 2048
_PROBLEM_BYTES_MAX = 4096
_WATCH_S = 0.25
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({408, 425, 429})
_UNAUTHORIZED = 401

Proof = Callable[[str, int | None], Mapping[str, str]]
"""Takes the path that is asked for, and the seconds since 1970 where our clock is known to be
wrong; returns headers that say who we are."""


class Trouble(Exception):
    """It did not work now; it may later."""

    def __init__(self, detail: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Denied(Exception):
    """The other side will not give it, or is not what we took it for."""


class Reply:
    """An answer whose head has come."""

    def __init__(self, response: http.client.HTTPResponse, line: _Line) -> None:
        self._response = response
        self._line = line
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers  # type: ignore[assignment]

    def read(self, bytes_max: int) -> bytes:
        """Return the next `bytes_max` bytes, fewer only at the end of the answer.

        Raises:
            Trouble: it broke off, or the watch has ended it.
        """
        try:
            content = self._response.read(bytes_max)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Trouble(self._line.verdict or f"it broke off: {error}") from error
        if self._line.verdict:
            raise Trouble(self._line.verdict)
        if not content and self._response.length:
            raise Trouble(f"it broke off, {self._response.length} bytes before its end")
        return content

    def alive(self) -> None:
        """Note that something useful has come."""
        self._line.extend(STALL_S)

    def is_over(self) -> bool:
        """Say whether it was read to its end, and the connection stays open after it."""
        if self._response.length == 0:
            self._response.close()  # of one without content nothing is ever read
        return self._response.isclosed() and not self._response.will_close


class HttpClient:
    """Asks one server or mirror; used by one thread."""

    def __init__(self, address: str, *, proof: Proof, server_ca: str = "") -> None:
        """Take the address of the server; raise `UsageError` ``settings.value``."""
        self._server_ca = server_ca
        self._context: ssl.SSLContext | None = None
        self._origin = parse_address(address)
        self._base = address.rstrip("/")
        self._proof = proof
        self._server_began_s: float | None = None
        self._kept: tuple[_Origin, _Line] | None = None
        self.address = address

    @contextmanager
    def get(
        self, path: str, headers: Mapping[str, str], cancelled: Callable[[], bool]
    ) -> Iterator[Reply]:
        """Ask for `path`, which begins with a slash; the answer is 200 or 206.

        Raises:
            Trouble: not now.
            Denied: not at all.
        """
        url = self._base + path
        for attempt in range(REDIRECTS_MAX + 1):
            sent = {**headers, "Accept-Encoding": "identity", "User-Agent": "edgectl-agent"}
            if _origin(urlsplit(url)) == _origin(self._origin):
                sent |= self._proof(self._signed_path(url), self._server_time())
            with self._asked(url, sent, cancelled) as reply:
                if reply.status in {200, 206}:
                    yield reply
                    return
                url = self._after(reply, url, retried=attempt > 0)
        raise Denied(f"{self.address} answers with more than {REDIRECTS_MAX} redirects")

    @contextmanager
    def _asked(
        self, url: str, headers: Mapping[str, str], cancelled: Callable[[], bool]
    ) -> Iterator[Reply]:
        """Ask once, by the kept connection if there is one."""
        origin, line, reply = _origin(urlsplit(url)), None, None
        kept, self._kept = self._kept, None
        try:
            if kept is not None:
                line = kept[1]
                if kept[0] == origin and line.begin(cancelled):
                    with contextlib.suppress(Trouble):
                        reply = line.ask(url, headers)
            if reply is None:
                if line is not None:
                    line.end()
                line = _Line(self._connection(url), cancelled)
                reply = line.ask(url, headers)
            yield reply
        finally:
            if line is not None:
                if reply is not None and reply.is_over() and not line.verdict:
                    line.rest()
                    self._kept = origin, line
                else:
                    line.end()

    def _connection(self, url: str) -> http.client.HTTPConnection:
        """Return a connection that is not open yet."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=CONNECT_S)
        if self._context is None:
            try:
                self._context = server_context(self._server_ca)
            except Unreachable as error:
                raise Trouble(error.detail) from error
        return _HttpsConnection(parts.hostname, parts.port, self._context)

    def _server_time(self) -> int | None:
        """Return the time by the server's clock, where it has told us that ours is wrong."""
        if self._server_began_s is None:
            return None
        return int(self._server_began_s + time.monotonic())

    def _signed_path(self, url: str) -> str:
        """Return the path as the server sees it behind a proxy that takes a prefix away."""
        path = urlsplit(url).path
        prefix = self._origin.path.rstrip("/")
        return path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path

    def _after(self, reply: Reply, url: str, *, retried: bool) -> str:
        """Return where to ask next after an answer that is none; raise what it means."""
        if reply.status in _REDIRECTS:
            return _redirected(url, reply.headers.get("Location", ""))
        problem = _problem(reply)
        if reply.status == _UNAUTHORIZED and PULL_CLOCK in problem and not retried:
            told_s = _seconds_of(reply.headers.get("Date", ""))
            self._server_began_s = told_s - time.monotonic()
            return url
        detail = f"{url} answers {reply.status}"
        if reply.status in _BUSY or reply.status >= 500:  # noqa: PLR2004 - of HTTP
            raise Trouble(detail, retry_after_s=_retry_after_s(reply.headers))
        raise Denied(detail)


def parse_address(address: str) -> SplitResult:
    """Return the parts of a server's address; raise `UsageError` ``settings.value``."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(address)
        plain = not parts.query and not parts.fragment and parts.username is None
        if parts.scheme in {"http", "https"} and parts.hostname and plain and parts.port != 0:
            return parts
    raise UsageError(
        "settings.value",
        f"{address!r} is not the address of a server",
        hint="write it as http://host:8080 or https://host",
    )


# ------------------------------------------------------------ one request


class _HttpsConnection(http.client.HTTPConnection):
    """`http.client.HTTPSConnection` over a `TlsStream`."""

    default_port = http.client.HTTPS_PORT

    def __init__(self, host: str, port: int | None, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=CONNECT_S)
        self._context = context

    def connect(self) -> None:
        super().connect()
        self.sock = TlsStream(self.sock, self._context, self.host)


class _Line(threading.Thread):
    """A connection, and a watch that ends it when it takes too long or nobody wants it any more."""

    def __init__(
        self, connection: http.client.HTTPConnection, cancelled: Callable[[], bool]
    ) -> None:
        super().__init__(name="http-watch", daemon=True)
        self._connection = connection
        self._cancelled = cancelled
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._resting = False
        self._socket: socket.socket | TlsStream | None = None
        """The connection forgets it when an answer is to be the last."""
        self._until_s = time.monotonic() + HEAD_S_MAX
        self.verdict = ""
        """Why the connection was ended; empty while it was not."""
        self.start()

    def ask(self, url: str, headers: Mapping[str, str]) -> Reply:
        """Send a question and return the answer whose head has come; raise `Trouble`."""
        try:
            parts = urlsplit(url)
            target = parts.path or "/"
            if parts.query:
                target += f"?{parts.query}"
            self._connection.request("GET", target, headers=dict(headers))
            self._socket = self._connection.sock
            response = self._connection.getresponse()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Trouble(self.verdict or f"no answer from {url}: {error}") from error
        if self.verdict:  # what was cut off may look like the end of a head
            raise Trouble(self.verdict)
        reply = Reply(response, self)
        reply.alive()
        return reply

    def begin(self, cancelled: Callable[[], bool]) -> bool:
        """Take it up again for another question; return whether it is still there."""
        with self._lock:
            if self._over.is_set():
                return False
            self._resting, self._cancelled = False, cancelled
            self._until_s = time.monotonic() + HEAD_S_MAX
            return True

    def rest(self) -> None:
        """Keep it for the next question, for a while."""
        with self._lock:
            self._resting = True
            self._until_s = time.monotonic() + IDLE_S

    def extend(self, seconds: float) -> None:
        """Let it go on for so long from now."""
        self._until_s = time.monotonic() + seconds

    def end(self) -> None:
        """Close it, and watch no longer."""
        self._over.set()
        self.join()
        self._connection.close()

    def run(self) -> None:
        """Look now and then."""
        while not self._over.wait(_WATCH_S):
            with self._lock:
                late = time.monotonic() >= self._until_s
                if self._resting:
                    if late:
                        self._over.set()
                        self._connection.close()
                    continue
            if self._cancelled():
                self.verdict = "it was cancelled"
            elif late:
                self.verdict = "nothing useful has come for too long"
            opened = self._connection.sock or self._socket
            if self.verdict and opened is not None:
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)


# ------------------------------------------------------------ what answers mean


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int


def _origin(parts: SplitResult) -> _Origin:
    usual = 443 if parts.scheme == "https" else 80
    return _Origin(parts.scheme, (parts.hostname or "").lower(), parts.port or usual)


def _redirected(url: str, location: str) -> str:
    bounded = 0 < len(location) <= _LOCATION_CHARACTERS_MAX
    if not bounded or not location.isascii() or not location.isprintable() or " " in location:
        raise Denied(f"{url} redirects to nowhere")
    target = urljoin(url, location)
    try:
        parts = urlsplit(target)
        right = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise Denied(f"{url} redirects to {location[:200]!r}") from error
    if not right or parts.username is not None:
        raise Denied(f"{url} redirects to {location[:200]!r}")
    if urlsplit(url).scheme == "https" and parts.scheme == "http":
        raise Denied(f"{url} redirects to {location[:200]!r}, which is not encrypted")
    return target


def _problem(reply: Reply) -> str:
    try:
        return reply.read(_PROBLEM_BYTES_MAX).decode(errors="replace")
    except Trouble:
        return ""


def _retry_after_s(headers: Mapping[str, str]) -> float:
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), RETRY_AFTER_S_MAX)
    return 0.0  # a date is by a clock that is not ours


def _seconds_of(date: str) -> float:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError) as error:
        raise Denied("the server says that our clock is wrong, and not what time it is") from error
