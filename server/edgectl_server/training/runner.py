"""The parent of the built-in trainer's child and of the examination's.

As `edgectl_server.pipeline.runner`: confined, limited, watched by the clock, and not believed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from edgectl_server import confined
from edgectl_server.pipeline.child import environment, read_outcome, run_child
from edgectl_server.pipeline.endings import error_of, explain, too_slow
from edgectl_server.pipeline.spec import REFUSAL_FILE, RESULT_FILE, SPEC_FILE, Ending, Progress
from edgectl_server.pipeline.watched import EXIT_REFUSED
from edgectl_server.training.spec import OUT, Examined, Trained, TrainSpec

__all__ = ["run_examination", "run_head_trainer"]

_T = TypeVar("_T", bound=msgspec.Struct)
_NAME = "training"


def run_head_trainer(
    spec: TrainSpec,
    directory: Path,
    *,
    on_progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> Trained:
    """Train the head; ``out/model.onnx`` is left in `directory`.

    Args:
        spec: what to do.
        directory: of this run alone, see `spec`.
        on_progress: called for every step, in this thread.
        cancelled: asked several times a second.

    Raises:
        PipelineRefused: ``training.…``, ``model.…``, ``data.…``.
        PipelineFailed: ``pipeline.memory``, ``pipeline.time``, ``pipeline.disk``,
            ``pipeline.crashed``.
        PipelineCancelled: `cancelled` has said so.
    """
    return _run(spec, directory, Trained, on_progress, cancelled)


def run_examination(spec: TrainSpec, directory: Path, *, cancelled: Callable[[], bool]) -> Examined:
    """Compare what was trained with what serves; raises as `run_head_trainer`."""
    return _run(spec, directory, Examined, lambda _: None, cancelled)


def _run(
    spec: TrainSpec,
    directory: Path,
    kind: type[_T],
    on_progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> _T:
    directory = directory.resolve()
    (directory / OUT).mkdir(exist_ok=True)
    for name in (RESULT_FILE, REFUSAL_FILE):
        (directory / name).unlink(missing_ok=True)
    (directory / SPEC_FILE).write_bytes(msgspec.json.encode(spec))
    ended = run_child(
        [sys.executable, "-s", "-P", "-m", "edgectl_server.training", SPEC_FILE],
        directory,
        isolation=confined.isolation(),
        environment=environment(directory),
        wall_s=spec.limits.wall_s,
        on_progress=on_progress,
        cancelled=cancelled,
        too_slow=too_slow,
        name=_NAME,
    )
    if ended.code == 0:
        return read_outcome(directory / RESULT_FILE, kind, _NAME)
    if ended.code == EXIT_REFUSED:
        raise error_of(read_outcome(directory / REFUSAL_FILE, Ending, _NAME))
    raise explain(ended, spec.limits)
