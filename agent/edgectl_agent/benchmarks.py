"""Benchmarks: bundles are measured because the server asks, and nothing that serves is touched.

Rules:

1. A request is signed as an order is, and judged as strictly (`core.requests`). It is taken once:
   its number is on the disk before anything is fetched. What was under way when the agent died is
   not taken up again, and that is told.
2. A bundle is found in the signed metadata, fetched and hashed as for an update, and runs in the
   trial process, under the same limits, with golden inputs and timed runs. No slot changes, no
   digest is remembered as bad, and what was fetched is removed again unless an update needs it.
3. Updates go first. While one is under way nothing is measured; when one begins, the measurement
   ends within a moment. It runs in the worker, where at most one thing is done at a time.
4. What came of it is told variant by variant. A request that is refused is a security event and
   nothing more: who can repeat messages must not make the device speak.

`Measurer` works in the worker's thread, `Benchmarks` decides in the main thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec
from msgspec import Struct

from edgectl_agent.bundle import Bundle
from edgectl_agent.core.machine import Machine
from edgectl_agent.core.orders import needed
from edgectl_agent.core.record import Floor
from edgectl_agent.core.requests import RequestArrived
from edgectl_agent.core.steps import Collect
from edgectl_agent.core.timing import Moment
from edgectl_agent.downloader import Downloader
from edgectl_agent.errors import AgentError, StepCancelled, StepRejected
from edgectl_agent.performer import Metadata, reason_of
from edgectl_agent.request_ledger import RequestLedger
from edgectl_agent.store import Store
from edgectl_agent.trial import TrialResult
from edgectl_protocol.messages import BenchmarkRequest, BenchmarkResult, Candidate, Reason

__all__ = ["Benchmarks", "Measure", "Measured", "Measurer"]

RunTrial = Callable[[Bundle, int, Callable[[], bool]], TrialResult]
"""Proves a bundle with so many timed runs, until it is cancelled."""


class Measure(Struct, frozen=True, kw_only=True):
    """One variant to measure; for the worker."""

    request: BenchmarkRequest
    number: int
    """Of the candidate, from 0."""
    floor: Floor

    @property
    def candidate(self) -> Candidate:
        """The variant."""
        return self.request.candidates[self.number]


class Measured(Struct, frozen=True, kw_only=True):
    """What came of `Measure`."""

    measure: Measure
    result: BenchmarkResult | None
    """None: an update or the end of the agent came first."""


class Measurer:
    """Measures one variant; in the worker's thread."""

    def __init__(
        self, *, metadata: Metadata, downloader: Downloader, store: Store, trial: RunTrial
    ) -> None:
        self._metadata = metadata
        self._downloader = downloader
        self._store = store
        self._trial = trial

    def measure(self, measure: Measure, cancelled: Callable[[], bool]) -> Measured:
        """Fetch and try one variant; never raises for anything that the world can do."""
        candidate = measure.candidate
        result = BenchmarkResult(
            variant=candidate.variant, manifest=candidate.manifest, verdict="failed"
        )
        try:
            trial = self._measure(measure, cancelled)
        except StepCancelled:
            return Measured(measure=measure, result=None)
        except StepRejected as error:
            result = msgspec.structs.replace(result, verdict="rejected", reason=error.reason)
        except AgentError as error:
            result = msgspec.structs.replace(result, reason=error.reason)
        except OSError as error:
            result = msgspec.structs.replace(result, reason=reason_of(error))
        else:
            if cancelled():
                return Measured(measure=measure, result=None)
            result = msgspec.structs.replace(
                result, verdict=trial.verdict.value, trial=trial.report, reason=trial.reason
            )
        return Measured(measure=measure, result=result)

    def _measure(self, measure: Measure, cancelled: Callable[[], bool]) -> TrialResult:
        request, candidate = measure.request, measure.candidate
        self._metadata.find(candidate.target, candidate.manifest, measure.floor, cancelled)
        key = request.keys.get(candidate.manifest)
        if key is not None and not self._store.has_key(candidate.manifest):
            self._store.keep_key(candidate.manifest, key)
        self._downloader.fetch(
            candidate.manifest,
            model=request.model,
            progress=lambda _: None,
            cancelled=cancelled,
        )
        bundle = self._store.bundle(
            request.model,
            manifest=candidate.manifest,
            version=request.version,
            variant=candidate.variant,
        )
        try:
            if bundle.config.model != request.model:
                raise StepRejected(
                    "bundle.mismatch",
                    f"the bundle is of {bundle.config.model}, asked was for {request.model}",
                )
            if cancelled():
                raise StepCancelled
            return self._trial(bundle, request.runs, cancelled)
        finally:
            bundle.forget_key()


class Tells(Protocol):
    """What is needed of the reporter."""

    def alarm(self, reason: Reason, moment: Moment) -> None:
        """Note what an attacker may have done."""

    def benchmark(
        self,
        request: BenchmarkRequest,
        done: int,
        moment: Moment,
        *,
        result: BenchmarkResult | None = None,
        reason: Reason | None = None,
    ) -> None:
        """Tell what came of a request so far."""


class Benchmarks:
    """Takes requests, one at a time; used by the main thread."""

    def __init__(
        self,
        ledger: RequestLedger,
        *,
        machine: Machine,
        reporter: Tells,
        submit: Callable[[Measure | Collect], None],
    ) -> None:
        """Take what it needs.

        Args:
            ledger: remembers what was taken.
            machine: says what is under way.
            reporter: tells the server.
            submit: has the worker do something, after what was submitted before.
        """
        self._ledger = ledger
        self._machine = machine
        self._reporter = reporter
        self._submit = submit

    def start(self, moment: Moment) -> None:
        """Tell that a request ended with the agent that had taken it."""
        pending = self._ledger.pending
        if pending is not None:
            reason = Reason(code="benchmark.interrupted", detail="the agent was started anew")
            self._end(pending, 0, moment, reason)

    def take(self, arrived: RequestArrived, moment: Moment) -> None:
        """Begin, unless something stands against it."""
        request = arrived.request
        assert isinstance(request, BenchmarkRequest), request
        refusal = self._ledger.refuse(arrived, moment)
        if refusal is not None:
            self._reporter.alarm(refusal, moment)
            return
        busy = self._busy()
        if not self._ledger.take(arrived, self._ledger.pending if busy is not None else request):
            return
        if busy is not None:
            self._reporter.benchmark(request, 0, moment, reason=busy)
            return
        self._reporter.benchmark(request, 0, moment)
        self._measure(request, 0)

    def refused(self, reason: Reason, moment: Moment) -> None:
        """Note what came as a request and is none of ours."""
        self._reporter.alarm(reason, moment)

    def take_result(self, measured: Measured, moment: Moment) -> None:
        """Tell what came of a variant, and go on with the next one."""
        request, done = measured.measure.request, measured.measure.number + 1
        self._submit(Collect(keep=needed(self._machine.record, self._machine.pointers)))
        if request != self._ledger.pending:
            return
        if measured.result is None:
            reason = Reason(code="benchmark.overtaken", detail="an update began on the device")
            self._end(request, done - 1, moment, reason)
            return
        if done == len(request.candidates):
            self._end(request, done, moment, None, measured.result)
            return
        self._reporter.benchmark(request, done, moment, result=measured.result)
        if self._machine.busy:
            reason = Reason(code="benchmark.overtaken", detail="an update began on the device")
            self._end(request, done, moment, reason)
            return
        self._measure(request, done)

    def _busy(self) -> Reason | None:
        if self._ledger.pending is not None:
            detail = f"job {self._ledger.pending.job} is measured on the device now"
            return Reason(code="benchmark.busy", detail=detail)
        if self._machine.busy:
            return Reason(code="benchmark.busy", detail="an update is under way on the device")
        return None

    def _measure(self, request: BenchmarkRequest, number: int) -> None:
        floor = self._machine.record.floor
        self._submit(Measure(request=request, number=number, floor=floor))

    def _end(
        self,
        request: BenchmarkRequest,
        done: int,
        moment: Moment,
        reason: Reason | None,
        result: BenchmarkResult | None = None,
    ) -> None:
        """Tell first: told twice is told once, because the server knows the job."""
        self._reporter.benchmark(request, done, moment, result=result, reason=reason)
        self._ledger.end()
