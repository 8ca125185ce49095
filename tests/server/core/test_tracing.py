"""Traces to a collector that speaks OTLP: whole, later if it was away, no hindrance to anybody."""

import gzip
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from edgectl_server import tracing as module
from edgectl_server.errors import Refused
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    Job,
    Model,
    ModelVersion,
    Rollout,
    RolloutDevice,
    RolloutEvent,
)
from edgectl_server.tracing import Tracing
from server.core.conftest import Clock


class Collector(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.batches: list[ExportTraceServiceRequest] = []

    @property
    def spans(self):
        return [
            span
            for batch in self.batches
            for resource in batch.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.server.status == 200:
            self.server.batches.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fill(database: Database, clock: Clock) -> None:
    """A push that took two minutes, a rollout of it, and one that goes on."""
    begun = clock()
    clock.pass_s(120)
    with database.write() as session:
        session.add(Model(name="har", created_at=begun, created_by="anna"))
        session.flush()
        version = ModelVersion(
            model="har", version="1", state="ready", created_at=begun, created_by="anna",
            content="x", source="x", source_size=1, source_name="m.onnx", calibration=None,
            evaluation=None, options={}, report=None, parent=None, job=None,
        )  # fmt: skip
        session.add(version)
        session.add(
            Job(
                id="0" * 16, kind="push", state="succeeded",
                payload={"subject": {"model": "har", "version": "1"}}, progress={}, result=None,
                error=None, fence=1, attempts=1, worker=None, lease_until=None,
                cancel_requested=False,
                created_at=begun, created_by="anna", started_at=begun, finished_at=clock(),
            )
        )  # fmt: skip
        session.flush()
        for number, state in enumerate(("completed", "running")):
            session.add(
                Rollout(
                    id=f"{number}" * 16, model="har", version_id=version.id, state=state,
                    selector={}, policy={"phases": [{"name": "canary"}]}, revision=1,
                    failures_acknowledged=0, note="",
                    due_at=None, created_at=begun, created_by="anna",
                    finished_at=clock() if state == "completed" else None,
                    phase_since=None, settled_at=None, tested_until=None,
                )
            )  # fmt: skip
        session.flush()
        session.add(
            RolloutEvent(
                rollout="0" * 16, revision=1, at=begun, actor="anna", kind="started", data={}
            )
        )
        session.add(
            RolloutDevice(
                rollout="0" * 16, device="pi-1", state="committed", previous_version_id=None,
                order_counter=None, refused_since=None, reason=None, manifest=None,
                whole_bytes=None, predicted_bytes=None, fetched_bytes=None, updated_at=begun,
            )
        )  # fmt: skip
    clock.pass_s(10)


def make(database, clock, endpoint, tmp_path) -> Tracing:
    return Tracing(database=database, endpoint=endpoint, cursor=tmp_path / "traces-sent", now=clock)


def test_what_has_ended_is_sent_once(database, collector, tmp_path):
    clock = Clock()
    endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
    tracing = make(database, clock, endpoint, tmp_path)
    assert tracing.send() == 0  # it begins now
    fill(database, clock)
    collector.status = 400  # it does not take them
    assert tracing.send() == 0
    collector.status = 200
    again = make(database, clock, endpoint, tmp_path)  # of a server that was started again
    assert again.send() == 5
    assert again.send() == 0
    names = sorted(span.name for span in collector.spans)
    assert names == ["phase canary", "pipeline", "push har@1", "queued", "rollout har@1"]
    assert len({span.trace_id for span in collector.spans}) == 1
    (rollout,) = (span for span in collector.spans if span.name.startswith("rollout"))
    (push,) = (span for span in collector.spans if span.name.startswith("push"))
    assert rollout.parent_span_id == push.span_id
    assert (push.end_time_unix_nano - push.start_time_unix_nano) / 1e9 == pytest.approx(120)
    about = {one.key: one.value for one in rollout.attributes}
    assert about["edgectl.devices.committed"].int_value == 1
    assert [event.name for event in rollout.events] == ["started"]


def test_many_are_sent_in_turns(sqlite, collector, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 1)
    clock = Clock()
    endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
    tracing = make(sqlite, clock, endpoint, tmp_path)
    tracing.send()
    fill(sqlite, clock)
    with sqlite.write() as session:
        job = session.get_one(Job, "0" * 16)
        session.get_one(Rollout, "0" * 16).finished_at = job.finished_at + timedelta(seconds=1)
    assert [tracing.send(), tracing.send(), tracing.send()] == [3, 2, 0]


def test_without_the_extra_it_is_said(sqlite, tmp_path, monkeypatch):
    name = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Refused, match="not installed"):
        make(sqlite, Clock(), "http://127.0.0.1:1", tmp_path)
