"""What can go wrong between the supervisor and the inference process.

::

    InferenceError       has a stable `code` and a `detail` for a person
    ├── InferenceDown    the process is not there, or does not answer: start it again, load again
    └── LoadFailed       this bundle cannot serve; what served before still does
"""

from __future__ import annotations

__all__ = ["InferenceDown", "InferenceError", "LoadFailed"]


class InferenceError(Exception):
    """Something about the inference process.

    Attributes:
        code: stable, such as ``inference.bind`` or ``load.timeout``.
        detail: a sentence for a person.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class InferenceDown(InferenceError):
    """The process could not be started, has died, or does not answer."""


class LoadFailed(InferenceError):
    """The bundle was not put into its slot; what served before still serves."""
