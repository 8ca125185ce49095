"""The parent of the pipeline's child: give it the specification, start it, read what it left.

The child handles hostile files. It runs in a session of its own and, where the kernel allows it, in
process and network namespaces of its own and as another user or in a user namespace
(`edgectl_server.confined`), with a small environment without secrets (`child`), and with no files
but its own (`confinement`). Its limits on
memory, processor time and files are the kernel's (`watched`), the wall clock and cancellation are
kept in this process.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgectl_server import confined
from edgectl_server.pipeline.child import environment, read_outcome, run_child
from edgectl_server.pipeline.confinement import landlock_version
from edgectl_server.pipeline.endings import error_of, explain, too_slow
from edgectl_server.pipeline.errors import PipelineCancelled, PipelineFailed, PipelineRefused
from edgectl_server.pipeline.spec import (
    REFUSAL_FILE,
    RESULT_FILE,
    SPEC_FILE,
    Ending,
    PipelineLimits,
    PipelineResult,
    PipelineSpec,
    Progress,
    Replaced,
    encode,
)
from edgectl_server.pipeline.system_calls import has_seccomp
from edgectl_server.pipeline.watched import EXIT_REFUSED

__all__ = [
    "PipelineCancelled",
    "PipelineFailed",
    "PipelineRefused",
    "run_pipeline",
]

logger = logging.getLogger(__name__)

_NAME = "pipeline"


def run_pipeline(
    spec: PipelineSpec,
    directory: Path,
    *,
    on_progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> PipelineResult:
    """Run the pipeline in a child process and return what it has made.

    Args:
        spec: what to do.
        directory: an existing folder of this run alone; candidates are left in it.
        on_progress: called for every step, in this thread; what it raises ends the child.
        cancelled: asked several times a second.

    Raises:
        PipelineRefused: the model or its data cannot be accepted; ``data["report"]`` is the report
            if recipes have been tried.
        PipelineFailed: ``pipeline.memory``, ``pipeline.time``, ``pipeline.disk`` or
            ``pipeline.crashed``.
        PipelineCancelled: `cancelled` has said so.
    """
    directory = directory.resolve()
    for name in (RESULT_FILE, REFUSAL_FILE):
        (directory / name).unlink(missing_ok=True)
    absolute = msgspec.structs.replace(
        spec,
        source=spec.source.resolve(),
        calibration=spec.calibration and spec.calibration.resolve(),
        evaluation=spec.evaluation and spec.evaluation.resolve(),
        parent=spec.parent and spec.parent.resolve(),
        own_metric=spec.own_metric and spec.own_metric.resolve(),
        converted=tuple(
            msgspec.structs.replace(one, path=one.path and one.path.resolve())
            for one in spec.converted
        ),
        parents=tuple(
            msgspec.structs.replace(one, model=one.model.resolve()) for one in spec.parents
        ),
        replaced=spec.replaced and _absolute(spec.replaced),
    )
    (directory / SPEC_FILE).write_bytes(encode(absolute))
    ended = _run_child(spec.limits, directory, on_progress, cancelled)
    if ended.code == 0:
        return read_outcome(directory / RESULT_FILE, PipelineResult, _NAME)
    if ended.code == EXIT_REFUSED:
        raise error_of(read_outcome(directory / REFUSAL_FILE, Ending, _NAME))
    raise explain(ended, spec.limits)


def _absolute(replaced: Replaced) -> Replaced:
    found: Replaced = msgspec.structs.replace(
        replaced, model=replaced.model and replaced.model.resolve()
    )
    return found


def _run_child(
    limits: PipelineLimits,
    directory: Path,
    on_progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> confined.Ended:
    return run_child(
        [
            sys.executable,
            "-s",  # no packages of the user
            "-P",  # no modules from the working directory
            "-m",
            "edgectl_server.pipeline",
            SPEC_FILE,
        ],
        directory,
        isolation=_isolation(),
        environment=environment(directory),
        wall_s=limits.wall_s,
        on_progress=on_progress,
        cancelled=cancelled,
        too_slow=too_slow,
        name=_NAME,
    )


@functools.cache
def _isolation() -> confined.Isolation:
    """Return what `confined.isolation` does; say once in the log what the machine lacks besides."""
    if not landlock_version():
        logger.warning(
            "the kernel has no Landlock: a model that breaks out of the runtime could read the "
            "server's files; run the server where it has (Linux 5.13 or newer)"
        )
    if not has_seccomp():
        logger.warning(
            "libseccomp is not installed: a model that breaks out of the runtime could attack the "
            "kernel; install it (Debian: libseccomp2)"
        )
    return confined.isolation()
