"""What can end the pipeline, sorted by who must act.

::

    PipelineError
    ├── PipelineRefused     the model or its data: whoever pushed them must change something
    ├── PipelineFailed      a process limit or a crash; trying again may or may not help
    └── PipelineCancelled   somebody asked for it

Codes are stable (``area.problem``): ``model.…`` about the model file, ``data.…`` about calibration
or evaluation data, ``pipeline.…`` about the run itself.
"""

from __future__ import annotations

from typing import Any

__all__ = ["PipelineCancelled", "PipelineError", "PipelineFailed", "PipelineRefused"]


class PipelineError(Exception):
    """The pipeline ended without variants.

    Attributes:
        code: stable, for programs.
        detail: what was found, for a person.
        hint: what to do next, for a person.
        data: more, as JSON can hold it; ``report`` is the report as far as it got.
    """

    def __init__(
        self, code: str, detail: str, hint: str = "", data: dict[str, Any] | None = None
    ) -> None:
        super().__init__(f"{code}: {detail}" + (f" {hint}" if hint else ""))
        self.code = code
        self.detail = detail
        self.hint = hint
        self.data = data or {}


class PipelineRefused(PipelineError):
    """The model or its data cannot be accepted as they are."""


class PipelineFailed(PipelineError):
    """The child ran into a limit (``pipeline.memory``, ``pipeline.time``) or crashed."""


class PipelineCancelled(PipelineError):
    """The work was stopped because somebody asked for it."""
