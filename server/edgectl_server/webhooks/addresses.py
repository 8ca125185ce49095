"""Where webhooks may go: addresses of the Internet, not those of the server's own network.

Whoever may add a webhook must not be able to reach through the server what only the server
reaches. So an address is looked at when the connection is made, after its name was looked up: what
the name has meant before, or means to others, says nothing. `GuardedBackend` connects to the very
address that it has looked at. Redirects are not followed by anybody, and a proxy of the environment
is not used.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import httpcore2

from edgectl_server.errors import Refused

__all__ = ["GuardedBackend", "check_url", "is_public"]

_ADDRESSES_MAX = 8
"""That are tried of one name."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address is in its last 32 bits
_SETTING = "webhooks_to_private_addresses"


def check_url(url: str, *, private: bool) -> None:
    """Refuse what is no address for a webhook; names are looked up later.

    Args:
        url: as somebody wrote it.
        private: addresses that are not of the Internet may be meant, and plain HTTP.

    Raises:
        Refused: ``webhook.url``, ``webhook.address``.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    schemes = {"https", "http"} if private else {"https"}
    printable = url.isascii() and url.isprintable() and " " not in url
    if not host or parts.scheme not in schemes or not printable:
        raise Refused(
            "webhook.url",
            f"a webhook goes to an address such as {' or '.join(sorted(schemes))}://host/path",
            hint="give the whole address; plain HTTP needs "
            f"{_SETTING}, a setting of the server, and names in other letters their xn-- form",
        )
    if parts.username or parts.password or parts.fragment:
        raise Refused(
            "webhook.url",
            "the address of a webhook has no user, password or fragment",
            hint="what it sends is signed: the receiver knows it by that",
        )
    if not private and _is_literal(host) and not is_public(host):
        raise _not_public(host)


def is_public(address: str) -> bool:
    """Say whether an IP address is one of the Internet, whatever is wrapped in it."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inside = found.ipv4_mapped or found.sixtofour
        if inside is None and found in _NAT64:
            inside = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(str(inside))
        if found.teredo is not None or found.is_site_local:
            return False
    return found.is_global and not found.is_multicast and not found.is_reserved


class GuardedBackend(httpcore2.SyncBackend):
    """Connects to addresses that may be connected to, and to no others; within one time in all."""

    def __init__(self, *, private: bool, within_s: float) -> None:
        """Prepare one request.

        Args:
            private: addresses that are not of the Internet may be connected to.
            within_s: from now to the end of the request.
        """
        self._private = private
        self._until = time.monotonic() + within_s

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect to the first address of `host` that answers.

        Raises:
            Refused: ``webhook.address``: none of them may be connected to.
            httpcore2.ConnectError: none answers.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"{host} is not known") from error
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))[:_ADDRESSES_MAX]
        allowed = [one for one in addresses if self._private or is_public(one)]
        if not allowed:
            raise _not_public(host)
        last: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in allowed:
            left = _left(self._until, timeout, httpcore2.ConnectTimeout)
            try:
                stream = super().connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                last = error
                continue
            return _TimedStream(stream, self._until)
        raise last

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ARG002 - the interface's
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002 - the interface's
    ) -> httpcore2.NetworkStream:
        """Refuse: there is no such webhook."""
        raise AssertionError(path)


class _TimedStream(httpcore2.NetworkStream):
    """A connection that ends in time, however slowly the other side goes on."""

    def __init__(self, stream: httpcore2.NetworkStream, until: float) -> None:
        self._stream = stream
        self._until = until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._until, timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._until, timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        left = _left(self._until, timeout, httpcore2.ConnectTimeout)
        inside = self._stream.start_tls(ssl_context, server_hostname, left)
        return _TimedStream(inside, self._until)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(until: float, timeout: float | None, late: type[Exception]) -> float:
    """Return how long one operation may take; raise `late` when all time is gone."""
    left = until - time.monotonic()
    if left <= 0:
        raise late("it took too long in all")
    return left if timeout is None else min(left, timeout)


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _not_public(host: str) -> Refused:
    return Refused(
        "webhook.address",
        f"{host} is not an address of the Internet",
        hint=f"if webhooks may go into the server's own network, set {_SETTING} of the server",
    )
