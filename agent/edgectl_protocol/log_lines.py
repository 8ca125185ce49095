"""Log lines while somebody looks: what asks for them, and what brings them.

The server asks with a signed request for some minutes at most, and again while somebody looks; the
device sends lines as they come and stops by itself. Nothing is kept on the device for it, and
nothing is sent again: a line that does not fit is counted, by `LogLines.first`.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from edgectl_protocol.fields import Count, JobId, Message, Nonce, Time
from edgectl_protocol.names import DeviceId

__all__ = [
    "FOLLOW_S_MAX",
    "LINES_BYTES_MAX",
    "LINES_MAX",
    "LINES_PAYLOAD_TYPE",
    "LOG_FOLLOW_PAYLOAD_TYPE",
    "LogFollowRequest",
    "LogLine",
    "LogLines",
]

LOG_FOLLOW_PAYLOAD_TYPE = "application/vnd.edgectl.log-follow-request.v1+json"
LINES_PAYLOAD_TYPE = "application/vnd.edgectl.log-lines.v1+json"

FOLLOW_S_MAX = 600
"""For so long one request counts."""
LINES_MAX = 200
"""In one message."""
LINES_BYTES_MAX = 32 * 1024
"""Of the lines of one message, as JSON."""


class LogLine(Struct, frozen=True, kw_only=True):
    """One line of a device's log."""

    time: Time | None
    """None: of a journal of an older agent, which kept no times."""
    level: Annotated[str, Meta(max_length=16)]
    logger: Annotated[str, Meta(max_length=128)]
    text: Annotated[str, Meta(max_length=4096)]


class LogFollowRequest(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``down/cmd``, inside a DSSE envelope: send the agent's log lines as they come.

    Numbered and judged as a `BenchmarkRequest`, in the same count.
    """

    device: DeviceId
    follow: JobId
    """The same in requests that go on with it."""
    counter: Count
    nonce: Nonce
    """Of `follow`: it is repeated in what answers."""
    issued_at: Time
    expires_at: Time
    for_s: Annotated[int, Meta(ge=0, le=FOLLOW_S_MAX)]
    """From its arrival, by the device's own count of seconds; 0: stop."""


class LogLines(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``up/event``: lines for whoever looks; neither acknowledged nor sent again."""

    device: DeviceId
    follow: JobId
    nonce: Nonce
    number: Annotated[int, Meta(ge=1, le=2**31)]
    """Of this message: one more each time."""
    first: Count
    """How many lines came before in this follow, those that were left out included."""
    lines: Annotated[tuple[LogLine, ...], Meta(max_length=LINES_MAX)]
    ended: bool = False
    """The device has sent as much as it sends for one follow."""
