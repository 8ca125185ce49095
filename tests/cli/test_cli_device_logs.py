"""``edgectl devices logs``: what is asked, what is shown, and what a device cannot do with it."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cli.answers import HOSTILE, job
from cli.fake_server import problem
from edgectl.errors import EdgectlError
from edgectl.log_lines import LINES_BYTES_MAX, LogLine, log_lines
from edgectl_server import schemas

DIGEST = "sha256:" + "a" * 64
LINES: list[dict[str, Any]] = [
    {"time": None, "level": "info", "logger": "journal", "text": "har 1 (int8): idle"},
    {"time": "2026-01-02T03:04:05.6Z", "level": "error", "logger": "a.b", "text": HOSTILE},
]


def packed(*lines: dict[str, Any] | bytes) -> bytes:
    encoded = (one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines)
    return gzip.compress(b"".join(line + b"\n" for line in encoded))


def logs_job(state: str = "succeeded", **more: Any) -> schemas.JobInfo:
    result = {"device": "pi-1", "upload": DIGEST, "bytes": 9, "media_type": "x"}
    values = {"id": "J3", "kind": "logs", "result": result if state == "succeeded" else None}
    return job(state, **{**values, **more})


@pytest.fixture
def asked(fleet_server: Any) -> Any:
    fleet_server.routes["POST", "/devices/pi-1/logs"] = (202, logs_job("queued", finished_at=None))
    fleet_server.routes["GET", "/jobs/J3"] = (200, logs_job())
    path = f"/devices/pi-1/uploads/{DIGEST}"
    fleet_server.routes["GET", path] = (200, packed(*LINES))
    fleet_server.routes["GET", path.replace(":", "%3A")] = (200, packed(*LINES))
    return fleet_server


def test_lines_are_shown_with_time_level_and_text(logged_in: Any, asked: Any) -> None:
    got = logged_in("devices", "logs", "pi-1", "--since", "10m")
    assert got.code == 0, got.err
    (request,) = asked.requests("POST", "/devices/pi-1/logs")
    assert json.loads(request.body) == {"since_s": 600}
    first, second = got.out.rstrip("\n").split("\n", 1)
    assert first.split() == ["-", "info", "journal:", "har", "1", "(int8):", "idle"]
    assert second.startswith("2026-01-02T03:04:05Z error   a.b: ")
    assert "\x1b" not in got.out, "nothing of it is sent to the terminal but text"


def test_as_json_and_as_a_file(logged_in: Any, asked: Any, tmp_path: Path) -> None:
    got = logged_in("devices", "logs", "pi-1", "--json")
    assert [one["text"] for one in json.loads(got.out)] == [one["text"] for one in LINES]
    output = tmp_path / "x.gz"
    got = logged_in("devices", "logs", "pi-1", "--output", str(output))
    assert got.code == 0, got.err
    assert gzip.decompress(output.read_bytes()).count(b"\n") == 2
    got = logged_in("devices", "logs", "pi-1", "--output", str(tmp_path / "no" / "x"))
    assert (got.code, "error[output.file]" in got.err) == (1, True)


def test_what_the_server_says_is_a_clear_answer(logged_in: Any, asked: Any) -> None:
    error = schemas.Problem(
        title="x", status=422, code="logs.unanswered", detail="pi-1 has not answered", hint="wait"
    )
    asked.routes["GET", "/jobs/J3"] = (200, logs_job("failed", error=error))
    got = logged_in("devices", "logs", "pi-1")
    assert (got.code, got.out) == (1, "")
    assert "error[logs.unanswered]: pi-1 has not answered" in got.err
    assert "try: wait" in got.err
    asked.routes["POST", "/devices/pi-1/logs"] = problem(409, "logs.offline", "it is away")
    got = logged_in("devices", "logs", "pi-1")
    assert "error[logs.offline]: it is away" in got.err
    for wrong in (("--since", "8d"), ("--since", "0s"), ("--since", "x")):
        assert logged_in("devices", "logs", "pi-1", *wrong).code == 2


def test_what_is_no_line_is_shown_as_it_is() -> None:
    found = log_lines(packed(LINES[1], b"plain text", b"\xff", b"[" * 5000, b'{"text": 3}'))
    assert found[0].time == datetime(2026, 1, 2, 3, 4, 5, 600_000, UTC)
    assert [line.text for line in found[1:3]] == ["plain text", "\ufffd"]
    assert found[-1] == LogLine(text='{"text": 3}')


BOMB = gzip.compress(b"\n" * (64 * 1024**2))


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", BOMB, packed(*LINES)[:-9], gzip.compress(b"x" * (LINES_BYTES_MAX + 1))],
    ids=["empty", "none", "bomb", "cut", "long"],
)
def test_hostile_files_are_refused_within_memory(content: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(EdgectlError) as caught:
            log_lines(content)
        assert tracemalloc.get_traced_memory()[1] < 4 * LINES_BYTES_MAX
    finally:
        tracemalloc.stop()
    assert caught.value.code == "logs.file"
    assert caught.value.hint
