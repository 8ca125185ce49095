"""Real models in LiteRT: by the trial, by the inference process, as the signed contract says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from agent.inference.encrypted import encrypt_bundle
from agent.inference.litert import (
    MOBILENET,
    SINE,
    SINE_INT8,
    answers,
    endless,
    inputs_of,
    make_litert_bundle,
)
from agent.inference.models import Client, make_bundle
from edgectl_agent.bundle import Bundle
from edgectl_agent.health import capabilities
from edgectl_agent.inference.counts import Counts
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.inference.served import prepare
from edgectl_agent.runtime import Model, ModelRefused, RunFailed, Stop
from edgectl_agent.trial import TrialResult, Verdict, run_trial
from edgectl_protocol.manifest import Scores, TensorSpec, Tolerance

MEMORY = 400 * 1024 * 1024


def tried(bundle: Bundle) -> TrialResult:
    return run_trial(bundle, timeout_s=60, memory_bytes_max=MEMORY)


def code_of(result: TrialResult) -> str:
    assert result.reason is not None
    return result.reason.code


@pytest.mark.parametrize("model", [SINE, SINE_INT8, MOBILENET], ids=lambda model: model.stem)
def test_a_real_model_passes_its_trial(tmp_path: Path, model: Path) -> None:
    result = tried(make_litert_bundle(tmp_path, model))
    assert result.verdict is Verdict.OK, result.reason
    assert result.report is not None
    assert result.report.golden_passed == 4
    assert 1 <= result.report.threads <= (os.cpu_count() or 1)  # as measured here
    assert result.report.max_abs_diff == 0


def test_another_model_of_the_same_shapes_is_found_out(tmp_path: Path) -> None:
    bundle = make_litert_bundle(tmp_path, SINE)
    bias = np.float32(0.7).tobytes()
    interpreter = Interpreter(model_path=str(SINE))
    details = [one for one in interpreter.get_tensor_details() if list(one["shape"]) == [16]]
    weights = interpreter.get_tensor(details[0]["index"]).tobytes()
    content = SINE.read_bytes()
    assert content.count(weights) == 1
    content = content.replace(weights, bias * 16)
    other = tmp_path / "other.tflite"
    other.write_bytes(content)
    result = tried(msgspec.structs.replace(bundle, model=str(other)))
    assert (result.verdict, code_of(result)) == (Verdict.REJECTED, "trial.golden")


@pytest.mark.parametrize("length", [0, 7, 300, 3000])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, length: int) -> None:
    bundle = make_litert_bundle(tmp_path)
    short = tmp_path / "short.tflite"
    short.write_bytes(SINE.read_bytes()[:length])
    result = tried(msgspec.structs.replace(bundle, model=str(short)))
    assert result.verdict is Verdict.REJECTED
    assert code_of(result) in {"trial.load", "trial.crashed"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"outputs": (TensorSpec(name="y", datatype="INT8", shape=(1, 1)),)}, "is FP32"),
        (
            {"outputs": (TensorSpec(name="y", datatype="FP32", shape=(1, 2)),)},
            "has shape [None, 1]",
        ),
        ({"inputs": (TensorSpec(name="x", datatype="FP32", shape=(2, 1)),)}, "has shape [1, 1]"),
        (
            {"inputs": (TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),)},
            "has shape [None, 1]",
        ),
        (
            {"inputs": tuple(TensorSpec(name=n, datatype="FP32", shape=(1, 1)) for n in "xz")},
            "the bundle says ['x', 'z']",
        ),
    ],
)
def test_a_model_that_is_not_what_its_contract_says_is_refused(
    tmp_path: Path, change: dict[str, tuple[TensorSpec, ...]], told: str
) -> None:
    bundle = make_litert_bundle(tmp_path)
    config = msgspec.structs.replace(bundle.config, **change)
    with pytest.raises(ModelRefused, match=r"^load\.contract") as caught:
        Model(msgspec.structs.replace(bundle, config=config))
    assert told in caught.value.detail


def test_the_file_of_another_runtime_is_refused(tmp_path: Path) -> None:
    bundle = make_litert_bundle(tmp_path)
    onnx = make_bundle(tmp_path)
    for model, runtime, format_ in ((bundle, "onnxruntime", "onnx"), (onnx, "litert", "tflite")):
        config = msgspec.structs.replace(model.config, runtime=runtime, format=format_)
        with pytest.raises(ModelRefused, match=r"^load\.invalid"):
            Model(msgspec.structs.replace(model, config=config))


def test_inputs_outside_the_contract_and_stopped_runs_fail(tmp_path: Path) -> None:
    model = Model(make_litert_bundle(tmp_path))
    with pytest.raises(RunFailed):
        model.run({"x": np.zeros((1, 2), np.float32)})
    stop = Stop()
    one = {"x": np.zeros((1, 1), np.float32)}
    assert model.run(one, stop).keys() == {"y"}
    stop.set()
    with pytest.raises(RunFailed, match="stopped"):
        model.run(one, stop)


def test_any_number_of_samples_is_computed_one_by_one(tmp_path: Path) -> None:
    """As the contract of a model promises whose ONNX twin takes them at once."""
    bundle = make_litert_bundle(
        tmp_path,
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 1)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 1)),),
    )
    assert tried(bundle).verdict is Verdict.OK
    samples = inputs_of(SINE, 7)
    assert np.array_equal(Model(bundle).run({"x": samples})["y"], answers(SINE, samples))


def test_an_encrypted_model_is_opened_in_memory(tmp_path: Path) -> None:
    bundle = make_litert_bundle(tmp_path, SINE_INT8)
    assert tried(encrypt_bundle(bundle, tmp_path)).verdict is Verdict.OK
    sealed = encrypt_bundle(bundle, tmp_path)
    model, _ = prepare(sealed, Stop())
    samples = inputs_of(SINE_INT8)
    assert np.array_equal(model.run({"x": samples[:1]})["y"], answers(SINE_INT8, samples[:1]))


def test_integers_go_in_and_out_of_the_endpoint(tmp_path: Path) -> None:
    bundle = make_litert_bundle(tmp_path, SINE_INT8)
    process = InferenceProcess(host="127.0.0.1", port=0, socket=None)
    process.start()
    try:
        process.load(bundle)
        process.load(make_bundle(tmp_path))  # one of the other runtime, beside it
        client = Client(process.endpoint)
        status, metadata_ = client.call("GET", "/v2/models/sine")
        assert status == 200
        assert metadata_["platform"] == "tensorflow_tflite"
        assert metadata_["inputs"] == [{"name": "x", "datatype": "INT8", "shape": [1, 1]}]
        tensor = {"name": "x", "datatype": "INT8", "shape": [1, 1], "data": [17]}
        status, reply = client.call("POST", "/v2/models/sine/infer", {"inputs": [tensor]})
        assert status == 200, reply
        wanted = answers(SINE_INT8, np.array([[17]], np.int8))
        assert reply["outputs"][0]["data"] == wanted.ravel().tolist()
        assert process.health("sine").errors == 0
        client.close()
    finally:
        process.stop()


def test_scores_of_integers_are_counted_as_what_they_mean(tmp_path: Path) -> None:
    scores = Scores(output="y", kind="probabilities", scale=1 / 256, zero_point=-128)
    config = make_litert_bundle(tmp_path, SINE_INT8, scores=scores).config
    counts = Counts(config)
    counts.served(10.0, {"y": np.array([[-128, 102, -102]], np.int8)})  # 0, 0.898, 0.102
    tally = counts.take()
    assert tally.classes == (0, 1)
    real = Counts(msgspec.structs.replace(config, scores=Scores(output="y", kind="probabilities")))
    real.served(10.0, {"y": np.array([[0.0, 0.8984375, 0.1015625]], np.float32)})
    assert tally.confidence == real.take().confidence


def test_tolerances_are_of_the_integers(tmp_path: Path) -> None:
    bundle = make_litert_bundle(tmp_path, SINE_INT8)
    with np.load(bundle.golden) as data:
        arrays = dict(data)
    arrays["output.y"] = arrays["output.y"] + np.int8(2)
    np.savez(bundle.golden, **arrays)
    assert code_of(tried(bundle)) == "trial.golden"
    golden = msgspec.structs.replace(
        bundle.config.golden, tolerances={"y": Tolerance(atol=2.0, rtol=0.0)}
    )
    config = msgspec.structs.replace(bundle.config, golden=golden)
    assert tried(msgspec.structs.replace(bundle, config=config)).verdict is Verdict.OK


def test_a_device_reports_the_runtime_that_it_has(tmp_path: Path) -> None:
    assert capabilities({}, tmp_path).runtimes["litert"] == metadata.version("ai-edge-litert")


def test_a_device_without_the_runtime_says_so(tmp_path: Path) -> None:
    """In a Python that does not find it: not reported, and nothing is held against the model."""
    program = (
        "import importlib.util, pathlib, sys\n"
        "found = importlib.util.find_spec\n"
        "hide = lambda name, *a: None if name.startswith('ai_edge_litert') else found(name, *a)\n"
        "importlib.util.find_spec = hide\n"
        "sys.modules['ai_edge_litert'] = None\n"
        "import msgspec\n"
        "from edgectl_agent import health, runtime\n"
        "health.find_spec = hide\n"
        "from edgectl_agent.bundle import Bundle\n"
        "assert set(health.capabilities({}, pathlib.Path('.')).runtimes) == {'onnxruntime'}\n"
        "bundle = msgspec.json.decode(sys.stdin.buffer.read(), type=Bundle)\n"
        "try:\n    runtime.Model(bundle)\n"
        "except runtime.ModelRefused as error:\n    print(error.code)\n"
    )
    content = msgspec.json.encode(make_litert_bundle(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", program], input=content, capture_output=True, check=True, timeout=60
    )
    assert done.stdout.decode().strip() == "load.runtime"


def test_a_run_that_cannot_be_stopped_ends_the_process(tmp_path: Path) -> None:
    """In a process of its own, whose worker thread would never come back."""
    program = """
import asyncio, json, sys, time
from concurrent.futures import ThreadPoolExecutor
import msgspec
from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.endpoint import Request
from edgectl_agent.inference.routes import Routes
from edgectl_agent.inference.service import Service
from edgectl_agent.inference.slots import Slots

async def main():
    slots = Slots()
    routes = Routes(Service(slots, ThreadPoolExecutor(1), run_seconds_max=0.3))
    bundle = msgspec.json.decode(sys.stdin.buffer.read(), type=Bundle)
    await slots.load([bundle], time.monotonic() + 60, hung=[bundle.manifest])
    request = Request()
    request.method, request.url = b"POST", b"/v2/models/sine/infer"
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}
    request.body = json.dumps({"inputs": [tensor]}).encode()
    print("begun", flush=True)
    await routes(request)

asyncio.run(main())
"""
    samples = np.full(1, np.nan, np.float32)
    bundle = make_litert_bundle(tmp_path, endless(tmp_path / "endless.tflite"), samples)
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=msgspec.json.encode(bundle),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == b"begun\n", done.stderr.decode()
    assert done.returncode == -signal.SIGABRT


def test_a_trial_of_it_ends_in_time(tmp_path: Path) -> None:
    bundle = make_litert_bundle(
        tmp_path, endless(tmp_path / "endless.tflite"), np.full(1, np.nan, np.float32)
    )
    np.savez(
        bundle.golden, **{"input.x": np.ones(1, np.float32), "output.y": np.ones(1, np.float32)}
    )
    result = run_trial(bundle, timeout_s=2, memory_bytes_max=MEMORY)
    assert (result.verdict, code_of(result)) == (Verdict.REJECTED, "trial.timeout")
