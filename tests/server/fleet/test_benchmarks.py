"""Benchmarks and measurements: what is asked, what is believed, and what it changes.

The services run on a database; devices are rows whose reports are put in as the intake would. The
last test runs on a real broker.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import func, select

from edgectl_protocol import topics
from edgectl_protocol.messages import (
    Ack,
    BenchmarkReport,
    BenchmarkRequest,
    BenchmarkResult,
    Capabilities,
    Reason,
    decode,
)
from edgectl_protocol.update import UpdateEvent, UpdateState
from edgectl_server import measurements as measurements_module
from edgectl_server.benchmarks import OFFLINE_MAX, SILENT_MAX
from edgectl_server.device_requests import ANSWER_WITHIN
from edgectl_server.domain.targets import parse_targets
from edgectl_server.errors import Conflict, NotFound, Refused, ServerError
from edgectl_server.measurements import BENCHMARK, PER_DEVICE_MAX
from edgectl_server.schemas import BenchmarkStart
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device, Measurement, Retained
from edgectl_server.targets import REFERENCE, Targets, open_targets
from server.fleet.bench import PI4, Bench, make_bench, trial
from server.fleet.conftest import Site
from server.fleet.fleet_helpers import CAPABILITIES, PAGE_ALL
from server.fleet.test_rollout_service import Fleet
from waiting import wait_for


@pytest.fixture
def bench(tmp_path: Path, sqlite: Database) -> Bench:
    return make_bench(tmp_path, sqlite)


@pytest.fixture
def bench_anywhere(tmp_path: Path, database: Database) -> Bench:
    """On both databases, for what differs there: inserts, deletions, JSON."""
    return make_bench(tmp_path, database)


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(ServerError) as caught:
        call()
    assert caught.value.hint
    return caught.value.code


# ---------------------------------------------------------------- asking


def test_a_request_is_signed_numbered_and_expires(bench: Bench) -> None:
    job = bench.ask(runs=17)
    assert (job.kind, job.state, job.progress.total) == (BENCHMARK, "queued", 2)
    assert job.subject == {"model": "har", "version": "1", "device": "a"}
    request = bench.send()
    assert (request.device, request.job, request.runs) == ("a", job.id, 17)
    assert [one.variant for one in request.candidates] == ["int8", "fp32"]
    assert request.expires_at - request.issued_at == timedelta(minutes=2)
    assert bench.job(job.id).state == "running"
    bench.benchmarks.send(bench.link)
    assert len(bench.link.sent) == 1, "it is sent once"


def test_numbers_grow_also_behind_a_clock_that_goes_back(bench: Bench) -> None:
    first = bench.ask()
    one = bench.send()
    bench.jobs.cancel(first.id)
    bench.clock.advance(days=-3)
    bench.ask()
    assert bench.send().counter == one.counter + 1
    assert one.counter > 1_700_000_000_000, "above what a restored backup would have issued"


def test_what_cannot_be_asked(bench: Bench) -> None:
    bench.version("2", state="processing")
    bench.add("small", capabilities=msgspec.structs.replace(PI4, memory_bytes=300_000))
    bench.add("silent", capabilities=None)
    with bench.database.write() as session:
        bench_b = session.get_one(Device, "b")
        bench_b.online = False
    start = bench.benchmarks.start
    assert code_of(lambda: start("har", "9", BenchmarkStart(device="a"), "x")) == "version.unknown"
    assert code_of(lambda: start("har", "2", BenchmarkStart(device="a"), "x")) == (
        "benchmark.not_ready"
    )
    assert code_of(lambda: bench.ask("nobody")) == "device.unknown"
    assert code_of(lambda: bench.ask("b")) == "benchmark.offline"
    assert code_of(lambda: bench.ask("a", "int4")) == "variant.unknown"
    assert code_of(lambda: bench.ask("small", "fp32")) == "benchmark.unfit"
    assert code_of(lambda: bench.ask("silent")) == "benchmark.unfit"
    first = bench.ask("a")
    with pytest.raises(Conflict) as caught:
        bench.ask("a")
    assert (caught.value.code, caught.value.data) == ("benchmark.running", {"job": first.id})
    assert len(bench.ask("small").id) == 16, "int8 alone fits"


# ---------------------------------------------------------------- answers


def test_what_is_measured_is_kept_and_ends_the_job(bench_anywhere: Bench) -> None:
    bench = bench_anywhere
    job = bench.ask()
    request = bench.send()
    assert bench.report(request) is None
    assert bench.job(job.id).progress.stage == "measure"
    assert bench.report(request, "int8", 50.0, done=1) is None
    half = bench.job(job.id)
    assert (half.state, half.progress.done) == ("running", 1)
    assert half.progress.message == "int8: p50 50 µs"
    assert bench.report(request, "fp32", 20.0, done=2) is None
    ended = bench.job(job.id)
    assert ended.state == "succeeded"
    assert ended.result is not None
    assert ended.result["device_class"] == "rpi4-arm64"
    shown = ended.result["measurements"]
    assert [one["variant"] for one in shown] == ["int8", "fp32"]
    assert shown[0]["energy_uj"] == pytest.approx(50 * 2 * 1.2), "p50, threads, watts of the class"
    assert bench.rows() == [("a", "rpi4-arm64", "int8", 50.0), ("a", "rpi4-arm64", "fp32", 20.0)]
    (newest, _) = bench.measurements.page("har", "1", PAGE_ALL).items
    assert (newest.variant, newest.source, newest.runtime) == (
        "fp32", "benchmark", "onnxruntime 1.32.0",
    )  # fmt: skip
    assert newest.golden_passed == newest.golden_total == 16
    assert bench.measurements.page("har", "1", PAGE_ALL, device_class="arm64").total == 0


def test_the_same_again_changes_nothing(bench: Bench) -> None:
    job = bench.ask()
    request = bench.send()
    for _ in range(3):
        assert bench.report(request, "int8", 50.0) is None
    assert bench.job(job.id).state == "running"
    assert len(bench.rows()) == 1


def test_lies_are_not_believed(bench: Bench) -> None:
    job = bench.ask()
    request = bench.send()
    complaints = [
        bench.report(request, "int8", 1.0, nonce="f" * 32),
        bench.report(request, "int8", 1.0, device="b"),
        bench.report(request, "int8", 1.0, job="f" * 16),
        bench.report(request, result=BenchmarkResult(
            variant="int8", manifest="sha256:" + "e" * 64, verdict="ok", trial=trial(1.0))),
    ]  # fmt: skip
    assert [one.code if one else "" for one in complaints] == [
        "report.nonce", "report.job", "report.job", "report.job",
    ]  # fmt: skip
    assert bench.rows() == []
    assert bench.job(job.id).progress.stage == "send"


@pytest.mark.parametrize(
    "figures", [{"latency_p50_us": -1.0}, {"latency_p50_us": 0.0}, {"latency_p50_us": 1e300}]
)
def test_figures_that_cannot_be_true_are_left_out(bench: Bench, figures: dict[str, Any]) -> None:
    bench.ask()
    request = bench.send()
    result = BenchmarkResult(
        variant="int8", manifest=bench.manifests["1"]["int8"], verdict="ok",
        trial=trial(5.0, **figures),
    )  # fmt: skip
    assert bench.report(request, result=result) is None
    assert bench.rows() == [("a", "rpi4-arm64", "int8", None)]


def test_a_device_that_ends_it_gives_the_reason_and_what_it_has(bench: Bench) -> None:
    job = bench.ask()
    request = bench.send()
    bench.report(request, "int8", 50.0, done=1)
    bench.report(request, reason=Reason(code="benchmark.overtaken", detail="an update"), done=1)
    error = bench.job(job.id).error
    assert error is not None
    assert error.code == "benchmark.overtaken"
    assert [one["variant"] for one in error.data["measurements"]] == ["int8"]
    assert len(bench.rows()) == 1


def test_a_variant_that_cannot_be_measured_now_says_nothing(bench: Bench) -> None:
    job = bench.ask("a", "int8")
    request = bench.send()
    full = Reason(code="disk.full", detail="no space")
    bench.report(request, "int8", verdict="failed", reason=full)
    error = bench.job(job.id).error
    assert error is not None
    assert (error.code, "disk.full" in error.detail) == ("benchmark.failed", True)
    assert bench.rows() == []


@pytest.mark.parametrize("begun", [False, True])
def test_a_device_that_says_nothing(bench: Bench, begun: bool) -> None:
    job = bench.ask()
    request = bench.send()
    if begun:
        bench.report(request)
    bench.clock.time += (SILENT_MAX if begun else ANSWER_WITHIN) - timedelta(seconds=1)
    bench.benchmarks.give_up()
    assert bench.job(job.id).state == "running"
    bench.clock.advance(seconds=2)
    bench.benchmarks.give_up()
    error = bench.job(job.id).error
    assert error is not None
    assert error.code == ("benchmark.silent" if begun else "benchmark.unanswered")
    bench.report(request, "int8", 50.0)
    assert bench.job(job.id).state == "failed"
    assert len(bench.rows()) == 1, "what was measured is true all the same"


def test_a_device_that_goes_offline(bench: Bench) -> None:
    job = bench.ask()
    bench.report(bench.send())
    with bench.database.write() as session:
        session.get_one(Device, "a").online = False
    bench.benchmarks.give_up()
    assert bench.job(job.id).state == "running"
    bench.clock.time += OFFLINE_MAX + timedelta(seconds=1)
    bench.benchmarks.give_up()
    error = bench.job(job.id).error
    assert error is not None
    assert error.code == "benchmark.lost"


def test_a_benchmark_is_cancelled_at_once_and_never_claimed(bench: Bench) -> None:
    job = bench.ask()
    assert bench.jobs._claim() is None
    request = bench.send()
    assert bench.jobs._claim() is None
    bench.jobs.cancel(job.id)
    assert bench.job(job.id).state == "cancelled"
    bench.report(request, "int8", 50.0)
    assert bench.job(job.id).state == "cancelled"


# ---------------------------------------------------------------- measurements of updates


def test_the_trial_of_an_update_is_a_measurement(bench: Bench) -> None:
    event = bench.trial_event("a", "int8", 70.0)
    later: dict[str, Any] = {"before": UpdateState.ACTIVATING, "after": UpdateState.OBSERVING}
    bench.trial_event("a", "int8", 70.0, **later)
    bench.trial_event("b", "int8", 9.0, after=UpdateState.FAILED, event=UpdateEvent.FAILED)
    with bench.database.write() as session:
        bench.benchmarks.take_event(session, session.get_one(Device, "a"), event)
    assert bench.rows() == [("a", "rpi4-arm64", "int8", 70.0)]
    bench.trial_event(
        "b", "fp32", 9.0, after=UpdateState.REJECTED, event=UpdateEvent.REJECTED, trial=None,
        reason=Reason(code="trial.crashed", detail="SIGILL"),
    )  # fmt: skip
    newest = bench.measurements.page("har", "1", PAGE_ALL).items[0]
    assert (newest.verdict, newest.reason, newest.latency_p50_us) == (
        "rejected", "trial.crashed", None,
    )  # fmt: skip


def test_what_is_kept_is_bounded(bench_anywhere: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_anywhere
    for p50 in range(1, PER_DEVICE_MAX + 4):
        bench.trial_event("a", "int8", float(p50))
    assert len(bench.rows()) == PER_DEVICE_MAX
    assert bench.rows()[-1][3] == PER_DEVICE_MAX + 3
    monkeypatch.setattr(measurements_module, "PER_MANIFEST_MAX", 4)
    bench.measurements.delete_old()
    assert [row[3] for row in bench.rows()] == [10.0, 11.0, 12.0, 13.0]


# ---------------------------------------------------------------- the choice


def measure(bench: Bench, device: str, **p50: float) -> None:
    bench.ask(device, *p50)
    request = bench.send()
    for variant, value in p50.items():
        assert bench.report(request, variant, value) is None


def test_what_a_class_has_measured_decides_for_its_devices_alone(bench_anywhere: Bench) -> None:
    bench = bench_anywhere
    bench.add("other", capabilities=CAPABILITIES)
    measure(bench, "a", int8=900.0, fp32=300.0)
    bench.start(max_in_progress=10)
    bench.rollouts.tick()
    assert bench.candidates("a") == bench.candidates("b") == ["fp32", "int8"]
    assert bench.candidates("other") == ["int8", "fp32"]


def test_what_was_ordered_stays_until_the_next_rollout(bench: Bench) -> None:
    rollout = bench.start(max_in_progress=10)
    bench.rollouts.tick()
    assert bench.candidates("a") == ["int8", "fp32"]
    measure(bench, "b", int8=900.0, fp32=300.0)
    with bench.database.write() as session:
        bench.ordering.issue(session, "a")
    assert bench.candidates("a") == ["int8", "fp32"]
    for name in ("a", "b"):
        Fleet.report(bench, name, UpdateState.COMMITTED)
    bench.rollouts.tick()
    assert bench.show(rollout).state == "completed"
    bench.start(max_in_progress=10)
    bench.rollouts.tick()
    assert bench.candidates("a") == ["fp32", "int8"]


def test_what_is_too_large_for_the_class_is_ordered_nowhere_in_it(
    tmp_path: Path, sqlite: Database
) -> None:
    bench = Bench(tmp_path, sqlite)
    bench.version("1")
    own = "[rpi4-arm64.limits]\nrss_bytes = 70_000_000"
    bench.targets = Targets(parse_targets(REFERENCE.read_text(), own))
    bench.measurements._targets = bench.targets
    bench.add("a", "b")
    measure(bench, "a", int8=5.0)
    bench.start(max_in_progress=10)
    bench.rollouts.tick()
    assert bench.candidates("b") == ["fp32"]


# ---------------------------------------------------------------- classes


def test_the_classes_are_counted_and_shown(bench: Bench) -> None:
    bench.add("unknown", capabilities=Capabilities(machine="mips"))
    found = bench.targets.list(bench.database)
    counts = {one.name: one.devices for one in found.items}
    assert counts["rpi4-arm64"] == 2
    assert found.unclassified == 1
    assert sum(counts.values()) == 2


def test_other_profiles_take_the_measurements_of_a_device_along(bench_anywhere: Bench) -> None:
    bench = bench_anywhere
    bench.trial_event("a", "int8", 70.0)
    own = (
        '[mine]\nmachine = ["aarch64"]\ncpu_model = ["Pi 4"]\ncpu_features = ["asimd", "asimd|x"]\n'
    )
    own += 'runtimes = ["onnxruntime"]\nmemory_bytes = 1\nopset = 17\n'
    changed = Targets(parse_targets(REFERENCE.read_text(), own))
    assert changed.classify_all(bench.database) == 2
    assert bench.rows() == [("a", "mine", "int8", 70.0)]
    assert changed.classify_all(bench.database) == 0


def test_a_file_that_is_wrong_is_refused_with_the_key(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    with pytest.raises(Refused, match="cannot read"):
        open_targets(str(file))
    file.write_text("[mine]\nspeed = 1")
    with pytest.raises(Refused, match="mine") as caught:
        open_targets(str(file))
    assert caught.value.code == "targets.invalid"
    assert "docs/targets.md" in caught.value.hint


def test_an_unknown_version_has_no_measurements(bench: Bench) -> None:
    with pytest.raises(NotFound):
        bench.measurements.page("har", "9", PAGE_ALL)


# ---------------------------------------------------------------- on a real broker


def test_over_a_real_broker(site: Site) -> None:
    manifests = site.version()
    pi = site.pi("pi-1")
    pi.subscribe(topics.command("pi-1"))
    wait_for(lambda: site.plane.fleet.device("pi-1").online)
    shown = site.plane.fleet.device("pi-1")
    assert (shown.device_class, "machine aarch64" in shown.device_class_reason) == ("arm64", True)
    asked = BenchmarkStart(device="pi-1", variants=["int8"], runs=3)
    job = site.plane.benchmarks.start("har", "1", asked, "anna")

    def received() -> BenchmarkRequest | None:
        payloads = pi.got.get(topics.command("pi-1"), [])
        return decode(BenchmarkRequest, pi.verified(payloads[-1])) if payloads else None

    request = wait_for(received)
    assert (request.job, request.candidates[0].manifest) == (job.id, manifests["int8"])
    assert pi.fetch(manifests["int8"], 1), "the bundle is on the broker without any rollout"
    report = BenchmarkReport(
        device="pi-1", boot=1, seq=77, at=request.issued_at, job=job.id, request=request.counter,
        nonce=request.nonce, done=1,
        result=BenchmarkResult(
            variant="int8", manifest=manifests["int8"], verdict="ok", trial=trial(42.0)
        ),
    )  # fmt: skip
    pi.publish(topics.event("pi-1"), report)
    acks = wait_for(lambda: pi.got.get(topics.ack("pi-1")))
    assert decode(Ack, acks[-1]) == Ack(boot=1, seq=77)
    with site.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Measurement)) == 1
    held = select(func.count()).select_from(Retained).where(Retained.kind == "blob")

    def is_cleared() -> bool:
        with site.database.read() as session:
            return session.scalar(held) == 0

    wait_for(is_cleared, "the broker cleared again")
