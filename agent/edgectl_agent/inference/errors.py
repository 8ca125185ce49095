"""What can go wrong between the supervisor and the inference process.

::

    InferenceError       has a stable `code` and a `detail` for a person
    ├── InferenceDown    the process is not there, or does not answer: start it again, load again
    ├── LoadFailed       a bundle cannot serve; what served before still does
    └── SlotEmpty        nothing is loaded in that slot
"""

from __future__ import annotations

from edgectl_agent.errors import AgentError

__all__ = ["InferenceDown", "InferenceError", "LoadFailed", "SlotEmpty"]


class InferenceError(AgentError):
    """Something about the inference process."""


class InferenceDown(InferenceError):
    """The process could not be started, has died, or does not answer."""


class LoadFailed(InferenceError):
    """Nothing was put into any slot; what served before still serves.

    Attributes:
        slot: whose bundle is to blame, where several were to be loaded; empty where none is.
    """

    def __init__(self, code: str, detail: str, *, slot: str = "") -> None:
        super().__init__(code, detail)
        self.slot = slot


class SlotEmpty(InferenceError):
    """Nothing is loaded in the slot; code ``slot.empty``."""
