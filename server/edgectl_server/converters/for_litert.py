"""An ONNX model for LiteRT as well: float32 and int8, by the converter.

What cannot be converted is a row of the report: the variants for onnxruntime are published without
it, unless they are not wanted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgectl_server.converters.conversion import ConverterLimits, to_tflite
from edgectl_server.converters.environments import Environments
from edgectl_server.pipeline.errors import PipelineFailed, PipelineRefused
from edgectl_server.pipeline.spec import Converted, Progress

__all__ = ["ForLitert", "convert_for_litert"]

logger = logging.getLogger(__name__)

_PRECISIONS: tuple[Literal["fp32", "int8"], ...] = ("fp32", "int8")


@dataclass(frozen=True)
class ForLitert:
    """What came of it.

    Attributes:
        converted: for the pipeline, one a precision.
        notes: lines for the report: how far source and file differ.
    """

    converted: tuple[Converted, ...]
    notes: tuple[str, ...] = ()


def convert_for_litert(
    source: Path,
    directory: Path,
    *,
    precisions: Collection[str],
    calibration: Path | None,
    evaluation: Path | None,
    impossible: str,
    alone: bool,
    environments: Environments,
    limits: ConverterLimits,
    on_progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> ForLitert:
    """Convert a model.

    Args:
        source: the ONNX file.
        directory: an existing folder; files are left below it.
        precisions: that are wanted; there is no fp16 of these.
        calibration: ``.npz`` for int8, which is not tried without.
        evaluation: ``.npz`` to compare fp32 with, where there is no calibration data.
        impossible: why it is not tried at all; empty: it is.
        alone: nothing else is to be published.
        environments: of the converters.
        limits: the bounds of one conversion.
        on_progress: called with stage ``convert``.
        cancelled: asked several times a second.

    Raises:
        PipelineError: nothing could be converted, and it is wanted alone; or it was cancelled.
    """
    if impossible and alone:
        raise PipelineRefused(
            "convert.unsupported",
            f"The model cannot be published for LiteRT: {impossible}.",
            "Push it with --runtime onnxruntime, or push a .tflite file of your own.",
        )
    converted: list[Converted] = []
    notes: list[str] = []
    errors: list[PipelineRefused | PipelineFailed] = []
    for precision in [one for one in _PRECISIONS if one in precisions]:
        reason = impossible
        if precision == "int8" and calibration is None:
            reason = reason or "needs calibration data"
        if reason:
            converted.append(Converted(precision=precision, reason=reason, tried=False))
            continue
        (work := directory / precision).mkdir()
        try:
            made = to_tflite(
                source,
                work,
                precision=precision,
                data=calibration or evaluation,
                environments=environments,
                limits=limits,
                on_progress=on_progress,
                cancelled=cancelled,
            )
        except (PipelineRefused, PipelineFailed) as error:
            logger.info("not converted for LiteRT, %s: %s", precision, error.detail)
            errors.append(error)
            converted.append(Converted(precision=precision, reason=error.detail))
        else:
            converted.append(Converted(precision=precision, path=made.path))
            notes.append(f"converted for LiteRT, {precision}, {made.summary}")
    if alone and errors and not notes:
        raise errors[0]
    return ForLitert(tuple(converted), tuple(notes))
