"""Requests to measure: which are taken, that each is taken once, and that updates go first."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.core.made import START, describe, make_bundle, make_order
from agent.core.simulated_disk import PowerCut, SimulatedDisk
from edgectl_agent.benchmarks import Benchmarks, Measure, Measured, Measurer
from edgectl_agent.core import steps
from edgectl_agent.core.machine import Machine
from edgectl_agent.core.record import Floor
from edgectl_agent.core.requests import RequestArrived, decode_request_record
from edgectl_agent.core.timing import Moment
from edgectl_agent.downloader import Downloader
from edgectl_agent.durable import RealDisk
from edgectl_agent.errors import StepFailed, StepRejected
from edgectl_agent.request_ledger import RequestLedger
from edgectl_agent.store import Store
from edgectl_agent.trial import TrialResult, Verdict
from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.messages import BenchmarkRequest, BenchmarkResult, Reason, TrialReport

NOW = Moment(START, 0.0)
INT8 = make_bundle(describe("activity", "1", "int8"), b"i" * 200_000, b"golden")
FP32 = make_bundle(describe("activity", "1", "fp32"), b"f" * 100, b"golden")
REPORT = TrialReport(
    golden_passed=1, golden_total=1, load_ms=1.0, latency_p50_us=10.0, latency_p95_us=20.0,
    rss_bytes=1, max_abs_diff=0.0, runs=7, threads=1,
)  # fmt: skip


def make_request(counter: int = 1, **changes: Any) -> BenchmarkRequest:
    request = BenchmarkRequest(
        device="pi-1",
        job=f"{counter:016x}",
        counter=counter,
        nonce=f"{counter:032x}",
        issued_at=START,
        expires_at=START + timedelta(minutes=5),
        model="activity",
        version="1",
        candidates=(INT8.candidate, FP32.candidate),
        runs=7,
    )
    return msgspec.structs.replace(request, **changes)


def arrived(request: BenchmarkRequest, key: str = "a", *keys: str) -> RequestArrived:
    return RequestArrived(request=request, key=key, keys=keys or (key,))


class Site:
    """The part of the main thread, with everything around it written down."""

    def __init__(self, disk: Any) -> None:
        self.machine = Machine("pi-1")
        self.submitted: list[Measure | steps.Collect] = []
        self.alarms: list[str] = []
        self.told: list[tuple[str, int, str, str]] = []
        """Job, done, verdict, code."""
        self.ledger = RequestLedger("pi-1", disk)
        self.benchmarks = Benchmarks(
            self.ledger, machine=self.machine, reporter=self, submit=self.submitted.append
        )

    def alarm(self, reason: Reason, moment: Moment) -> None:
        self.alarms.append(reason.code)

    def benchmark(
        self,
        request: BenchmarkRequest,
        done: int,
        moment: Moment,
        *,
        result: BenchmarkResult | None = None,
        reason: Reason | None = None,
    ) -> None:
        self.told.append(
            (request.job, done, result.verdict if result else "", reason.code if reason else "")
        )

    def take(self, request: BenchmarkRequest, key: str = "a", *keys: str) -> None:
        self.benchmarks.take(arrived(request, key, *keys), NOW)

    @property
    def measures(self) -> list[Measure]:
        return [one for one in self.submitted if isinstance(one, Measure)]

    def finish(self, verdict: str | None = "ok") -> None:
        """Let the newest measurement end; None: it was overtaken."""
        measure = self.measures[-1]
        candidate = measure.candidate
        result = None
        if verdict is not None:
            result = BenchmarkResult(
                variant=candidate.variant,
                manifest=candidate.manifest,
                verdict=verdict,  # type: ignore[arg-type]
            )
        self.benchmarks.take_result(Measured(measure=measure, result=result), NOW)

    def begin_update(self) -> None:
        order = make_order(1, [INT8])
        self.machine.handle(steps.OrderArrived(order=order), NOW, 0.0)
        assert self.machine.busy


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk()


@pytest.fixture
def site(disk: SimulatedDisk) -> Site:
    return Site(disk)


def test_every_variant_is_measured_in_turn_and_told(site: Site) -> None:
    request = make_request()
    site.take(request)
    assert [one.number for one in site.measures] == [0]
    site.finish()
    site.finish("rejected")
    assert [one.number for one in site.measures] == [0, 1]
    job = request.job
    assert site.told == [(job, 0, "", ""), (job, 1, "ok", ""), (job, 2, "rejected", "")]
    collected = [one for one in site.submitted if isinstance(one, steps.Collect)]
    assert collected == [steps.Collect(keep=())] * 2, "what was fetched is removed again"
    site.take(make_request(2))
    assert len(site.measures) == 3


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"device": "pi-2"}, "request.device"),
        ({"counter": 5}, "request.replayed"),
        ({"counter": 4}, "request.replayed"),
        ({"expires_at": START}, "request.expired"),
        ({"issued_at": START + timedelta(days=1, seconds=1)}, "request.clock"),
    ],
)
def test_what_is_refused_is_an_alarm_and_nothing_is_told(
    site: Site, changes: dict[str, Any], code: str
) -> None:
    site.take(make_request(5))
    site.finish()
    site.finish()
    before = (list(site.told), len(site.measures))
    site.take(make_request(**({"counter": 6} | changes)))
    assert site.alarms == [code]
    assert (site.told, len(site.measures)) == before


def test_a_refused_request_does_not_use_up_its_number(site: Site) -> None:
    site.take(make_request(7, expires_at=START))
    site.take(make_request(7))
    assert len(site.measures) == 1


def test_numbers_of_a_key_that_was_taken_out_are_forgotten(site: Site) -> None:
    site.take(make_request(2**60), "stolen", "stolen", "new")
    site.finish(None)
    site.take(make_request(3), "new", "stolen", "new")
    assert site.alarms == ["request.replayed"]
    site.take(make_request(3), "new", "new")
    assert len(site.measures) == 2


def test_nothing_is_measured_while_an_update_is_under_way(site: Site) -> None:
    site.begin_update()
    site.take(make_request())
    assert site.told == [(make_request().job, 0, "", "benchmark.busy")]
    assert site.submitted == []
    site.take(make_request())
    assert site.alarms == ["request.replayed"], "its number is used up all the same"


def test_one_request_at_a_time(site: Site) -> None:
    site.take(make_request(1))
    site.take(make_request(2))
    assert site.told[-1] == (make_request(2).job, 0, "", "benchmark.busy")
    site.finish()
    site.finish()
    assert site.told[-1] == (make_request(1).job, 2, "ok", "")


@pytest.mark.parametrize("verdict", [None, "ok"])
def test_an_update_that_begins_ends_it(site: Site, verdict: str | None) -> None:
    site.take(make_request())
    site.begin_update()
    site.finish(verdict)
    assert site.told[-1] == (
        make_request().job,
        int(verdict is not None),
        "",
        "benchmark.overtaken",
    )
    assert len(site.measures) == 1
    collected = [one for one in site.submitted if isinstance(one, steps.Collect)]
    assert collected == [steps.Collect(keep=(INT8.digest,))], "what the update needs stays"


def test_after_a_restart_it_is_told_and_not_taken_again(disk: SimulatedDisk, site: Site) -> None:
    site.take(make_request())
    again = Site(disk)
    again.benchmarks.start(NOW)
    assert again.told == [(make_request().job, 0, "", "benchmark.interrupted")]
    again.take(make_request())
    assert again.alarms == ["request.replayed"]
    assert again.measures == []
    third = Site(disk)
    third.benchmarks.start(NOW)
    assert third.told == []


@pytest.mark.parametrize("survival", ["lost", "kept", "random"])
def test_wherever_the_power_goes_a_request_is_begun_once(survival: Any) -> None:
    again_begun = []
    for cut in range(1, 20):
        disk = SimulatedDisk()
        site = Site(disk)
        disk.cut_at = disk.operations + cut
        with contextlib.suppress(PowerCut):
            site.take(make_request())
        is_whole = disk.operations < disk.cut_at
        disk.reboot(survival, random.Random(cut))
        again = Site(disk)
        again.benchmarks.start(NOW)
        again.take(make_request())
        assert len(site.measures) + len(again.measures) <= 1, disk.trail
        again_begun.append(len(again.measures))
        if is_whole:
            break
    assert is_whole
    assert again_begun[0] == 1, "before anything was written down it is taken again"
    assert again_begun[-1] == 0, "and after that never"


def test_what_cannot_be_written_down_is_not_begun(tmp_path: Path) -> None:
    class FullDisk(RealDisk):
        def write_atomic(self, path: str, content: bytes, mode: int = 0) -> None:
            raise OSError(28, "no space left")

    site = Site(FullDisk(tmp_path))
    site.take(make_request())
    assert site.told == []
    assert site.submitted == []


def test_a_damaged_record_is_no_memory(disk: SimulatedDisk) -> None:
    disk.write_atomic("requests", b'{"counter": "x"}')
    site = Site(disk)
    site.benchmarks.start(NOW)
    site.take(make_request())
    assert len(site.measures) == 1
    with pytest.raises(MalformedMessage):
        decode_request_record(b"\xff")


# ---------------------------------------------------------------- measuring one variant


class Retained:
    """A transport that holds every chunk of some bundles."""

    def __init__(self, *bundles: Any) -> None:
        self.held = {topic: one for bundle in bundles for topic, one in bundle.retained.items()}
        self.waiting: list[tuple[str, bytes]] = []

    def connected(self) -> bool:
        return True

    def subscribe(self, topics: list[str]) -> None:
        self.waiting += [(topic, self.held[topic]) for topic in topics if topic in self.held]

    def came(self, topic: str) -> None:
        pass

    def bytes_in(self) -> int:
        return 0

    def unsubscribe(self, topics: list[str]) -> None:
        pass

    def receive(self, timeout_s: float) -> tuple[str, bytes] | None:
        return self.waiting.pop(0) if self.waiting else None

    def publish(self, topic: str, payload: bytes) -> None:
        pass


class Bench:
    """A measurer on a real store, with a trial that a test decides."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(RealDisk(folder))
        self.found: list[tuple[str, str, Floor]] = []
        self.error: Exception | None = None
        self.runs: list[int] = []
        self.cancelled = False
        self.result = TrialResult(verdict=Verdict.OK, report=REPORT)
        self.measurer = Measurer(
            metadata=self,
            downloader=Downloader("pi-1", self.store, Retained(INT8, FP32), seal=lambda _: b""),
            store=self.store,
            trial=self.trial,
        )

    def find(self, target: str, manifest: str, floor: Floor, cancelled: Any) -> Floor:
        self.found.append((target, manifest, floor))
        if self.error is not None:
            raise self.error
        return floor

    def trial(self, bundle: Any, runs: int, cancelled: Callable[[], bool]) -> TrialResult:
        self.runs.append(runs)
        return self.result

    def measure(self, request: BenchmarkRequest, number: int = 0) -> BenchmarkResult | None:
        measure = Measure(request=request, number=number, floor=Floor(root=3))
        return self.measurer.measure(measure, lambda: self.cancelled).result


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "state")


def test_a_variant_is_found_in_the_metadata_fetched_and_tried(bench: Bench) -> None:
    result = bench.measure(make_request())
    assert result is not None
    assert (result.verdict, result.trial, result.variant) == ("ok", REPORT, "int8")
    assert bench.found == [("models/activity/1/int8", INT8.digest, Floor(root=3))]
    assert bench.runs == [7]
    assert bench.store.has(INT8.digest)
    assert bench.store.pointers() == {}, "no slot has changed"


@pytest.mark.parametrize(
    ("error", "verdict", "code"),
    [
        (StepRejected("trust.mismatch", "x"), "rejected", "trust.mismatch"),
        (StepFailed("trust.unreachable", "x"), "failed", "trust.unreachable"),
        (OSError(28, "no space left"), "failed", "disk.full"),
    ],
)
def test_what_is_not_signed_for_is_not_fetched(
    bench: Bench, error: Exception, verdict: str, code: str
) -> None:
    bench.error = error
    result = bench.measure(make_request())
    assert result is not None
    assert result.reason is not None
    assert (result.verdict, result.reason.code) == (verdict, code)
    assert bench.runs == []
    assert not bench.store.has(INT8.digest)


def test_a_bundle_of_another_model_is_not_tried(bench: Bench) -> None:
    result = bench.measure(make_request(model="other"))
    assert result is not None
    assert result.reason is not None
    assert result.reason.code == "bundle.mismatch"
    assert bench.runs == []


def test_a_verdict_that_nobody_waits_for_is_none(bench: Bench) -> None:
    bench.cancelled = True
    assert bench.measure(make_request()) is None
    assert bench.runs == []
