"""The trial: a candidate is proved on this very device by a process that may die alone.

The supervisor's side. It starts ``python -m edgectl_agent.trial_child``, hands it the bundle, and
judges how it ends:

=============================  ========  =====================================================
what happened                  verdict   code
=============================  ========  =====================================================
all golden cases, in budget    OK
outputs differ                 REJECTED  ``trial.golden``
not loadable, fails on input   REJECTED  ``trial.load``, ``trial.run``, ``trial.golden_malformed``
over the bundle's budget       REJECTED  ``trial.budget``
too slow on a slowed processor FAILED    ``trial.throttled``
beyond the memory limit        REJECTED  ``trial.memory``
not done in time               REJECTED  ``trial.timeout``
killed by a signal             REJECTED  ``trial.crashed`` with the signal's name
files unreadable               FAILED    ``trial.unreadable``
encrypted with another key     FAILED    ``trial.undecipherable``
no process, runtime or memory  FAILED    ``trial.start``, ``trial.runtime``, ``trial.memory_low``
somebody ended it              FAILED    ``trial.stopped``
=============================  ========  =====================================================

A death before the child has touched the candidate is never the candidate's fault.

Where the device has other execution providers or delegates, each is tried in a process of its own,
so that one which crashes is refused and not the model: faster ones once the usual provider has
passed, and one is taken that is clearly faster; safer ones where the usual one crashes, fails or
gives other outputs. The report names what is used, and why the others are not.
"""

from __future__ import annotations

import io
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import IO, Self

import msgspec
from msgspec import Struct, structs

from edgectl_agent.bundle import Bundle
from edgectl_agent.errors import make_reason
from edgectl_agent.inference.process import child_environment
from edgectl_protocol.messages import ProviderTried, Reason, TrialReport

__all__ = ["Progress", "Task", "TrialResult", "Verdict", "run_trial"]

_POLL_S = 0.05
_OUTPUT_BYTES_MAX = 64 * 1024
_TAIL_CHARACTERS = 300
USUAL = "usual"
"""What the runtime takes by itself, where the child did not live to say its name."""
_CLEARLY_FASTER = 0.8
_MAY_BE_THE_PROVIDER = frozenset({"trial.crashed", "trial.golden", "trial.load", "trial.run"})
_STOPPED_BY = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


class Verdict(StrEnum):
    """What a trial says about a candidate."""

    OK = "ok"
    REJECTED = "rejected"  # the model's fault: never again for this digest
    FAILED = "failed"  # could not be tried now: may be tried again


class TrialResult(Struct, frozen=True, kw_only=True):
    """Verdict, the reason unless it is OK, and what was measured as far as it came."""

    verdict: Verdict
    reason: Reason | None = None
    report: TrialReport | None = None


class Task(Struct, frozen=True, kw_only=True):
    """What the child gets, as one line of JSON on its standard input."""

    bundle: Bundle
    timeout_s: float
    memory_bytes_max: int
    runs: int | None = None
    """Timed runs that are wanted; None: as many as an update needs."""
    system: str = "/sys"
    """Where it is read whether the processor is slowed down."""


class Progress(Struct, frozen=True, kw_only=True):
    """What the child says, as lines of JSON: that it begins with the candidate, then the result."""

    result: TrialResult | None = None
    faster: tuple[str, ...] = ()
    """Providers of this device that may be faster than the usual one."""
    safer: tuple[str, ...] = ()
    """Those that may pass where the usual one does not."""


def run_trial(
    bundle: Bundle,
    *,
    timeout_s: float,
    memory_bytes_max: int,
    runs: int | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    system: str = "/sys",
) -> TrialResult:
    """Prove `bundle` in throw-away processes and return the verdict; raises nothing.

    Args:
        bundle: verified files.
        timeout_s: wall time for each process: one, and one for each other provider.
        memory_bytes_max: resident memory of the whole trial process; runtime and interpreter alone
            take about 50 MB of it.
        runs: timed runs that are wanted, within half of `timeout_s`; None: those of an update.
        cancelled: says that nobody waits for the verdict any more; it is FAILED then.
        system: where it is read whether the processor is slowed down.
    """
    task = Task(
        bundle=bundle,
        timeout_s=timeout_s,
        memory_bytes_max=memory_bytes_max,
        runs=runs,
        system=system,
    )
    usual, begun = _run(task, cancelled)
    if begun is None:
        return usual
    if usual.verdict is Verdict.OK:
        return _try_faster(task, begun.faster, usual, cancelled)
    if usual.reason is not None and usual.reason.code in _MAY_BE_THE_PROVIDER:
        return _try_safer(task, begun.safer, usual, cancelled)
    return usual


def _run(task: Task, cancelled: Callable[[], bool]) -> tuple[TrialResult, Progress | None]:
    """Carry out one task; return the verdict, and what the child said when it began."""
    try:
        with _Child(task) as child:
            child.watch(cancelled)
            return child.judge(), child.heard()[0]
    except OSError as error:
        return _failed("trial.start", f"cannot start the trial process: {error}"), None


def _with(task: Task, provider: str) -> Task:
    return structs.replace(task, bundle=structs.replace(task.bundle, provider=provider))


def _try_faster(
    task: Task, providers: tuple[str, ...], usual: TrialResult, cancelled: Callable[[], bool]
) -> TrialResult:
    """Return the result of the fastest provider that passes, the usual one unless by far."""
    best, tried = usual, dict[str, Reason]()
    for provider in providers:
        result, _ = _run(_with(task, provider), cancelled)
        assert best.report is not None
        ran, before = best.report.provider, best.report.latency_p50_us
        if result.verdict is not Verdict.OK or result.report is None:
            tried[provider] = result.reason or make_reason("trial.unknown", "it gave no reason")
        elif result.report.provider != provider:
            tried[provider] = make_reason("trial.provider", "it does not take the model")
        elif result.report.latency_p50_us > _CLEARLY_FASTER * before:
            tried[provider] = make_reason(
                "trial.provider",
                f"half of its runs take {result.report.latency_p50_us:.6g} µs or less, "
                f"of {ran} {before:.6g} µs: not clearly faster",
            )
        else:
            tried[ran] = make_reason(
                "trial.provider",
                f"{provider} takes {result.report.latency_p50_us:.6g} µs, it {before:.6g} µs",
            )
            best = result
    return _noting(best, tried)


def _try_safer(
    task: Task, providers: tuple[str, ...], usual: TrialResult, cancelled: Callable[[], bool]
) -> TrialResult:
    """Return the result of the first provider that passes, else that of the usual one."""
    for provider in providers:
        result, _ = _run(_with(task, provider), cancelled)
        if result.verdict is Verdict.OK and usual.reason is not None:
            return _noting(result, {USUAL: usual.reason})
    return usual


def _noting(result: TrialResult, tried: Mapping[str, Reason]) -> TrialResult:
    """Return the result with what was tried besides."""
    if result.report is None or not tried:
        return result
    others = tuple(ProviderTried(provider=one, reason=reason) for one, reason in tried.items())
    return structs.replace(result, report=structs.replace(result.report, others=others))


class _Child:
    """The trial process and what has been heard from it."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._killed_for = ""
        self._output = bytearray()
        self._errors = bytearray()
        ours, theirs = os.pipe()
        self._lines = io.FileIO(ours)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "edgectl_agent.trial_child", str(theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs,),
                env=child_environment(),
                start_new_session=True,
                bufsize=0,
            )
        except BaseException:
            self._lines.close()
            raise
        finally:
            os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill("")
        self._process.wait()
        for stream in (self._process.stdin, self._process.stderr, self._lines):
            if stream is not None:
                stream.close()

    def watch(self, cancelled: Callable[[], bool]) -> None:
        """Hand over the task and wait for the end, by itself or by a limit."""
        deadline = time.monotonic() + self._task.timeout_s
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        with suppress(BrokenPipeError):  # it is dead already, and how it died says more
            # Stays open: its end tells the child that nobody waits for it any more.
            self._process.stdin.write(msgspec.json.encode(self._task) + b"\n")
        with selectors.DefaultSelector() as selector:
            selector.register(self._lines, selectors.EVENT_READ, self._output)
            selector.register(self._process.stderr, selectors.EVENT_READ, self._errors)
            while selector.get_map():
                for key, _ in selector.select(_POLL_S):
                    stream: IO[bytes] = key.fileobj  # type: ignore[assignment]
                    if not _read(stream, key.data):
                        selector.unregister(stream)
                if cancelled():
                    self._kill("trial.stopped")
                elif time.monotonic() > deadline:
                    self._kill("trial.timeout")
                elif self._rss_bytes() > self._task.memory_bytes_max:
                    self._kill("trial.memory")
        try:
            self._process.wait(max(deadline - time.monotonic(), _POLL_S))
        except subprocess.TimeoutExpired:
            self._kill("trial.timeout")
            self._process.wait()

    def judge(self) -> TrialResult:
        """Return the verdict, once the child has ended."""
        begun, result = self.heard()
        if result is not None:
            return result  # whatever ended it after that
        code, detail = self._cause()
        if code == "trial.stopped":
            return _failed(code, detail)
        if begun is None:
            if code == "trial.memory":
                return _failed("trial.memory_low", "the runtime alone does not fit: " + detail)
            if self._process.returncode == -signal.SIGILL:
                detail += "; this build of it is for other processors: install another one"
            return _failed("trial.runtime", "the runtime does not start: " + detail)
        return TrialResult(verdict=Verdict.REJECTED, reason=make_reason(code, detail))

    def heard(self) -> tuple[Progress | None, TrialResult | None]:
        """Return what it said when it began with the candidate, and the result if there is one."""
        begun: Progress | None = None
        result = None
        for content in bytes(self._output).splitlines():
            try:
                progress = msgspec.json.decode(content, type=Progress)
            except msgspec.MsgspecError:
                break  # cut short by its death
            begun, result = begun or progress, progress.result
        return begun, result

    def _cause(self) -> tuple[str, str]:
        """Return code and detail of an end without a result."""
        limits = self._task
        tail = bytes(self._errors[-4 * _TAIL_CHARACTERS :]).decode("utf-8", "replace").strip()
        tail = tail[-_TAIL_CHARACTERS:]
        number = -self._process.returncode
        if self._killed_for == "trial.stopped":
            return "trial.stopped", "nobody waits for it any more"
        if self._killed_for == "trial.timeout" or number == signal.SIGXCPU:
            return "trial.timeout", f"not done after {limits.timeout_s:g} s"
        if self._killed_for == "trial.memory" or "bad_alloc" in tail or "MemoryError" in tail:
            return "trial.memory", f"more than {limits.memory_bytes_max} bytes of memory: {tail}"
        if number > 0:
            try:
                name = signal.Signals(number).name
            except ValueError:
                name = f"signal {number}"
            code = "trial.stopped" if number in _STOPPED_BY else "trial.crashed"
            return code, f"killed by {name}: {tail}".rstrip(": ")
        return "trial.crashed", f"ended with status {-number}: {tail}"

    def _kill(self, cause: str) -> None:
        if self._process.poll() is None:
            self._killed_for = self._killed_for or cause
            os.killpg(self._process.pid, signal.SIGKILL)

    def _rss_bytes(self) -> int:
        try:
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text("ascii").split()[1])
        except (OSError, IndexError, ValueError):
            return 0  # it has ended
        return pages * os.sysconf("SC_PAGE_SIZE")


def _read(stream: IO[bytes], into: bytearray) -> bool:
    """Read what is there, keep the last of it, and say whether more may come."""
    content = stream.read(65536)
    into += content
    del into[:-_OUTPUT_BYTES_MAX]
    return bool(content)


def _failed(code: str, detail: str) -> TrialResult:
    return TrialResult(verdict=Verdict.FAILED, reason=make_reason(code, detail))
