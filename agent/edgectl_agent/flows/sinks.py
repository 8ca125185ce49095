"""Where results go: standard output, a file, a topic, a webhook; every sink by its scheme.

A sink sends one row, bytes of a JSON object, and raises `OSError` when it may succeed later,
`Unwelcome` when it never will. It is used by one thread, its `Delivery`.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from edgectl_agent.flows.addresses import Address, parse_address
from edgectl_agent.flows.local_broker import Broker

__all__ = ["SINKS", "TOKEN_VARIABLE", "Sink", "Unwelcome", "open_sink"]

TOKEN_VARIABLE = "EDGECTL_WEBHOOK_TOKEN"  # noqa: S105 - a name
"""Sent as a bearer token, so that it is on no command line."""
_TIMEOUT_S = 10.0
_ANSWER_BYTES_MAX = 64 * 1024
_GOOD = range(200, 300)
_LATER = frozenset({408, 425, 429, *range(500, 600)})


class Unwelcome(Exception):
    """The row will never be taken; the message says why."""


class Sink(Protocol):
    """See the module."""

    def send(self, row: bytes) -> None:
        """Send one row; raise `OSError` or `Unwelcome`."""

    def close(self) -> None:
        """Give everything back."""


class StandardOutput:
    """``-``: a line each."""

    def __init__(self, address: Address) -> None:
        del address

    def send(self, row: bytes) -> None:
        """See `Sink.send`."""
        sys.stdout.buffer.write(row + b"\n")
        sys.stdout.buffer.flush()

    def close(self) -> None:
        """See `Sink.close`."""


class LinesFile:
    """``file:/path.jsonl``: a line each, appended.

    Options: ``rotate_bytes`` (10 MiB): a file that has grown so far becomes ``path.1``, that one
    ``path.2``; ``keep`` (3): how many of those there are.
    """

    def __init__(self, address: Address) -> None:
        self._path = Path(address.place)
        self._rotate_bytes = address.number("rotate_bytes", 10 * 1024**2, 1024, 2**40)
        self._keep = address.number("keep", 3, 0, 1000)
        if not self._path.parent.is_dir() or self._path.is_dir():
            raise address.refused("the folder of the file is not there, or it is a folder itself")

    def send(self, row: bytes) -> None:
        """See `Sink.send`."""
        with self._path.open("ab") as file:
            if file.tell() + len(row) < self._rotate_bytes or not file.tell():
                file.write(row + b"\n")
                return
        self._rotate()
        with self._path.open("ab") as file:
            file.write(row + b"\n")

    def close(self) -> None:
        """See `Sink.close`."""

    def _rotate(self) -> None:
        for number in range(self._keep, 0, -1):
            source = self._numbered(number - 1)
            if source.exists():
                source.rename(self._numbered(number))
        if not self._keep:
            self._path.unlink(missing_ok=True)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path


class Topic:
    """``mqtt://host/topic``: a message each. Options: ``qos`` (1), ``retain`` (0)."""

    def __init__(self, address: Address) -> None:
        self.broker = Broker(address)
        self._qos = address.number("qos", 1, 0, 1)
        self._retain = address.number("retain", 0, 0, 1) == 1
        if set("+#") & set(self.broker.topic):
            raise address.refused("results go to one topic, without + and #")
        self._client = self.broker.connect()
        self._client.loop_start()

    def send(self, row: bytes) -> None:
        """See `Sink.send`."""
        if not self._client.is_connected():
            raise OSError(f"the broker {self.broker.host} is away")
        sent = self._client.publish(self.broker.topic, row, self._qos, self._retain)
        try:
            sent.wait_for_publish(_TIMEOUT_S)
        except (RuntimeError, ValueError) as error:
            raise OSError(str(error)) from error
        if not sent.is_published():
            raise OSError(f"the broker {self.broker.host} has not acknowledged it")

    def close(self) -> None:
        """See `Sink.close`."""
        self._client.disconnect()
        self._client.loop_stop()


class Webhook:
    """``webhook:https://host/path``: a POST each, as JSON, on a connection that is kept.

    A bearer token is taken from the environment. Redirects are not followed.
    """

    def __init__(self, address: Address) -> None:
        try:
            url = urlsplit(address.place)
            port = url.port
        except ValueError as error:
            raise address.refused(str(error)) from error
        if url.scheme not in {"http", "https"} or not url.hostname or "@" in url.netloc:
            raise address.refused("expected webhook:https://host/path, without user and password")
        self._connection = (
            http.client.HTTPSConnection(
                url.hostname, port, timeout=_TIMEOUT_S, context=ssl.create_default_context()
            )
            if url.scheme == "https"
            else http.client.HTTPConnection(url.hostname, port, timeout=_TIMEOUT_S)
        )
        self._target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self._headers = {"Content-Type": "application/json", "User-Agent": "edgectl-agent"}
        token = os.environ.get(TOKEN_VARIABLE, "")
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def send(self, row: bytes) -> None:
        """See `Sink.send`."""
        try:
            self._connection.request("POST", self._target, row, self._headers)
            answer = self._connection.getresponse()
            if len(answer.read(_ANSWER_BYTES_MAX)) == _ANSWER_BYTES_MAX:
                self._connection.close()  # whoever talks that much is not listened to further
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise OSError(f"the webhook does not answer: {error}") from error
        if answer.status in _LATER:
            raise OSError(f"the webhook answers {answer.status}")
        if answer.status not in _GOOD:
            raise Unwelcome(f"the webhook answers {answer.status}")

    def close(self) -> None:
        """See `Sink.close`."""
        self._connection.close()


SINKS: Mapping[str, Callable[[Address], Sink]] = {
    "-": StandardOutput,
    "file": LinesFile,
    "mqtt": Topic,
    "mqtts": Topic,
    "webhook": Webhook,
}


def open_sink(text: str) -> Sink:
    """Return the sink of an address; raise `UsageError`."""
    address = parse_address(text)
    make = SINKS.get(address.scheme)
    if make is None:
        raise address.refused(f"sinks are {', '.join(sorted(SINKS))}")
    sink = make(address)
    try:
        address.check_known()
    except BaseException:
        sink.close()
        raise
    return sink
