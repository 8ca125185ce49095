"""``tell_outcome``: an application says what a request to a model has turned out to be of.

::

    prediction = model.predict(window, request="order-7")
    …
    tell_outcome("activity", "order-7", "walking")

The agent tells the server, where it is the label of the sample that was taken of that request, if
one was. It is told only while a policy asks for samples of the model.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from edgectl_agent.errors import AgentError
from edgectl_agent.local_client import ask
from edgectl_agent.local_messages import Outcome
from edgectl_agent.sdk.errors import InputRefused, SdkError
from edgectl_agent.sdk.holding import control_path

__all__ = ["check_request", "tell_outcome"]

_NAME = re.compile(r"[\x21-\x7e]{1,64}")


def check_request(request: str) -> None:
    """Raise `InputRefused` for what cannot be the name of a request."""
    if not _NAME.fullmatch(request):
        raise InputRefused(
            "sdk.request",
            f"{request[:80]!r} is no name of a request: 1 to 64 printable characters of ASCII "
            "without spaces",
        )


def tell_outcome(model: str, request: str, label: str, *, socket: str | Path | None = None) -> None:
    """Tell what a request has turned out to be of.

    Args:
        model: name of the slot that was asked.
        request: as it was named in `Model.predict`; of one with many rows ``REQUEST:ROW``.
        label: name of a class of the model.
        socket: path of the agent's control_socket, found as `hold` finds it.

    Raises:
        InputRefused: one of them is no name.
        SdkError: the agent does not answer, or refuses; the code is the agent's, such as
            ``outcome.unasked`` where no policy asks for samples of the model.
    """
    wanted = {"request": "outcome", "slot": model, "name": request, "label": label}
    try:
        ask(control_path(socket), msgspec.convert(wanted, Outcome))
    except msgspec.ValidationError as error:
        raise InputRefused("sdk.outcome", f"no outcome of a request: {error}") from error
    except AgentError as error:
        raise SdkError(error.code, error.detail, hint=error.hint) from error
