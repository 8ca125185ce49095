"""The inference process from its supervisor's side: life, death, hot swap under load."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.inference.models import (
    HAR,
    Client,
    activity,
    counted_bundle,
    infinite_loop,
    make_bundle,
    save_model,
    tensor,
)
from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.endpoint import Request
from edgectl_agent.inference.process import (
    InferenceDown,
    InferenceProcess,
    LoadFailed,
    SlotEmpty,
)
from edgectl_agent.inference.routes import Routes
from edgectl_agent.inference.service import Service
from edgectl_agent.inference.slots import Slots
from edgectl_protocol.names import digest_of
from waiting import wait_for

INFER = "/v2/models/activity/infer"
ONE = np.zeros((1, 1), np.float32)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def body_of(window: object) -> bytes:
    data = np.asarray(window, np.float32)
    given = {
        "name": "input",
        "shape": [1, 6, 128],
        "datatype": "FP32",
        "data": data.ravel().tolist(),
    }
    return json.dumps({"inputs": [given]}).encode()


def large_model(directory: Path, seed: int = 1) -> Path:
    """Some 20 ms a run: 12 layers of 1024 x 1024 on 64 rows."""
    random = np.random.default_rng(seed)
    nodes, weights, last = [], [], "x"
    for number in range(12):
        matrix = random.normal(0, 0.03, (1024, 1024)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"m{number}"]))
        nodes.append(helper.make_node("Relu", [f"m{number}"], [f"r{number}"]))
        last = f"r{number}"
    nodes.append(helper.make_node("ReduceSum", [last], ["y"], keepdims=0))
    return save_model(
        directory / f"large-{seed}.onnx",
        [
            helper.make_node("Expand", ["seed", "rows"], ["x"]),
            *nodes,
        ],
        [tensor("seed", TensorProto.FLOAT, [1, 1])],
        [tensor("y", TensorProto.FLOAT, [])],
        [helper.make_tensor("rows", TensorProto.INT64, [2], [64, 1024]), *weights],
    )


def large_bundle(directory: Path) -> Bundle:
    return make_bundle(
        directory,
        large_model(directory),
        slot="large",
        golden_inputs={"seed": np.ones((1, 1), np.float32)},
        golden_outputs={"y": np.zeros(1, np.float32)},
    )


def another_version(bundle: Bundle, version: str) -> Bundle:
    """The same files as another version, of another digest."""
    return msgspec.structs.replace(
        bundle, version=version, manifest=digest_of(f"{bundle.slot} {version}".encode())
    )


def test_it_starts_serves_and_stops(tmp_path: Path) -> None:
    path = tmp_path / "inference.sock"
    process = InferenceProcess(host="127.0.0.1", port=0, socket=path)
    assert not process.alive()
    assert process.rss_bytes() == 0
    process.start()
    try:
        assert process.alive()
        assert process.endpoint.startswith("http://127.0.0.1:")
        assert 0 < process.load(make_bundle(tmp_path)) < 10_000
        assert 20e6 < process.rss_bytes() < 300e6
        assert path.stat().st_mode & 0o777 == 0o660
        client = Client(process.endpoint)
        assert client.call("POST", INFER, body_of(activity()[0][0]))[0] == 200
        client.close()
    finally:
        process.stop()
    assert not process.alive()
    assert not path.exists()
    process.stop()
    with pytest.raises(InferenceDown):
        process.windows()


def test_the_unix_socket_serves_the_same(process: InferenceProcess, tmp_path: Path) -> None:
    process.load(make_bundle(tmp_path))
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(tmp_path / "inference.sock"))
    connection.request("POST", INFER, body_of(activity()[0][0]))
    assert connection.getresponse().status == 200
    connection.close()


def test_only_loopback_is_reachable_by_default(process: InferenceProcess) -> None:
    port = urlsplit(process.endpoint).port
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = [row.split()[1] for row in rows if row.split()[3] == "0A"]
    assert f"0100007F:{port:04X}" in listening
    assert f"00000000:{port:04X}" not in listening


def test_a_taken_port_is_said_so(process: InferenceProcess) -> None:
    port = urlsplit(process.endpoint).port
    assert port is not None
    second = InferenceProcess(host="127.0.0.1", port=port, socket=None)
    with pytest.raises(InferenceDown) as refused:
        second.start()
    assert refused.value.code == "inference.bind"
    assert str(port) in refused.value.detail
    assert not second.alive()


@pytest.mark.parametrize("place", ["none/inference.sock", "file"])
def test_a_unix_socket_that_cannot_open_takes_no_model_away(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("somebody's")
    process = InferenceProcess(host="127.0.0.1", port=0, socket=tmp_path / place)
    process.start()
    try:
        (problem,) = process.problems
        assert str(tmp_path / place) in problem
        assert "set another socket" in problem
        process.load(make_bundle(tmp_path))
        client = Client(process.endpoint)
        assert client.call("POST", INFER, body_of(activity()[0][0]))[0] == 200
        client.connection.close()
    finally:
        process.stop()
    assert (tmp_path / "file").read_text() == "somebody's"


def test_after_a_death_it_starts_again_on_the_same_port(
    process: InferenceProcess, tmp_path: Path
) -> None:
    endpoint = process.endpoint
    process.load(make_bundle(tmp_path))
    assert process._child is not None
    os.kill(process._child.pid, signal.SIGKILL)
    wait_for(lambda: not process.alive())
    with pytest.raises(InferenceDown):
        process.health("activity")
    process.start()
    assert process.endpoint == endpoint
    with pytest.raises(SlotEmpty):
        process.health("activity")
    process.load(make_bundle(tmp_path))
    assert process.health("activity").requests == 0


@contextmanager
def supervisor(bundle: Path, command: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process of its own that starts an inference process, loads a bundle and does `command`."""
    program = (
        "import sys, threading, time, msgspec\n"
        "from edgectl_agent.bundle import Bundle\n"
        "from edgectl_agent.inference.process import InferenceProcess\n"
        "b = msgspec.json.decode(open(sys.argv[1], 'rb').read(), type=Bundle)\n"
        "p = InferenceProcess(host='127.0.0.1', port=0, socket=None)\n"
    ) + command
    with subprocess.Popen(
        [sys.executable, "-c", program, str(bundle)], stdout=subprocess.PIPE
    ) as running:
        try:
            assert running.stdout is not None
            yield running, int(running.stdout.readline())
        finally:
            running.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_its_supervisor(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "bundle.json"
    file.write_bytes(msgspec.json.encode(make_bundle(tmp_path)))
    command = "p.start(); p.load(b); print(p._child.pid, flush=True); time.sleep(600)"
    with supervisor(file, command) as (running, pid):
        assert not gone(pid)
        running.send_signal(number)
        running.wait(20)
        wait_for(lambda: gone(pid))


def test_it_dies_with_its_supervisor_even_while_a_model_hangs(tmp_path: Path) -> None:
    """Warming up never ends; started from a thread, so that only the channel can tell it."""
    bundle = make_bundle(
        tmp_path,
        infinite_loop(tmp_path),
        slot="loop",
        golden_inputs={"x": ONE},
        golden_outputs={"y": ONE},
    )
    file = tmp_path / "bundle.json"
    file.write_bytes(msgspec.json.encode(bundle))
    command = (
        "t = threading.Thread(target=p.start); t.start(); t.join()\n"
        "print(p._child.pid, flush=True); p.load(b, 600)"
    )
    with supervisor(file, command) as (running, pid):
        ticks = os.sysconf("SC_CLK_TCK")
        stat = Path(f"/proc/{pid}/stat")
        wait_for(lambda: int(stat.read_text().rpartition(")")[2].split()[11]) > ticks)
        running.kill()
        running.wait(20)
        wait_for(lambda: gone(pid))


def test_a_thread_that_has_started_it_may_end(tmp_path: Path) -> None:
    """PR_SET_PDEATHSIG would kill the child here."""
    process = InferenceProcess(host="127.0.0.1", port=0, socket=None)
    thread = threading.Thread(target=process.start)
    thread.start()
    thread.join(30)
    try:
        process.load(make_bundle(tmp_path))
        assert process.alive()
    finally:
        process.stop()


def broken(directory: Path, how: str) -> Bundle:
    bundle = make_bundle(directory, version="2")
    if how == "load.unreadable":
        return msgspec.structs.replace(bundle, model=str(directory / "gone"))
    if how == "load.invalid":
        file = directory / "invalid.onnx"
        file.write_bytes(HAR.read_bytes()[:5000])
        return msgspec.structs.replace(bundle, model=str(file))
    if how == "load.contract":
        spec = msgspec.structs.replace(bundle.config.inputs[0], name="other")
        config = msgspec.structs.replace(bundle.config, inputs=(spec,))
        return msgspec.structs.replace(bundle, config=config)
    assert how == "load.warm_up"
    model = save_model(
        directory / "gather.onnx",
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [tensor("x", TensorProto.INT64, ["N"])],
        [tensor("y", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor("table", TensorProto.FLOAT, [2], [10.0, 20.0])],
    )
    return make_bundle(
        directory,
        model,
        version="2",
        golden_inputs={"x": np.array([9], np.int64)},
        golden_outputs={"y": np.array([9], np.float32)},
    )


@pytest.mark.parametrize(
    "code", ["load.unreadable", "load.invalid", "load.contract", "load.warm_up"]
)
def test_what_cannot_be_loaded_leaves_the_old_one_serving(
    process: InferenceProcess, client: Client, tmp_path: Path, code: str
) -> None:
    good = make_bundle(tmp_path)
    process.load(good)
    with pytest.raises(LoadFailed) as failed:
        process.load(broken(tmp_path, code))
    assert failed.value.code == code
    assert failed.value.detail
    status, answer = client.call("POST", INFER, body_of(activity()[0][0]))
    assert status == 200
    assert answer["parameters"]["manifest"] == good.manifest
    assert process.health("activity").manifest == good.manifest


def test_a_load_that_takes_too_long_is_not_put_in_place(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    good = make_bundle(tmp_path)
    process.load(good)
    with pytest.raises(LoadFailed) as failed:
        process.load(make_bundle(tmp_path, version="2"), timeout_s=0)
    assert failed.value.code == "load.timeout"
    assert process.health("activity").manifest == good.manifest


def test_unload_empties_a_slot(process: InferenceProcess, client: Client, tmp_path: Path) -> None:
    process.load(make_bundle(tmp_path))
    process.unload("activity")
    process.unload("activity")
    assert client.call("POST", INFER, body_of(activity()[0][0]))[0] == 503
    with pytest.raises(SlotEmpty):
        process.health("activity")


class Load:
    """Clients that ask without a pause, and everything that they were answered."""

    def __init__(self, endpoint: str, path: str, body: bytes, clients: int = 3) -> None:
        self._ask = (endpoint, path, body)
        self._stop = threading.Event()
        self.statuses: Counter[object] = Counter()
        self.manifests: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        endpoint, path, body = self._ask
        client = Client(endpoint)
        while not self._stop.is_set():
            try:
                status, answer = client.call("POST", path, body)
            except OSError as error:
                self.statuses[repr(error)] += 1
                break
            self.statuses[status] += 1
            if status == 200:
                self.manifests[answer["parameters"]["manifest"]] += 1
        client.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def test_no_request_fails_over_hot_swaps(process: InferenceProcess, tmp_path: Path) -> None:
    bundles = [make_bundle(tmp_path, version=str(number)) for number in range(6)]
    process.load(bundles[0])
    counted: Counter[str] = Counter()
    with Load(process.endpoint, INFER, body_of(activity()[0][0])) as load:
        for bundle in bundles[1:]:
            before = load.manifests.total()
            wait_for(lambda before=before: load.manifests.total() > before + 50)
            process.load(bundle)
            assert process.health("activity").manifest == bundle.manifest
            for window in process.windows():
                counted[window.manifest] += window.requests
    assert set(load.statuses) == {200}, load.statuses
    assert set(load.manifests) >= {bundle.manifest for bundle in bundles[:-1]}
    for window in process.windows():
        counted[window.manifest] += window.requests
    assert counted == load.manifests, "every request is counted once, for the digest that answered"


def test_a_large_model_is_swapped_while_requests_are_in_it(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    """The requests are on the worker thread when the reference is switched."""
    bundle = large_bundle(tmp_path)
    process.load(bundle)
    body = {"inputs": [{"name": "seed", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}]}
    with Load(process.endpoint, "/v2/models/large/infer", json.dumps(body).encode()) as load:
        for version in ("2", "3"):
            before = load.manifests.total()
            wait_for(lambda before=before: load.manifests.total() > before + 5)
            process.load(another_version(bundle, version))
        before = load.manifests.total()
        wait_for(lambda: load.manifests.total() > before + 5)
        status, _ = client.call("GET", "/v2/health/live")
        assert status == 200
    assert set(load.statuses) == {200}, load.statuses
    assert len(load.manifests) == 3


def test_health_is_answered_while_a_model_computes_for_ever(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    """The loop ends at once for the golden input and never for the other."""
    process.load(counted_bundle(tmp_path))
    process.load(make_bundle(tmp_path))
    endless = Client(process.endpoint)
    given = {"name": "rounds", "shape": [1], "datatype": "INT64", "data": [2**50]}
    endless.connection.request(
        "POST", "/v2/models/counted/infer", json.dumps({"inputs": [given]}).encode()
    )
    for _ in range(50):
        assert client.call("GET", "/v2/health/ready")[0] == 200
        assert client.call("POST", INFER, body_of(activity()[0][0]))[0] == 200
    assert process.health("counted").requests == 0, "it is still in the model"
    endless.close()


def test_a_run_that_hangs_is_stopped_and_counted(tmp_path: Path) -> None:
    async def run() -> None:
        slots, worker = Slots(), ThreadPoolExecutor(1)
        routes = Routes(Service(slots, worker, run_seconds_max=0.2))
        await slots.load([counted_bundle(tmp_path)], time.monotonic() + 60)
        request = Request()
        request.method, request.url = b"POST", b"/v2/models/counted/infer"
        for rounds, expected in ((2**50, 500), (2**50, 500), (10, 200)):
            given = {"name": "rounds", "shape": [1], "datatype": "INT64", "data": [rounds]}
            request.body = json.dumps({"inputs": [given]}).encode()
            answer = routes(request)
            assert isinstance(answer, asyncio.Future)
            status, body, *_ = await asyncio.wait_for(answer, 20)
            assert status == expected, body
            assert (status == 200) is (b"did not finish in time" not in body)
        served = slots.get("counted")
        assert served is not None
        assert served.counts.totals("").errors == 2
        worker.shutdown()

    asyncio.run(run())


def test_a_model_that_hangs_on_loading_is_given_up(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    process.load(make_bundle(tmp_path))
    hanging = make_bundle(
        tmp_path,
        infinite_loop(tmp_path),
        slot="loop",
        golden_inputs={"x": ONE},
        golden_outputs={"y": ONE},
    )
    with pytest.raises(LoadFailed) as failed:
        process.load(hanging, timeout_s=1)
    assert failed.value.code == "load.timeout"
    assert client.call("POST", INFER, body_of(activity()[0][0]))[0] == 200
    assert client.call("GET", "/v2/models/loop/ready")[0] == 404


def test_memory_does_not_grow_with_swaps(process: InferenceProcess, tmp_path: Path) -> None:
    """50 MB of weights each: a session that is not freed would show after one swap.

    Two are in memory, the one that serves and the one before it; what loading leaves behind goes
    back to the system too.
    """
    bundle = large_bundle(tmp_path)
    process.load(bundle)
    process.load(another_version(bundle, "2"))
    before = process.rss_bytes()
    for version in range(3, 11):
        process.load(another_version(bundle, str(version)))
    assert process.rss_bytes() < before + 20e6


def test_a_child_that_cannot_be_started_is_an_error_not_a_hang(tmp_path: Path) -> None:
    process = InferenceProcess(host="127.0.0.1", port=0, socket=None)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(InferenceDown) as refused:
            process.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert refused.value.code == "inference.start"
    assert not process.alive()
