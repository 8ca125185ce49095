"""What a person or an application at the device asks of the running agent, and what it answers.

One request a connection to the control socket, one line of JSON each way; `Install` brings an open
file with its first byte (SCM_RIGHTS). Everything is bounded; unknown fields are tolerated, because
the command line may be newer than the agent that runs.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from edgectl_agent.errors import AgentError, Refused, Unreachable
from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.messages import Reason
from edgectl_protocol.names import ModelName, Variant
from edgectl_protocol.outcomes import OutcomeLabel, OutcomeRequest

__all__ = [
    "ANSWER_BYTES_MAX",
    "HOLD_S_MAX",
    "REQUEST_BYTES_MAX",
    "SOCKET_FILE",
    "Answer",
    "Hold",
    "Install",
    "Outcome",
    "Release",
    "Request",
    "RollBack",
    "Status",
    "answer_of",
    "decode_answer",
    "decode_request",
    "refusal_of",
]

SOCKET_FILE = "control.sock"
REQUEST_BYTES_MAX = 16 * 1024
ANSWER_BYTES_MAX = 1024 * 1024
HOLD_S_MAX = 30 * 86400.0
"""Longest hold that has an end."""

Who = Annotated[str, Meta(min_length=1, max_length=64)]
Words = Annotated[str, Meta(max_length=256)]


class Hold(Struct, frozen=True, kw_only=True, tag="hold", tag_field="request"):
    """Switch no model until the hold ends; another hold of the same name is replaced."""

    name: Who = "person"
    """Who holds: each holder ends its own."""
    reason: Words = ""
    for_s: Annotated[float, Meta(gt=0, le=HOLD_S_MAX)] | None = None
    """Seconds until it ends by itself; None: not at all."""


class Release(Struct, frozen=True, kw_only=True, tag="release", tag_field="request"):
    """End a hold."""

    name: Who | None = None
    """Whose; None: everybody's."""


class RollBack(Struct, frozen=True, kw_only=True, tag="rollback", tag_field="request"):
    """Return to what ran in a slot before."""

    slot: ModelName


class Install(Struct, frozen=True, kw_only=True, tag="install", tag_field="request"):
    """Install a version from the file that comes with the request."""

    name: Annotated[str, Meta(max_length=256)]
    """Of the file, for people."""
    slot: ModelName | None = None
    """None: the slot that is called as the model."""
    variant: Variant | None = None
    """None: the first one in the file that passes its trial here."""


class Outcome(Struct, frozen=True, kw_only=True, tag="outcome", tag_field="request"):
    """Tell the server what a request to a model has turned out to be of."""

    slot: ModelName
    name: OutcomeRequest
    """The request's ``id``, with ``:ROW`` where it had many rows."""
    label: OutcomeLabel


class Status(Struct, frozen=True, kw_only=True, tag="status", tag_field="request"):
    """Say how the agent is."""


Request = Hold | Release | RollBack | Install | Outcome | Status


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of a request."""

    refused: Reason | None = None
    """Why it is not done; None: it is done, or has begun."""
    hint: Annotated[str, Meta(max_length=1024)] = ""
    """The next step for a person, where it was refused."""
    passing: bool = False
    """Whether the same may succeed a little later, without a change."""
    data: dict[str, Any] = {}


def decode_request(content: bytes) -> Request:
    """Decode what came on the socket; raise `MalformedMessage` for anything else."""
    try:
        request: Request = msgspec.json.decode(content, type=Request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage("not a request to the agent") from error
    return request


def decode_answer(content: bytes) -> Answer:
    """Decode what the agent answered; raise `MalformedMessage` for anything else."""
    try:
        return msgspec.json.decode(content, type=Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage("not an answer of the agent") from error


def answer_of(error: AgentError) -> Answer:
    """Return the answer that carries an error."""
    passing = isinstance(error, Unreachable)
    return Answer(refused=error.reason, hint=error.hint[:1024], passing=passing)


def refusal_of(answer: Answer) -> AgentError | None:
    """Return the error that an answer carries; None: there is none."""
    if answer.refused is None:
        return None
    kind = Unreachable if answer.passing else Refused
    return kind(answer.refused.code, answer.refused.detail, hint=answer.hint)
