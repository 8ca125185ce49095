"""Sinks of a flow, their delivery, and addresses that cannot be."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from edgectl_agent.errors import UsageError
from edgectl_agent.flows import delivery as delivery_module
from edgectl_agent.flows.delivery import Delivery
from edgectl_agent.flows.sinks import Unwelcome, open_sink
from edgectl_agent.flows.sources import open_source
from waiting import wait_for


class Hook(BaseHTTPRequestHandler):
    """Answers with the statuses that it is told, then 200."""

    statuses: ClassVar[list[int]] = []
    bodies: ClassVar[list[bytes]] = []
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            self.bodies.append(body + self.headers.get("Authorization", "").encode())
        self.send_response(status)
        self.send_header("Location", "http://127.0.0.1:1/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Hook, "statuses", [])
    monkeypatch.setattr(Hook, "bodies", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"webhook:http://127.0.0.1:{server.server_port}/results?key=1"
    server.shutdown()
    thread.join(30)
    server.server_close()


def test_a_webhook_is_tried_again_a_few_times(
    webhook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECTL_WEBHOOK_TOKEN", "secret")
    Hook.statuses[:] = [503, 429]
    delivery = Delivery("hook", open_sink(webhook), pause_s=0.01)
    delivery.put(b"1")
    wait_for(lambda: delivery.counts.sent == 1)
    assert Hook.bodies == [b"1Bearer secret"]
    assert delivery.counts.retried == 2
    Hook.statuses[:] = [400]
    delivery.put(b"2")
    wait_for(lambda: delivery.counts.dropped == 1)
    Hook.statuses[:] = [302]
    delivery.put(b"3")
    wait_for(lambda: delivery.counts.dropped == 2)
    Hook.statuses[:] = [500] * 5
    delivery.put(b"4")
    delivery.put(b"5")
    wait_for(lambda: delivery.counts.sent == 2)
    assert (delivery.counts.dropped, Hook.bodies[1:]) == (3, [b"5Bearer secret"])
    delivery.close(10)


def test_a_sink_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "QUEUE_MAX", 10)
    release, entered = threading.Event(), threading.Event()

    class Hanging:
        def send(self, row: bytes) -> None:
            entered.set()
            release.wait(60)

        def close(self) -> None:
            pass

    delivery = Delivery("hanging", Hanging())
    delivery.put(b"0")
    assert entered.wait(30)
    for number in range(100):
        delivery.put(b"%d" % number)
    assert delivery.counts.dropped == 90
    release.set()
    delivery.close(30)
    assert (delivery.counts.sent, delivery.counts.dropped) == (11, 90)


def test_what_is_left_at_the_end_is_counted() -> None:
    class Refusing:
        def send(self, row: bytes) -> None:
            raise Unwelcome("never") if row == b"never" else OSError("later")

        def close(self) -> None:
            pass

    delivery = Delivery("refusing", Refusing(), pause_s=30)
    for row in (b"never", b"1", b"2", b"3"):
        delivery.put(row)
    wait_for(lambda: delivery.counts.dropped == 1)
    delivery.close(0.1)
    assert (delivery.counts.sent, delivery.counts.dropped) == (0, 4)


def test_a_file_is_rotated_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    sink = open_sink(f"file:{path}?rotate_bytes=1024&keep=2")
    for number in range(100):
        sink.send(b'{"n": "%090d"}' % number)
    sink.close()
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "results.jsonl", "results.jsonl.1", "results.jsonl.2",
    ]  # fmt: skip
    kept = [json.loads(row)["n"] for n in (".2", ".1", "")
            for row in (tmp_path / f"results.jsonl{n}").read_text().splitlines()]  # fmt: skip
    assert [int(number) for number in kept] == list(range(100 - len(kept), 100))
    assert all(one.stat().st_size <= 1024 + 100 for one in tmp_path.iterdir())


REFUSED = {
    "no-scheme": "begins with a scheme",
    "tape:/x": "sources are camera, folder",
    "folder:": "nothing stands behind",
    "folder:/no/such": "no such folder",
    "folder:/tmp?patern=x": "no option 'patern'",
    "folder:/tmp?poll_s=fast": "poll_s is a number",
    "folder:/tmp?poll_s=0": "poll_s is from 0.01 to 3600",
    "folder:/tmp?poll_s=nan": "poll_s is from",
    "folder:/tmp?once=1&once=1": "given twice",
    "folder:/tmp?done=/no/such": "a folder that is there",
    "mqtt://": "nothing stands behind|expected mqtt",
    "mqtt://host": "expected mqtt://host/topic",
    "mqtt://host:99999/x": "range",
    "mqtt://host/x?qos=2": "qos is from 0 to 1",
    "mqtt://host/x?format=xml": "format is one of",
    "serial:/dev/ttyX?baud=1234": "no speed 1234",
    "serial:/dev/ttyX?window=0": "window is from 1",
    "iio:iio:device999": "there is no",
    "camera:/dev/video0?fps=0": "fps is from",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_source_that_cannot_be_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(UsageError, match=REFUSED[text]) as refused:
        open_source(text, tuple)
    assert refused.value.code == "flow.address"
    assert refused.value.hint


@pytest.mark.parametrize(
    "text",
    ["file:/no/such/x", "file:/tmp", "webhook:ftp://x", "webhook:http://a:b@c/", "mqtt://h/a/+",
     "folder:/tmp", "file:/tmp/x?rotate=1", "webhook:http://[::1"],
)  # fmt: skip
def test_a_sink_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        open_sink(text)


def test_a_password_is_shown_nowhere() -> None:
    with pytest.raises(UsageError) as refused:
        open_source("mqtt://user:geheim@host/x?qos=7", tuple)
    assert "geheim" not in str(refused.value)
