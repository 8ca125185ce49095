"""Live snapshots from ``GET /events`` (server-sent events), through restarts of the server.

Each event holds a whole snapshot, so that nothing is lost when one is missed: after a broken
connection the server sends the present state first.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from edgectl.errors import ApiError, EdgectlError, ServerUnreachable
from edgectl.transport import Connection, Patience, is_passing

if TYPE_CHECKING:
    import httpx2

__all__ = ["EVENT_BYTES_MAX", "Event", "events"]

EVENT_BYTES_MAX = 4 * 1024 * 1024
_SILENCE_S_MAX = 60.0
"""The server says something at least every 5 s; a silent connection is a dead one."""
_BEAT = "beat"
"""That there is nothing to say."""

Snapshot = TypeVar("Snapshot")


class Event(msgspec.Struct, frozen=True):
    """A topic, such as ``job:01J…``, and the state of what it names."""

    topic: str
    snapshot: msgspec.Raw

    def read(self, kind: type[Snapshot]) -> Snapshot:
        """Return the snapshot as `kind`; raise `ApiError` ``client.answer`` if it is none."""
        return _decode(bytes(self.snapshot), kind)


def events(connection: Connection, topics: Sequence[str]) -> Generator[Event]:
    """Yield snapshots of `topics` for ever; close the iterator to stop.

    Raises:
        ApiError: the server refused.
        ServerUnreachable: the connection was lost and not regained in time.
    """
    import httpx2

    patience = Patience(connection.retry)
    params = [("topic", topic) for topic in topics]
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    while True:
        try:
            with connection.stream(
                "GET", "/events", params=params, headers=headers, read_timeout_s=_SILENCE_S_MAX
            ) as response:
                _check_content_type(response)
                for message in httpx2.EventSource(response, EVENT_BYTES_MAX):
                    patience.succeeded()
                    if message.data and message.event != _BEAT:
                        yield _decode(message.data, Event)
            # A graceful restart ends the stream without an error.
            patience.failed(ServerUnreachable(f"{connection.url} has ended the stream of events"))
        except EdgectlError as error:
            if not is_passing(error):
                raise
            patience.failed(error)


def _check_content_type(response: httpx2.Response) -> None:
    kind = response.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "text/event-stream":
        raise ApiError(
            "client.answer",
            f"expected a stream of events, got {kind or 'no content type'!r}",
            "does a proxy in between rewrite answers? `edgectl doctor`",
            status=response.status_code,
        )


def _decode(text: str | bytes, kind: type[Snapshot]) -> Snapshot:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(
            "client.answer",
            f"an event of the server is not understood: {error}",
            "server and edgectl of different versions? `edgectl doctor`",
            status=200,
        ) from error
