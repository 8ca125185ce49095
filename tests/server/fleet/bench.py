"""A fleet whose devices measure; what they report is put in as the intake would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from securesystemslib.dsse import Envelope
from sqlalchemy import select

from edgectl_protocol import topics
from edgectl_protocol.messages import (
    REQUEST_PAYLOAD_TYPE,
    BenchmarkReport,
    BenchmarkRequest,
    BenchmarkResult,
    Capabilities,
    DeviceEvent,
    Reason,
    TrialReport,
    decode,
)
from edgectl_protocol.update import UpdateEvent, UpdateState
from edgectl_server.benchmarks import Benchmarks
from edgectl_server.jobs import Jobs
from edgectl_server.measurements import BENCHMARK, Measurements
from edgectl_server.schemas import BenchmarkStart, JobInfo
from edgectl_server.signing.orders import OrderSigner
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device, Measurement
from edgectl_server.targets import open_targets
from server.fleet.test_rollout_service import Fleet

PI4 = Capabilities(
    machine="aarch64",
    cpu_model="Raspberry Pi 4 Model B Rev 1.4",
    cpu_features=("asimd",),
    memory_bytes=4 * 1024**3,
    runtimes={"onnxruntime": "1.32.0"},
)


def trial(p50: float, **changes: Any) -> TrialReport:
    fields: dict[str, Any] = {
        "golden_passed": 16, "golden_total": 16, "load_ms": 3.0, "latency_p50_us": p50,
        "latency_p95_us": 2 * p50, "rss_bytes": 80_000_000, "max_abs_diff": 0.0, "runs": 216,
        "threads": 2,
    }  # fmt: skip
    return TrialReport(**(fields | changes))


class Link:
    """Takes what is published."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        assert not retain, "a request is for who is there"
        self.sent.append((topic, payload))

    def flush(self, timeout_s: float) -> bool:
        return True


class Bench(Fleet):
    """A fleet whose devices measure."""

    def __init__(self, folder: Path, database: Database) -> None:
        super().__init__(folder, database)
        self.targets = open_targets()
        self.measurements = Measurements(database=database, targets=self.targets, now=self.clock)
        self.ordering._measurements = self.measurements
        self.benchmarks = Benchmarks(
            database=database,
            measurements=self.measurements,
            ordering=self.ordering,
            signer=OrderSigner(self.keys),
            now=self.clock,
        )
        self.jobs = Jobs(database, self.clock)
        self.jobs.register_remote(BENCHMARK)
        self.link = Link()
        self.seq = 0

    def add(self, *names: str, capabilities: Capabilities | None = PI4) -> None:
        super().add(*names, capabilities=capabilities)
        self.targets.classify_all(self.database)

    def ask(self, device: str = "a", *variants: str, runs: int = 200) -> JobInfo:
        asked = BenchmarkStart(device=device, variants=list(variants), runs=runs)
        return self.benchmarks.start("har", "1", asked, "anna")

    def send(self) -> BenchmarkRequest:
        """Send what waits, and return the newest request as the device checks it."""
        self.benchmarks.send(self.link)
        topic, payload = self.link.sent[-1]
        envelope = Envelope.from_dict(json.loads(payload))
        assert envelope.payload_type == REQUEST_PAYLOAD_TYPE
        envelope.verify([self.keys.signer("orders").public_key], 1)
        request = decode(BenchmarkRequest, envelope.payload)
        assert topic == topics.command(request.device)
        return request

    def report(  # type: ignore[override]
        self,
        request: BenchmarkRequest,
        variant: str | None = None,
        p50: float | None = None,
        *,
        device: str = "",
        reason: Reason | None = None,
        verdict: str = "ok",
        **changes: Any,
    ) -> Reason | None:
        """Let the device say something of a request; return why it is not believed."""
        self.seq += 1
        result = None
        if variant is not None:
            result = BenchmarkResult(
                variant=variant,
                manifest=self.manifests["1"][variant],
                verdict=verdict,  # type: ignore[arg-type]
                trial=None if p50 is None else trial(p50),
                reason=reason if verdict != "ok" else None,
            )
        fields: dict[str, Any] = {
            "device": device or request.device, "boot": 1, "seq": self.seq, "at": self.clock(),
            "job": request.job, "request": request.counter, "nonce": request.nonce, "done": 0,
            "result": result, "reason": None if verdict != "ok" else reason,
        }  # fmt: skip
        report = BenchmarkReport(**(fields | changes))
        with self.database.write() as session:
            row = session.get_one(Device, report.device)
            return self.benchmarks.take_report(session, row, report)

    def trial_event(self, device: str, variant: str, p50: float, **changes: Any) -> DeviceEvent:
        """Let a device tell of a transition, after its trial unless it is said otherwise."""
        self.seq += 1
        fields: dict[str, Any] = {
            "device": device, "boot": 1, "seq": self.seq, "at": self.clock(), "slot": "har",
            "order": 1, "nonce": "0" * 32, "version": "1", "variant": variant,
            "manifest": self.manifests["1"][variant], "before": UpdateState.TRIAL,
            "event": UpdateEvent.OK, "after": UpdateState.ACTIVATING, "trial": trial(p50),
        }  # fmt: skip
        event = DeviceEvent(**(fields | changes))
        with self.database.write() as session:
            self.benchmarks.take_event(session, session.get_one(Device, device), event)
        return event

    def job(self, job_id: str) -> JobInfo:
        found = self.jobs.snapshot(job_id)
        assert found is not None
        return found

    def rows(self) -> list[tuple[str, str, str, float | None]]:
        with self.database.read() as session:
            found = session.scalars(select(Measurement).order_by(Measurement.id)).all()
            return [(r.device, r.device_class, r.variant, r.latency_p50_us) for r in found]

    def candidates(self, name: str) -> list[str]:
        order = self.order(name)
        assert order is not None
        return [one.variant for one in order.slots["har"].candidates]


def make_bench(folder: Path, database: Database) -> Bench:
    bench = Bench(folder, database)
    bench.version("1")
    bench.add("a", "b")
    return bench
