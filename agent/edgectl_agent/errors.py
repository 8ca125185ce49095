"""What can go wrong on the device, sorted by who must act.

::

    AgentError            has a stable `code`, a sentence, and the next step as `hint`
    ├── UsageError        the person who started the agent: a setting or an argument (exit code 2)
    ├── Refused           somebody must change something first: token, name, identity, order
    ├── Unreachable       the network, the server or the broker: try again later (exit code 3)
    └── StepError         a step of an update did not succeed
        ├── StepFailed    the world's fault: the update will be tried again
        │   └── KeyUnavailable  an encrypted bundle cannot be opened with what is here
        ├── StepRejected  the model's fault: this digest will not be tried again
        └── StepCancelled a newer order or a stop overtook the step

    TokenAway             an `OSError`: the token with the device's key fails; try again later

Errors of the inference process are in `edgectl_agent.inference.errors`.
"""

from __future__ import annotations

from edgectl_protocol.messages import Reason

__all__ = [
    "AgentError",
    "KeyUnavailable",
    "Refused",
    "StepCancelled",
    "StepError",
    "StepFailed",
    "StepRejected",
    "TokenAway",
    "Unreachable",
    "UsageError",
    "make_reason",
]


class AgentError(Exception):
    """Something that a person or the update machine must hear of.

    Attributes:
        code: stable, ``area.problem``; programs may compare it.
        detail: a sentence for a person; programs may not.
        hint: the next step for a person; empty where there is none.
    """

    exit_code = 1

    def __init__(self, code: str, detail: str, *, hint: str = "") -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.hint = hint

    @property
    def reason(self) -> Reason:
        """The error as it is reported to the server."""
        return make_reason(self.code, self.detail)


class UsageError(AgentError):
    """A setting or an argument is wrong."""

    exit_code = 2


class Refused(AgentError):
    """Something was refused; trying again without a change will not help."""


class Unreachable(AgentError):
    """The server or the broker does not answer."""

    exit_code = 3


class TokenAway(OSError):
    """The token that holds the device's key cannot sign now; nothing else is the matter."""


class StepError(AgentError):
    """A step of an update did not succeed.

    Attributes:
        slot: whose bundle it is about, where a step is of several; empty where that is not known.
    """

    def __init__(self, code: str, detail: str, *, hint: str = "", slot: str = "") -> None:
        super().__init__(code, detail, hint=hint)
        self.slot = slot


class StepFailed(StepError):
    """The step could not be done now and may be tried again."""


class KeyUnavailable(StepFailed):
    """An encrypted bundle cannot be opened with the keys that are here; its files are good."""


class StepRejected(StepError):
    """The step must not be done with this bundle."""


class StepCancelled(StepError):
    """The step was overtaken; nobody waits for its result."""

    def __init__(self) -> None:
        super().__init__("update.cancelled", "overtaken by a newer order or a stop")


def make_reason(code: str, detail: str) -> Reason:
    """Return a `Reason` within the bounds of the contract."""
    return Reason(code=code, detail=detail[:1024])
