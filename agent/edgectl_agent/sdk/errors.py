"""What an application hears from the SDK.

::

    SdkError              has a stable `code`, a sentence, and the next step
    ├── ModelUnavailable  there is no model to ask now: the agent is away, or nothing serves
    ├── InputRefused      the input is outside the model's contract; also a ValueError
    └── PredictionFailed  the model failed on this input
"""

from __future__ import annotations

from edgectl_agent.errors import AgentError

__all__ = ["InputRefused", "ModelUnavailable", "PredictionFailed", "SdkError"]


class SdkError(AgentError):
    """Something about a model of this device."""

    def __str__(self) -> str:
        """Return the whole of it: an application prints no more than this."""
        step = f"; try: {self.hint}" if self.hint else ""
        return f"{self.code}: {self.detail}{step}"


class ModelUnavailable(SdkError):
    """There is no model to ask now.

    Codes: ``sdk.agent`` (no agent answers), ``sdk.permission`` (this user may not connect),
    ``sdk.empty`` (nothing serves in the slot yet), ``sdk.withdrawn`` (it was taken from the
    device), ``sdk.refused`` (the agent refuses this application), ``sdk.load`` (the model cannot be
    loaded in this process), ``sdk.busy`` and ``sdk.token`` (the inference
    endpoint has too much to do, or wants its token), ``sdk.closed``.
    """


class InputRefused(SdkError, ValueError):
    """The input is outside the model's contract, or a name is none.

    Codes: ``sdk.input``, ``sdk.request`` (the name of a request), ``sdk.outcome``.
    """


class PredictionFailed(SdkError):
    """The model failed on this input. Code: ``sdk.failed``."""
