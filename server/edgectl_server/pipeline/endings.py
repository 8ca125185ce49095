"""How a process of the pipeline has ended, as it is written down, and as an error."""

from __future__ import annotations

import signal

from edgectl_server.confined import Ended
from edgectl_server.pipeline.errors import PipelineFailed, PipelineRefused
from edgectl_server.pipeline.spec import Ending, PipelineLimits

__all__ = ["ending_of", "error_of", "explain", "out_of_memory", "too_slow"]


def ending_of(error: PipelineRefused | PipelineFailed) -> Ending:
    """Return an error as a child writes it down."""
    return Ending(
        kind="refused" if isinstance(error, PipelineRefused) else "failed",
        code=error.code,
        detail=error.detail,
        hint=error.hint,
        data=error.data,
    )


def error_of(ending: Ending) -> PipelineRefused | PipelineFailed:
    """Return the error that a child has written down."""
    kind = PipelineRefused if ending.kind == "refused" else PipelineFailed
    return kind(ending.code, ending.detail, ending.hint, ending.data)


def explain(ended: Ended, limits: PipelineLimits) -> PipelineFailed:
    """Return the error for a process that was killed or has crashed under its limits."""
    if ended.out_of_memory:
        return out_of_memory(limits)
    if ended.out_of_processor_time(limits.cpu_s):
        return too_slow(f"{limits.cpu_s} s of processor time")
    if ended.code == -signal.SIGKILL:
        return PipelineFailed(
            "pipeline.crashed",
            "The pipeline's process was killed from outside.",
            "Push again; if the kernel's log says that memory ran out, give the server more.",
        )
    said = f" Its last words: {ended.last_line}" if ended.last_line else ""
    return PipelineFailed(
        "pipeline.crashed",
        f"The pipeline's process crashed ({ended.how}).{said}",
        "The server is unharmed. Do not push this model again; report it.",
    )


def out_of_memory(limits: PipelineLimits) -> PipelineFailed:
    """Return the error for a process whose memory limit was too small."""
    return PipelineFailed(
        "pipeline.memory",
        f"The model needs more than {limits.memory_bytes // 2**20} MiB.",
        "Push a smaller model or less data, or raise the server's memory limit.",
    )


def too_slow(limit: str) -> PipelineFailed:
    """Return the error for a process that had no more time."""
    return PipelineFailed(
        "pipeline.time",
        f"The pipeline took more than {limit}.",
        "Check the model for loops without end, push less data, or raise the server's limit.",
    )
