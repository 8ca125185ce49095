"""Logs of a device, with a real server, a real broker and a real agent.

The second test kills the agent, and stops the server, in the middle of a long upload: both go on
from what is there.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from e2e.fleet import Agent, Server
from edgectl.types import LogsStart
from edgectl_agent.uploads import Held
from edgectl_protocol.chunks import CHUNK_BYTES, make_index
from edgectl_protocol.uploads import WANTED_MAX, UploadAnswer
from edgectl_server.clock import now
from waiting import wait_for

pytestmark = pytest.mark.e2e


def edgectl(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as an operator does."""
    token = server.client.create_token("logs", "operator", 600).token
    return subprocess.run(
        [sys.executable, "-m", "edgectl", *arguments],
        env={**os.environ, "EDGECTL_URL": server.url, "EDGECTL_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_operator_reads_the_logs_of_a_device(start: Any, tmp_path: Path) -> None:
    server = start.server()
    token = server.enrol_token()
    agent = start.agent(server, "pi-1", token=token)
    wait_for(lambda: server.client.device("pi-1").online, "the device online")

    shown = edgectl(server, "devices", "logs", "pi-1")
    assert shown.returncode == 0, shown.stderr
    (asked,) = [line for line in shown.stdout.splitlines() if "asked for the logs" in line]
    time, level, logger, text = asked.split(None, 3)
    assert datetime.fromisoformat(time) <= now()
    assert (level, logger) == ("info", "edgectl_agent.logs:")
    assert text.startswith("an operator has asked for the logs: job ")
    assert "upload" in shown.stderr

    (row,) = server.client.device_uploads("pi-1").items
    assert (row.state, row.kind, row.chunks_done) == ("complete", "logs", 1)
    output = tmp_path / "logs.jsonl.gz"
    written = edgectl(server, "devices", "logs", "pi-1", "--output", str(output))
    assert written.returncode == 0, written.stderr
    lines = [json.loads(line) for line in gzip.decompress(output.read_bytes()).splitlines()]
    assert {"time", "level", "logger", "text"} == set(lines[0])
    assert token not in str(lines)

    asked_at = now()
    as_json = edgectl(server, "devices", "logs", "pi-1", "--since", "1s", "--json")
    times = [datetime.fromisoformat(line["time"]) for line in json.loads(as_json.stdout)]
    assert times
    assert min(times) >= asked_at - timedelta(seconds=1), "of the last second alone"
    audited = [one for one in server.client.audit().items if one.action == "device_logs"]
    assert len(audited) == 3
    assert (audited[0].object, audited[0].details["since_s"]) == ("pi-1", 1)
    wait_for(lambda: not list((agent.state / "uploads").iterdir()), "nothing left on the device")

    agent.stop()
    wait_for(lambda: not server.client.device("pi-1").online, "the device offline")
    away = edgectl(server, "devices", "logs", "pi-1")
    assert away.returncode == 1
    assert "error[logs.offline]: pi-1 is not connected" in away.stderr
    assert "try:" in away.stderr


LENGTH = 40 * CHUNK_BYTES + 1
CONTENT = random.Random(7).randbytes(LENGTH)


def test_an_upload_goes_on_after_kills_of_both_sides(start: Any) -> None:
    server = start.server()
    agent = start.agent(server, "pi-1", upload_bytes_per_s=str(8 * CHUNK_BYTES))
    wait_for(lambda: server.client.device("pi-1").online, "the device online")

    # The agent cannot answer by itself: what it offers is put into its folder while it is dead.
    agent.signal(signal.SIGSTOP)
    job = server.client.start_logs("pi-1", LogsStart()).id
    nonce = wait_for(lambda: nonce_of(server, job), "the request sent")
    agent.kill()
    digest = plant(agent, UploadAnswer(job=job, nonce=nonce))
    agent.start()

    wait_for(lambda: done(server, digest) >= 8, "some chunks")
    agent.kill()
    before_kill = done(server, digest)
    agent.start()
    wait_for(lambda: done(server, digest) >= before_kill + 8, "more chunks")
    server.kill()
    server.start()

    ended = server.client.wait_job(job)
    assert ended.state == "succeeded", ended.error
    assert ended.result is not None
    assert ended.result["upload"] == digest
    content = server.client.device_upload("pi-1", digest)
    assert hashlib.sha256(content).hexdigest() == digest.removeprefix("sha256:")
    dropped = re.findall(r"dropped \((upload\S*)\): .*; (\d+) so far", server.log.read_text())
    assert {code for code, _ in dropped} <= {"upload.unwanted"}, dropped
    again = max((int(number) for _, number in dropped), default=0)
    assert again <= 3 * WANTED_MAX, "what was under way when somebody died, and no more"
    wait_for(lambda: not list((agent.state / "uploads").iterdir()), "nothing left on the device")


def plant(agent: Agent, request: UploadAnswer) -> str:
    """Have the agent hold an upload, as it would after it had answered."""
    parts = [CONTENT[at : at + CHUNK_BYTES] for at in range(0, LENGTH, CHUNK_BYTES)]
    name = hashlib.sha256(CONTENT).hexdigest()
    held = Held(
        kind="logs",
        upload=f"sha256:{name}",
        length=LENGTH,
        media_type="application/octet-stream",
        at=now(),
        index=make_index(parts),
        request=request,
    )
    folder = agent.state / "uploads"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(CONTENT)
    (folder / f"{name}.json").write_bytes(msgspec.json.encode(held))
    return held.upload


def nonce_of(server: Server, job: str) -> str | None:
    """Return the nonce of a request that was sent; only its device is ever told."""
    with sqlite3.connect(server.data / "edgectl.sqlite") as database:
        (payload,) = database.execute("SELECT payload FROM job WHERE id = ?", (job,)).fetchone()
    found: str | None = json.loads(payload).get("nonce")
    return found


def done(server: Server, digest: str) -> int:
    items = server.client.patiently(lambda: server.client.device_uploads("pi-1")).items
    return next((one.chunks_done for one in items if one.digest == digest), 0)
