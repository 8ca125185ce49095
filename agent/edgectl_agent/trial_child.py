"""The trial process: loads one candidate, replays its golden inputs, says what it saw, ends.

``python -m edgectl_agent.trial_child <descriptor>``, started by `edgectl_agent.trial` only. The
task comes on standard input, which then stays open: its end means that the supervisor has died.

Limits are set before the candidate is touched: processor time, memory, no core. Memory means
resident memory of the whole process; the kernel limits only what is reserved, so that what is
reserved but not used at this point is added.
"""

from __future__ import annotations

import math
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgectl_agent.decryption import Undecipherable, refuse_dumps
from edgectl_agent.errors import make_reason
from edgectl_agent.thermal import Look, look, throttled
from edgectl_agent.trial import Progress, Task, TrialResult, Verdict
from edgectl_protocol.manifest import Budget
from edgectl_protocol.messages import TrialReport

if TYPE_CHECKING:
    from edgectl_agent.bundle import Bundle
    from edgectl_agent.golden import Cases, Replay
    from edgectl_agent.runtime import Model

__all__ = ["main"]

_ADDRESS_SLACK_BYTES = 512 * 1024 * 1024
"""Address space that libraries reserve and never use: thread arenas, stacks."""
_REPLAY_S_MAX = 2.0
_MEASURE_S = 0.2
_HAND_OVER_S = 0.0003
_CLEARLY_FASTER = 0.8
_NOT_THE_MODEL = frozenset({"load.unreadable", "load.undecipherable"})
"""Of the disk, or of a key that is not this bundle's."""


def main(arguments: list[str]) -> int:
    """Carry out the task; the result goes to the inherited descriptor."""
    refuse_dumps()
    output = int(arguments[0])
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    _limit_processor(task.timeout_s)
    try:
        # Imported here: a runtime that cannot be imported is a finding, not a traceback.
        from edgectl_agent import golden
        from edgectl_agent.runtime import check_runtime, providers_for

        check_runtime(task.bundle.config.runtime)
        faster, safer = providers_for(task.bundle.config.runtime)
    except ImportError as error:
        result = _result(Verdict.FAILED, "trial.runtime", f"no runtime: {error}")
        _say(output, Progress(result=result))
        return 0
    del golden
    if not _limit_memory(task.memory_bytes_max):
        detail = f"{task.memory_bytes_max} bytes do not even hold the runtime"
        _say(output, Progress(result=_result(Verdict.FAILED, "trial.memory_low", detail)))
        return 0
    _say(output, Progress(faster=faster, safer=safer))
    _say(output, Progress(result=_prove(task)))
    return 0


def _prove(task: Task) -> TrialResult:
    """Load and replay; every way in which the candidate can be wrong becomes a verdict."""
    from edgectl_agent.golden import GoldenMalformed, read_golden, replay
    from edgectl_agent.runtime import ModelRefused, RunFailed

    bundle = task.bundle
    verdict = Verdict.REJECTED
    before = look(Path(task.system))
    try:
        cases = read_golden(bundle)
        model = _load_with_best_threads(bundle, cases, task.timeout_s / 4)
        if task.runs is None:
            seen = replay(model, cases, seconds_max=min(_REPLAY_S_MAX, task.timeout_s / 4))
        else:
            seen = replay(model, cases, seconds_max=task.timeout_s / 2, runs_max=task.runs)
        return _judge(task, model, seen, before)
    except ModelRefused as error:
        code, detail = "trial.load", error.detail
        if error.code in _NOT_THE_MODEL:
            verdict, code = Verdict.FAILED, error.code.replace("load.", "trial.")
    except Undecipherable as error:
        verdict, code, detail = Verdict.FAILED, "trial.undecipherable", str(error)
    except GoldenMalformed as error:
        code, detail = "trial.golden_malformed", str(error)
    except RunFailed as error:
        code, detail = "trial.run", f"fails on a golden input: {error}"
    except MemoryError:
        code, detail = "trial.memory", f"more than {task.memory_bytes_max} bytes of memory"
    except OSError as error:
        verdict, code, detail = Verdict.FAILED, "trial.unreadable", f"cannot read a file: {error}"
    finally:
        bundle.forget_key()
    return _result(verdict, code, detail)


def _load_with_best_threads(bundle: Bundle, cases: Cases, seconds_max: float) -> Model:
    """Load the candidate with as many threads as make it clearly faster than with fewer.

    Where one run takes less than handing over to another thread does, nothing else is tried; no
    other number is, either, once `seconds_max` have gone by.
    """
    from edgectl_agent.golden import median_s
    from edgectl_agent.runtime import Model, free

    began_s = time.monotonic()
    cores = len(os.sched_getaffinity(0))
    model = Model(bundle, threads=1)
    best_s, best = median_s(model, cases, _MEASURE_S), 1
    if best_s < _HAND_OVER_S:
        return model
    for threads in sorted({min(2, cores), cores} - {1}):
        if time.monotonic() - began_s > seconds_max:
            break
        free(model)
        try:
            model = Model(bundle, threads=threads)
            found_s = median_s(model, cases, _MEASURE_S)
        except MemoryError:
            break
        if found_s < _CLEARLY_FASTER * best_s:
            best_s, best = found_s, threads
    if model.threads != best:
        free(model)
        model = Model(bundle, threads=best)
    return model


def _judge(task: Task, model: Model, seen: Replay, before: Look) -> TrialResult:
    config = task.bundle.config
    after = look(Path(task.system))
    report = TrialReport(
        golden_passed=seen.passed,
        golden_total=seen.total,
        load_ms=model.load_ms,
        latency_p50_us=seen.latency_p50_us,
        latency_p95_us=seen.latency_p95_us,
        rss_bytes=_status_bytes("VmHWM"),
        max_abs_diff=seen.max_abs_diff,
        runs=seen.runs,
        threads=model.threads,
        provider=model.provider,
        throttled=throttled(before, after),
        temperature_c=after.temperature_c,
    )
    if report.rss_bytes > task.memory_bytes_max:
        detail = f"{report.rss_bytes} bytes of memory, at most {task.memory_bytes_max}"
        return _result(Verdict.REJECTED, "trial.memory", detail, report)
    if seen.passed < config.golden.agreement_min * seen.total:
        return _result(
            Verdict.REJECTED,
            "trial.golden",
            f"{seen.passed} of {seen.total} golden cases agree, "
            f"at least {config.golden.agreement_min:g} of them must; first: {seen.first_failure}",
            report,
        )
    over = _over_budget(report, config.budget)
    if over and report.throttled and set(over) == {"latency_p95_us"}:
        hot = "" if after.temperature_c is None else f", at {after.temperature_c:.0f} °C"
        detail = f"the processor was slowed down meanwhile{hot}: {over['latency_p95_us']}"
        return _result(Verdict.FAILED, "trial.throttled", detail, report)
    if over:
        return _result(Verdict.REJECTED, "trial.budget", "; ".join(over.values()), report)
    return TrialResult(verdict=Verdict.OK, report=report)


def _over_budget(report: TrialReport, budget: Budget) -> dict[str, str]:
    """Return what is over the bundle's budget, by name."""
    return {
        name: f"{name} {got:.6g}, allowed {allowed:.6g}"
        for name, got, allowed in (
            ("latency_p95_us", report.latency_p95_us, budget.latency_p95_us),
            ("load_ms", report.load_ms, budget.load_ms),
            ("rss_bytes", report.rss_bytes, budget.rss_bytes),
        )
        if allowed is not None and got > allowed
    }


def _limit_processor(timeout_s: float) -> None:
    seconds = math.ceil(timeout_s * (os.cpu_count() or 1)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def _limit_memory(bytes_max: int) -> bool:
    """Limit memory to `bytes_max` resident; say whether anything is left for the candidate."""
    left = bytes_max - _status_bytes("VmRSS")
    if left <= 0:
        return False
    data = _status_bytes("VmData") + left
    space = _status_bytes("VmSize") + left + _ADDRESS_SLACK_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (data, data))
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    return True


def _status_bytes(field: str) -> int:
    for row in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
        if row.startswith(field + ":"):
            return int(row.split()[1]) * 1024
    return 0


def _end_with_supervisor() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(1)


def _say(output: int, progress: Progress) -> None:
    os.write(output, msgspec.json.encode(progress) + b"\n")


def _result(
    verdict: Verdict, code: str, detail: str, report: TrialReport | None = None
) -> TrialResult:
    return TrialResult(verdict=verdict, reason=make_reason(code, detail), report=report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
