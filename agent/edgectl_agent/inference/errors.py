"""What can go wrong between the supervisor and the inference process.

::

    InferenceError       has a stable `code` and a `detail` for a person
    ├── InferenceDown    the process is not there, or does not answer: start it again, load again
    ├── LoadFailed       this bundle cannot serve; what served before still does
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
    """The bundle was not put into its slot; what served before still serves."""


class SlotEmpty(InferenceError):
    """Nothing is loaded in the slot; code ``slot.empty``."""
