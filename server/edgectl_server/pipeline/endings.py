"""What it means that a process of the pipeline was killed or has crashed."""

from __future__ import annotations

import signal

from edgectl_server.pipeline.errors import PipelineFailed
from edgectl_server.pipeline.spec import PipelineLimits

__all__ = ["explain", "out_of_memory", "too_slow"]

_CPU_TOLERANCE_S = 1.0
_OUT_OF_MEMORY = (b"bad_alloc", b"MemoryError", b"Cannot allocate memory")


def explain(code: int, cpu_s: float, words: bytes, limits: PipelineLimits) -> PipelineFailed:
    """Return the error for a process that did not end by itself.

    Args:
        code: its exit code, or minus the signal that ended it.
        cpu_s: the processor time that it has used.
        words: the end of what it wrote to standard error.
        limits: those that it ran under.
    """
    last = words.decode(errors="replace").strip().splitlines()
    said = f" Its last words: {last[-1][:300]}" if last else ""
    if any(mark in words for mark in _OUT_OF_MEMORY):
        return out_of_memory(limits)
    over = cpu_s >= limits.cpu_s - _CPU_TOLERANCE_S
    if code == -signal.SIGXCPU or (code == -signal.SIGKILL and over):
        return too_slow(f"{limits.cpu_s} s of processor time")
    if code == -signal.SIGKILL:
        return PipelineFailed(
            "pipeline.crashed",
            "The pipeline's process was killed from outside.",
            "Push again; if the kernel's log says that memory ran out, give the server more.",
        )
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return PipelineFailed(
        "pipeline.crashed",
        f"The pipeline's process crashed ({how}).{said}",
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
