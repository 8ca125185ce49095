"""What variants cost a device, as far as this machine can tell: latency and memory."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from edgectl_server.pipeline.execution import latencies, peak_bytes
from edgectl_server.pipeline.spec import Progress, TrialRow
from edgectl_server.pipeline.tasks import Task, run_all, run_one
from edgectl_server.pipeline.trials import Trials

__all__ = ["memory_of", "with_latencies"]


class _Measured(Struct, frozen=True, kw_only=True):
    """Latencies in microseconds, p50 and p95 of each model."""

    pairs: tuple[tuple[float, float], ...]


class _Memory(Struct, frozen=True):
    bytes: int


def with_latencies(trials: Trials, rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Return the rows with their latencies, one call of each in turn."""
    limits, baseline = trials.spec.limits, trials.baseline
    trials.progress(Progress(stage="latency", message=f"variants: {len(rows)}"))

    def call() -> _Measured:
        runners = [trials.runner(row.recipe) for row in rows]
        found = latencies(runners, baseline.samples, limits)
        return _Measured(pairs=tuple((one.p50_us, one.p95_us) for one in found))

    done = run_one(Task("latency", call, _Measured), limits, seconds_max=limits.trial_s_max)
    return [
        msgspec.structs.replace(row, latency_p50_us=p50_us, latency_p95_us=p95_us)
        for row, (p50_us, p95_us) in zip(rows, done.pairs, strict=True)
    ]


def memory_of(trials: Trials, rows: Sequence[TrialRow]) -> dict[str, int]:
    """Return what loading and running each model adds to a process, if a gate asks for it."""
    limits = trials.spec.limits
    if all(one.name != "ram" for one in trials.spec.requirements):
        return {}
    sample = trials.baseline.samples.choose(1, 0)

    def task(row: TrialRow) -> Task[_Memory]:
        def call() -> _Memory:
            before = peak_bytes()
            trials.runner(row.recipe).run(sample)
            return _Memory(max(0, peak_bytes() - before))

        return Task(row.recipe, call, _Memory)

    here = [row for row in rows if row.status == "accepted" and row.runtime != "cortex-m"]
    tasks = (task(row) for row in here)
    found = run_all(tasks, limits, workers=1, seconds_max=limits.trial_s_max)
    return {done.task.name: done.value.bytes for done in found if done.value is not None}
