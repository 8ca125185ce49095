"""Convert a model in a confined child, with the Python of its converter's environment.

What the child leaves is read with bounds and types, and believed as little as the model itself: the
ONNX file that comes out goes through all checks of the pipeline.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from edgectl_server.confined import Ended, isolation
from edgectl_server.converters import foreign
from edgectl_server.converters.environments import ConverterName, Environment, Environments
from edgectl_server.converters.formats import Format
from edgectl_server.pipeline import confinement, system_calls, watched
from edgectl_server.pipeline.child import environment, read_outcome, run_child
from edgectl_server.pipeline.endings import error_of
from edgectl_server.pipeline.errors import PipelineFailed, PipelineRefused
from edgectl_server.pipeline.spec import Ending, Progress

__all__ = ["Check", "Conversion", "ConverterLimits", "convert", "to_tflite"]

logger = logging.getLogger(__name__)

MiB = 1024**2
_STAGE = "convert"
_JOB, _RESULT, _REFUSAL = "job.json", "result.json", "refusal.json"
_NAME = "converter"
_LIBRARIES = ("refusal", "archives", "comparison")
_SCRIPTS: dict[Format, tuple[ConverterName, str]] = {
    "sklearn": ("sklearn", "from_sklearn"),
    "keras": ("tensorflow", "from_tensorflow"),
    "savedmodel": ("tensorflow", "from_tensorflow"),
    "pytorch": ("pytorch", "from_pytorch"),
}
_TOLD_OF: dict[str, tuple[str, ...]] = {
    "from_sklearn": ("scikit-learn", "skops", "skl2onnx", "onnx", "onnxruntime", "numpy"),
    "from_tensorflow": ("tensorflow", "tensorflow_cpu", "keras", "tf2onnx", "onnx", "onnxruntime"),
    "from_pytorch": ("torch", "onnxscript", "onnx-ir", "onnx", "onnxruntime"),
    "to_tflite": ("tensorflow", "tensorflow_cpu", "onnx2tf", "onnx", "onnxruntime"),
}  # fmt: skip


class ConverterLimits(Struct, frozen=True, kw_only=True):
    """Bounds of one conversion; those of the kernel and of the parent."""

    memory_bytes: Annotated[int, Meta(ge=256 * MiB)] = 8192 * MiB
    """Address space; TensorFlow and PyTorch reserve gigabytes and use less."""
    cpu_s: Annotated[int, Meta(ge=1)] = 3600
    wall_s: Annotated[float, Meta(gt=0)] = 3600.0
    file_bytes_max: Annotated[int, Meta(ge=1)] = 2048 * MiB
    files_max: Annotated[int, Meta(ge=64)] = 512
    source_bytes_max: Annotated[int, Meta(ge=1)] = 1024 * MiB
    """Largest file to convert; what comes out has a limit of its own in the pipeline."""
    unpacked_bytes_max: Annotated[int, Meta(ge=1)] = 1024 * MiB
    """What an archive may hold."""


class Check(Struct, frozen=True, kw_only=True):
    """One output of the converted model beside the same of its source."""

    output: Annotated[str, Meta(max_length=512)]
    samples: int
    made_up: bool
    """Random inputs, for lack of data."""
    max_abs: float
    """Largest difference."""
    max_rel: float
    """Largest difference, divided by the value."""
    outside: float
    """Share of the values that differ by more than is allowed."""
    agreement: float | None = None
    """Share of the samples with the same highest score; None where there are no classes."""


class Conversion(Struct, frozen=True, kw_only=True):
    """A model that was converted, for the lineage of what is made of it."""

    path: Path
    source_format: str
    target_format: Literal["onnx", "tflite"]
    tools: dict[str, str]
    """Version by name: Python and the libraries that had a part in it."""
    checks: tuple[Check, ...]
    seconds: float
    labels: tuple[str, ...] = ()
    """Names of the classes, where the source has them."""
    warnings: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """One line about the checks."""
        worst = max(check.max_abs for check in self.checks)
        shares = [check.agreement for check in self.checks if check.agreement is not None]
        same = f", same class {min(shares):.3f}" if shares else ""
        kind = "made-up " if self.checks[0].made_up else ""
        return (
            f"{self.source_format} to {self.target_format}: differs by {worst:.2g} at most{same},"
            f" on {self.checks[0].samples} {kind}samples"
        )


class _Done(Struct, frozen=True):
    """``result.json``."""

    checks: Annotated[tuple[Check, ...], Meta(min_length=1, max_length=64)]
    labels: Annotated[tuple[Annotated[str, Meta(max_length=128)], ...], Meta(max_length=1024)] = ()
    warnings: Annotated[tuple[Annotated[str, Meta(max_length=512)], ...], Meta(max_length=16)] = ()


def convert(
    source: Path,
    source_format: Format,
    directory: Path,
    *,
    data: Path | None,
    environments: Environments,
    limits: ConverterLimits,
    on_progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> Conversion:
    """Convert a model to ONNX and compare the two on samples.

    Args:
        source: the file; a SavedModel is a ``.zip``.
        source_format: as `formats.recognise` says; one that a converter takes.
        directory: an existing folder of this conversion alone; ``model.onnx`` is left in it.
        data: ``.npz`` of inputs to compare with, or None: made-up ones.
        environments: where the converter's environment is, or is made.
        limits: the bounds.
        on_progress: called with stage ``convert``, in this thread.
        cancelled: asked several times a second.

    Raises:
        PipelineRefused: with a code ``convert.…``; ``convert.differs`` has the checks as data.
        PipelineFailed: ``convert.missing`` and its like, ``pipeline.memory``, ``pipeline.time`` or
            ``pipeline.crashed``.
        PipelineCancelled: `cancelled` has said so.
    """
    if source.stat().st_size > limits.source_bytes_max:
        raise PipelineRefused(
            "convert.too_large",
            f"The file is larger than {limits.source_bytes_max} bytes.",
            "Push a smaller model: devices take files of up to 256 MiB.",
        )
    converter, script = _SCRIPTS[source_format]
    return _run(
        converter,
        script,
        {"source": str(source.resolve()), "format": source_format},
        directory.resolve() / "model.onnx",
        data=data,
        environments=environments,
        limits=limits,
        on_progress=on_progress,
        cancelled=cancelled,
    )


def to_tflite(
    source: Path,
    directory: Path,
    *,
    precision: Literal["fp32", "int8"],
    data: Path | None,
    environments: Environments,
    limits: ConverterLimits,
    on_progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> Conversion:
    """Convert an ONNX file to TFLite, as float32 or as full-integer int8; as `convert`.

    Args:
        source: a model that has passed the pipeline's checks.
        directory: an existing folder of this conversion alone; ``model.tflite`` is left in it.
        precision: ``int8``: weights and activations; inputs and outputs are those of the ONNX.
        data: ``.npz`` of inputs; int8 is calibrated with them, and refused without.
        environments: where the converter's environment is, or is made.
        limits: the bounds.
        on_progress: called with stage ``convert``, in this thread.
        cancelled: asked several times a second.
    """
    return _run(
        "tensorflow",
        "to_tflite",
        {"source": str(source.resolve()), "format": "onnx", "precision": precision},
        directory.resolve() / "model.tflite",
        data=data,
        environments=environments,
        limits=limits,
        on_progress=on_progress,
        cancelled=cancelled,
    )


def _run(
    converter: ConverterName,
    script: str,
    job: dict[str, Any],
    target: Path,
    *,
    data: Path | None,
    environments: Environments,
    limits: ConverterLimits,
    on_progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> Conversion:
    def tell(message: str) -> None:
        on_progress(Progress(stage=_STAGE, message=message))

    started = time.monotonic()
    python = environments.python(converter, tell=tell, cancelled=cancelled)
    installed = environments.installed(converter)
    assert installed is not None
    inputs = [job["source"], *([str(data.resolve())] if data else [])]
    description = {
        "confinement": confinement.__file__,
        "system_calls": system_calls.__file__,
        "watched": watched.__file__,
        "modules": {name: str(_FOREIGN / f"{name}.py") for name in (*_LIBRARIES, script)},
        "script": script,
        "limits": {
            "memory_bytes": limits.memory_bytes,
            "cpu_s": limits.cpu_s,
            "file_bytes_max": limits.file_bytes_max,
            "files_max": limits.files_max,
        },
        "inputs": inputs,
        "job": {
            **job,
            "target": str(target),
            "data": str(data.resolve()) if data else None,
            "unpacked_bytes_max": limits.unpacked_bytes_max,
        },
    }
    directory = target.parent
    for name in (_RESULT, _REFUSAL):
        (directory / name).unlink(missing_ok=True)
    (directory / _JOB).write_bytes(msgspec.json.encode(description))
    ended = _child(python, directory, limits, on_progress, cancelled)
    if ended.code == watched.EXIT_REFUSED:
        raise error_of(read_outcome(directory / _REFUSAL, Ending, _NAME))
    if ended.code != 0:
        raise _explain(ended, limits)
    done = read_outcome(directory / _RESULT, _Done, _NAME)
    conversion = Conversion(
        path=target,
        source_format=job["format"],
        target_format="tflite" if script == "to_tflite" else "onnx",
        tools=_tools(installed, script),
        checks=done.checks,
        seconds=round(time.monotonic() - started, 1),
        labels=done.labels,
        warnings=done.warnings,
    )
    tell(conversion.summary)
    return conversion


_FOREIGN = Path(foreign.__path__[0])


def _child(
    python: Path,
    directory: Path,
    limits: ConverterLimits,
    on_progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> Ended:
    if not confinement.landlock_version():
        logger.warning("the kernel has no Landlock: a converter could read the server's files")
    return run_child(
        [str(python), "-s", "-P", str(_FOREIGN / "child.py"), _JOB],
        directory,
        isolation=isolation(),
        environment=_environment(directory),
        wall_s=limits.wall_s,
        on_progress=on_progress,
        cancelled=cancelled,
        too_slow=_too_slow,
        name=_NAME,
    )


def _environment(directory: Path) -> dict[str, str]:
    return environment(directory) | {
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "",
    }


def _tools(installed: Environment, script: str) -> dict[str, str]:
    known = {name.lower().replace("_", "-"): name for name in installed.packages}
    told = {one.replace("_", "-") for one in _TOLD_OF[script]}
    found = {name: installed.packages[known[name]] for name in sorted(told & set(known))}
    return {"python": installed.python} | found


def _too_slow(limit: str) -> PipelineFailed:
    return PipelineFailed(
        "pipeline.time",
        f"The conversion took more than {limit}.",
        "Push a smaller model, or raise the server's limit.",
    )


def _explain(ended: Ended, limits: ConverterLimits) -> PipelineFailed:
    """Say what it means that the child was killed or crashed."""
    if ended.out_of_memory:
        return PipelineFailed(
            "pipeline.memory",
            f"The conversion needs more than {limits.memory_bytes // MiB} MiB.",
            "Push a smaller model, or raise the server's memory limit.",
        )
    if ended.out_of_processor_time(limits.cpu_s):
        return _too_slow(f"{limits.cpu_s} s of processor time")
    return PipelineFailed(
        "pipeline.crashed",
        f"The converter's process crashed ({ended.how}). Its last words: {ended.last_line or '-'}",
        "The server is unharmed. Do not push this model again; report it.",
    )
