"""What was pushed, as ONNX: recognised, and converted where it is something else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgectl_server.converters.conversion import Conversion, ConverterLimits, convert
from edgectl_server.converters.environments import Environments
from edgectl_server.converters.formats import Format, recognise
from edgectl_server.pipeline.spec import Progress

__all__ = ["Pushed", "as_onnx"]

logger = logging.getLogger(__name__)

_AS_IT_IS: tuple[Format, ...] = ("onnx", "tflite")


@dataclass(frozen=True)
class Pushed:
    """A model for the pipeline.

    Attributes:
        path: the file.
        source_format: what was pushed.
        conversion: what was done and checked; None where nothing had to be.
        for_litert: lines for the report about what was made of it for LiteRT.
    """

    path: Path
    source_format: Format
    conversion: Conversion | None = None
    for_litert: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, where the source has them."""
        return () if self.conversion is None else self.conversion.labels

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the report: what was converted, and how far the two differ."""
        if self.conversion is None:
            return self.for_litert
        summary = f"converted, {self.conversion.summary}"
        return (summary, *self.conversion.warnings, *self.for_litert)


def as_onnx(
    path: Path,
    name: str,
    directory: Path,
    *,
    data: Path | None,
    environments: Environments,
    limits: ConverterLimits,
    on_progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> Pushed:
    """Return a pushed file as the pipeline takes it.

    Args:
        path: the file.
        name: under which it was pushed.
        directory: an existing folder for the work of a converter.
        data: ``.npz`` of inputs to compare with, or None.
        environments: of the converters.
        limits: the bounds of a conversion.
        on_progress: called with stage ``convert``.
        cancelled: asked several times a second.

    Raises:
        PipelineRefused, PipelineFailed, PipelineCancelled: as `convert`.
    """
    found = recognise(path, name)
    if found in _AS_IT_IS:
        return Pushed(path, found)
    conversion = convert(
        path,
        found,
        directory,
        data=data,
        environments=environments,
        limits=limits,
        on_progress=on_progress,
        cancelled=cancelled,
    )
    tools = ", ".join(f"{tool} {version}" for tool, version in conversion.tools.items())
    logger.info("%s: %s, by %s", name, conversion.summary, tools)
    return Pushed(conversion.path, found, conversion)
