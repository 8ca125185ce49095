"""A version that arrives as a delta, end to end: a real server, a real broker, real agents."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgectl.cli import run
from edgectl.client import Client
from edgectl_protocol.names import digest_of
from server.deltas.pairs import retrained
from waiting import wait_for

pytestmark = pytest.mark.e2e
FP32 = {"precisions": ["fp32"]}


@pytest.fixture(scope="module")
def versions(activity, tmp_path_factory):
    """The activity model, and what a little more training could have made of it."""
    path = tmp_path_factory.mktemp("models") / "har_v2.onnx"
    model = onnx.load(activity["model"])
    rng = np.random.default_rng(3)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim > 1:
            moved = 0.9 * array + 0.1 * retrained(rng, array, 0.001)
            tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), tensor.name))
    onnx.save(model, path)
    return activity["model"], path


@pytest.fixture
def first(pushed, versions):
    """The data folder of a server that has the first version."""
    return pushed("har", {"1": versions[0]}, **FP32)


def begin(start, first, versions, broker="embedded", **settings):
    """A server with both versions, and a device that runs the first."""
    server = start.server(data=first, broker=broker)
    agent = start.agent(server, "pi-1", **settings)
    server.wait_rollout(server.roll_out("har", "1", observe_s=0.2))
    wait_for(lambda: agent.running("har"), "the first version")
    assert server.push("har", versions[1], "2", **FP32).state == "succeeded"
    return server, agent


def roll_out(server, agent):
    """Roll the second version out; return the rollout and what the device says of its download."""
    rollout = server.roll_out("har", "2", observe_s=0.2)
    server.wait_rollout(rollout)
    assert agent.served("har") == "2"
    (device,) = server.client.rollout_devices(rollout).items
    assert device.transfer is not None
    return server.client.rollout(rollout), device


def stored(agent):
    """The digests of the blobs that a device has, of what is really in the files."""
    return {digest_of(one.read_bytes()) for one in (agent.state / "blobs/sha256").iterdir()}


def counted(server, expected):
    """Say whether the device counts that of deltas; it comes with one of the next samples."""

    def found():
        return (server.client.device("pi-1").system or {}).get("deltas") == expected

    return wait_for(found, f"telemetry of deltas: {expected}")


def test_the_second_version_arrives_as_a_delta_by_the_broker(start, first, versions, broker):
    server, agent = begin(start, first, versions, broker, transfer="mqtt")
    check_arrival(server, agent)


def test_the_second_version_arrives_as_a_delta_by_http(start, first, versions, capsys, monkeypatch):
    server, agent = begin(start, first, versions, transfer="http")
    rollout = check_arrival(server, agent)
    (pulled,) = [one for one in server.client.pulls() if one.puller == "device/pi-1"]
    assert pulled.bytes_sent < 2.1 * 444_135, "the first version, and not the second one whole"
    monkeypatch.setenv("COLUMNS", "200")
    assert "saved" in told(server, capsys, monkeypatch, "rollout", "status", rollout)
    assert "by deltas" in told(server, capsys, monkeypatch, "devices", "show", "pi-1")
    assert "by deltas" in told(server, capsys, monkeypatch, "devices", "events", "pi-1")
    document = json.loads(told(server, capsys, monkeypatch, "rollout", "status", rollout, "--json"))
    assert document["rollout"]["bytes"]["saved"] > 0
    (job,) = [one for one in server.client.jobs().items if one.kind == "deltas"]
    assert job.state == "succeeded"
    assert [one["state"] for one in job.result["deltas"]] == ["ready"]


def check_arrival(server, agent):
    """Roll the second version out: it is made of the first, and everybody says so."""
    rollout, device = roll_out(server, agent)
    seen = device.transfer
    assert (seen.delta is not None, seen.refusal) == (True, None)
    assert seen.fetched_bytes < 0.9 * seen.whole_bytes
    assert device.bytes.fetched == seen.fetched_bytes
    assert device.bytes.saved == seen.whole_bytes - seen.fetched_bytes
    assert device.bytes.predicted == pytest.approx(seen.fetched_bytes, abs=4096)
    assert rollout.bytes == device.bytes
    assert seen.delta not in stored(agent)
    assert list((agent.state / "partial").iterdir()) == []
    assert seen.rest is not None
    assert seen.rest not in stored(agent)
    assert counted(server, {"delta.applied": 1, "delta.rest_applied": 1})
    events = server.client.device_events("pi-1").items
    assert next(one.transfer for one in events if one.before == "downloading") == seen
    return rollout.id


def told(server, capsys, monkeypatch, *command):
    """What the command line prints."""
    with Client(server.url) as anonymous:
        password = (server.data / "admin-password").read_text().strip()
        token = anonymous.login("admin", password, name="shell").token
    monkeypatch.setenv("EDGECTL_TOKEN", token)
    capsys.readouterr()
    assert run(["--url", server.url, *command]) == 0
    return capsys.readouterr().out


def test_a_base_that_is_damaged_on_the_device_costs_the_whole_file(start, first, versions):
    server, agent = begin(start, first, versions)
    blobs = (agent.state / "blobs/sha256").iterdir()
    largest = max(blobs, key=lambda one: one.stat().st_size)  # the model
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    _, device = roll_out(server, agent)
    assert device.transfer.delta is None
    assert device.transfer.refusal.code == "delta.base"
    assert device.bytes.saved < 100_000
    assert device.transfer.rest is not None, "that of the rest is as good as before"
    assert counted(server, {"delta.base": 1, "delta.rest_applied": 1})
    assert device.bytes.fetched > device.bytes.predicted
