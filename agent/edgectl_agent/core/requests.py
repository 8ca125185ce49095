"""Judgements about requests, and what the device remembers of them across a power loss.

A request asks for a measurement or for logs, and changes nothing that serves; it is judged apart
from orders, by a counter of its own, and with the same strictness: for this device, newer than the
last one, signed by a key that counts, in its time. What is remembered is written before anything is
done, so that a request is taken once, whatever happens.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from msgspec import Struct

from edgectl_agent.core.orders import CLOCK_SKEW_MAX
from edgectl_agent.core.timing import Moment
from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.messages import BenchmarkRequest, Reason, Request

__all__ = [
    "RequestArrived",
    "RequestRecord",
    "RequestRefused",
    "decode_request_record",
    "refuse_request",
]


class RequestArrived(Struct, frozen=True, kw_only=True):
    """A request whose signature is good."""

    request: Request
    key: str
    """Id of the key that has signed it."""
    keys: tuple[str, ...]
    """Ids of all keys that count by now; `key` is one of them."""


class RequestRefused(Struct, frozen=True, kw_only=True):
    """Something came as a request and is none of ours."""

    reason: Reason


class RequestRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is on the disk."""

    counter: int = 0
    """Of the newest request that was taken."""
    key: str = ""
    """Id of the key that has signed it."""
    pending: BenchmarkRequest | None = None
    """The request that is worked on; its end has not been told."""

    def counter_floor(self, keys: Collection[str]) -> int:
        """Return the number above which requests are new, where those of `keys` count.

        As with orders, numbers of a key that was taken out are forgotten with it.
        """
        return self.counter if self.key in keys else 0


def decode_request_record(content: bytes) -> RequestRecord:
    """Decode what is on the disk; raise `MalformedMessage` for anything else."""
    try:
        return msgspec.json.decode(content, type=RequestRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage("not a record of requests") from error


def refuse_request(request: Request, device: str, floor: int, moment: Moment) -> Reason | None:
    """Say why a request with a good signature is not taken, or None.

    Args:
        request: what has come.
        device: who this is.
        floor: only a higher number is new.
        moment: now.
    """
    clock = f"the device's clock says {moment.wall}"
    if request.device != device:
        return Reason(code="request.device", detail=f"for {request.device}, this is {device}")
    if request.counter <= floor:
        return Reason(
            code="request.replayed",
            detail=f"number {request.counter}, {floor} was taken before",
        )
    if request.issued_at > moment.wall + CLOCK_SKEW_MAX:
        return Reason(code="request.clock", detail=f"issued at {request.issued_at}, {clock}")
    if request.expires_at <= moment.wall:
        return Reason(code="request.expired", detail=f"expired at {request.expires_at}, {clock}")
    return None
