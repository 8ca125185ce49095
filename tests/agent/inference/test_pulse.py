"""The page on which the inference process shows that it lives and what it computes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.inference.models import Client, activity, counted_bundle, make_bundle
from edgectl_agent.inference.process import InferenceDown, InferenceProcess
from edgectl_agent.inference.pulse import Place, Pulse, Silence, make_page, padded
from waiting import wait_for

DIGEST = "sha256:" + "ab" * 32
COUNTED = "/v2/models/counted/infer"


def rounds(count: int) -> bytes:
    given = {"name": "rounds", "shape": [1], "datatype": "INT64", "data": [count]}
    return json.dumps({"inputs": [given]}).encode()


@pytest.fixture
def process() -> Iterator[InferenceProcess]:
    running = InferenceProcess(host="127.0.0.1", port=0, socket=None)
    running.start()
    yield running
    running.stop()


def hang(endpoint: str) -> Client:
    """Send what never ends; the answer is not waited for."""
    client = Client(endpoint)
    client.connection.request("POST", COUNTED, rounds(2**50))
    return client


def test_both_sides_see_one_page() -> None:
    descriptor = make_page()
    child, supervisor = Pulse(descriptor), Pulse(descriptor)
    os.close(descriptor)
    assert (supervisor.beats(), supervisor.computing(*Place.ALL)) == (0, ())
    child.beat()
    child.beat()
    child.begin(Place.LOOP, padded(DIGEST))
    child.begin(Place.WORKER, padded("short"))
    assert supervisor.beats() == 2
    assert supervisor.computing(*Place.ALL) == (DIGEST, "short")
    child.end(Place.LOOP)
    assert supervisor.computing(Place.LOOP) == ()
    assert supervisor.computing(*Place.ALL) == ("short",)
    child.close()
    supervisor.close()


def test_silence_grows_while_nothing_beats_and_ends_with_a_beat() -> None:
    silence = Silence()
    assert silence.look(1, 100.0) == 0
    assert silence.look(1, 100.5) == 0.5
    assert silence.look(1, 101.0) == 1.0
    assert silence.look(2, 101.5) == 0


def test_time_in_which_nobody_looked_is_no_silence() -> None:
    """The machine was asleep, or too busy for both."""
    silence = Silence()
    silence.look(1, 0.0)
    assert silence.look(1, 3600.0) == 1.0


def test_a_healthy_process_beats_also_while_it_loads(
    process: InferenceProcess, tmp_path: Path
) -> None:
    worst = 0.0
    loading = threading.Thread(target=process.load, args=(make_bundle(tmp_path),))
    loading.start()
    end = time.monotonic() + 3
    while time.monotonic() < end or loading.is_alive():
        worst = max(worst, process.silent_s())
        threading.Event().wait(0.05)
    loading.join()
    assert worst < 2.5


def test_a_model_that_hangs_on_the_loop_is_named_and_does_so_once(
    process: InferenceProcess, tmp_path: Path
) -> None:
    counted = counted_bundle(tmp_path, golden_rounds=10)
    process.load(counted)
    process.load(make_bundle(tmp_path))
    client = Client(process.endpoint)
    assert client.call("POST", COUNTED, rounds(5))[0] == 200
    client.close()
    stuck = hang(process.endpoint)
    wait_for(lambda: process.silent_s() > 2)
    process.kill()
    wait_for(lambda: not process.alive())
    death = process.death()
    assert death.hung
    assert death.suspects == (counted.manifest,)
    stuck.close()
    # Loaded again it computes on the worker thread, and no longer holds up the others.
    process.start()
    process.load(counted)
    process.load(make_bundle(tmp_path))
    stuck = hang(process.endpoint)
    client = Client(process.endpoint)
    window = activity()[0][0]
    given = {"name": "input", "shape": [1, 6, 128], "datatype": "FP32"}
    body = {"inputs": [{**given, "data": window.ravel().tolist()}]}
    for _ in range(20):
        assert client.call("POST", "/v2/models/activity/infer", body)[0] == 200
    assert process.silent_s() < 2
    stuck.close()
    client.close()


def test_it_can_be_ended_while_another_thread_waits_for_it(
    process: InferenceProcess, tmp_path: Path
) -> None:
    process.load(counted_bundle(tmp_path, golden_rounds=10))
    stuck = hang(process.endpoint)
    wait_for(lambda: process.silent_s() > 1.5)
    failures: list[str] = []

    def load() -> None:
        try:
            process.load(make_bundle(tmp_path))
        except InferenceDown as error:
            failures.append(error.code)

    waiting = threading.Thread(target=load)
    waiting.start()
    process.kill()
    waiting.join(60)
    assert failures == ["inference.down"]
    assert process.death().hung
    stuck.close()


def test_a_crash_tells_its_signal(process: InferenceProcess) -> None:
    assert process._child is not None
    os.kill(process._child.pid, signal.SIGSEGV)
    wait_for(lambda: not process.alive())
    death = process.death()
    assert not death.hung
    assert "SIGSEGV" in death.detail
    assert death.suspects == ()


def test_requests_outside_the_contract_are_counted_apart(
    process: InferenceProcess, tmp_path: Path
) -> None:
    process.load(counted_bundle(tmp_path, golden_rounds=10))
    client = Client(process.endpoint)
    assert client.call("POST", COUNTED, b"{}")[0] == 400
    assert client.call("GET", COUNTED)[0] == 405
    assert client.call("POST", COUNTED, b"{}", {"Inference-Header-Content-Length": "2"})[0] == 400
    (window,) = process.windows()
    assert (window.requests, window.errors, window.refused) == (0, 0, 3)
    assert process.windows() == ()
    assert client.call("POST", COUNTED, rounds(3))[0] == 200
    (window,) = process.windows()
    assert (window.requests, window.refused) == (1, 0)
    assert process.health("counted").requests == 1
    client.close()
