"""The trial of real bundles, good and bad, in real processes under real limits."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

from agent.inference.models import (
    HAR,
    Client,
    activity,
    infinite_loop,
    make_bundle,
    save_model,
    tensor,
)
from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.trial import TrialResult, Verdict, run_trial
from edgectl_protocol.manifest import Budget, Golden, TensorSpec, Tolerance
from waiting import wait_for

MEMORY = 400 * 1024 * 1024
ONE = np.zeros((1, 1), np.float32)


def tried(bundle: Bundle, *, timeout_s: float = 60, memory: int = MEMORY) -> TrialResult:
    return run_trial(bundle, timeout_s=timeout_s, memory_bytes_max=memory)


def code_of(result: TrialResult) -> str:
    assert result.reason is not None
    return result.reason.code


def loop_bundle(directory: Path) -> Bundle:
    model = infinite_loop(directory)
    return make_bundle(
        directory, model, slot="loop", golden_inputs={"x": ONE}, golden_outputs={"y": ONE}
    )


def glutton(directory: Path) -> Path:
    """A small file whose one run wants 4 GiB."""
    return save_model(
        directory / "glutton.onnx",
        [
            helper.make_node("Expand", ["x", "shape"], ["large"]),
            helper.make_node("ReduceSum", ["large"], ["y"], keepdims=0),
        ],
        [tensor("x", TensorProto.FLOAT, [1, 1])],
        [tensor("y", TensorProto.FLOAT, [])],
        [helper.make_tensor("shape", TensorProto.INT64, [2], [2**15, 2**15])],
    )


def test_as_many_runs_as_were_asked_for(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, HAR, golden_inputs={"input": activity()[0][:3]})
    result = run_trial(bundle, timeout_s=60, memory_bytes_max=MEMORY, runs=17)
    assert result.report is not None
    assert (result.report.runs, result.report.threads) == (3 + 17, 1)


def test_a_trial_that_nobody_waits_for_ends_and_says_nothing_of_the_model(tmp_path: Path) -> None:
    began_s = time.monotonic()
    result = run_trial(
        loop_bundle(tmp_path),
        timeout_s=60,
        memory_bytes_max=MEMORY,
        cancelled=lambda: time.monotonic() > began_s + 0.2,
    )
    assert (result.verdict, code_of(result)) == (Verdict.FAILED, "trial.stopped")
    assert time.monotonic() < began_s + 30


def test_real_model_passes_and_is_measured(tmp_path: Path) -> None:
    result = tried(make_bundle(tmp_path))
    assert result.verdict is Verdict.OK, result
    assert result.reason is None
    report = result.report
    assert report is not None
    assert (report.golden_passed, report.golden_total) == (16, 16)
    assert report.max_abs_diff < 1e-4
    assert 0 < report.latency_p50_us <= report.latency_p95_us
    assert report.load_ms > 0
    assert 30e6 < report.rss_bytes < MEMORY


def test_wrong_golden_outputs_are_rejected_with_numbers(tmp_path: Path) -> None:
    outputs = np.zeros((16, 7), np.float32)
    result = tried(make_bundle(tmp_path, golden_outputs={"logits": outputs}))
    assert result.verdict is Verdict.REJECTED
    assert code_of(result) == "trial.golden"
    assert result.reason is not None
    assert "0 of 16" in result.reason.detail
    assert result.report is not None
    assert result.report.max_abs_diff > 0.5


@pytest.mark.parametrize(("agreement_min", "verdict"), [(0.9, Verdict.OK), (1.0, Verdict.REJECTED)])
def test_agreement_decides_how_many_cases_may_differ(
    tmp_path: Path, agreement_min: float, verdict: Verdict
) -> None:
    right = make_bundle(tmp_path)
    with np.load(right.golden) as arrays:
        outputs = arrays["output.logits"].copy()
    outputs[3] += 1
    bundle = make_bundle(
        tmp_path,
        golden_outputs={"logits": outputs},
        golden=Golden(
            cases=16,
            tolerances={"logits": Tolerance(atol=1e-3, rtol=0)},
            agreement_min=agreement_min,
        ),
    )
    result = tried(bundle)
    assert result.verdict is verdict
    assert result.report is not None
    assert result.report.golden_passed == 15


def test_nan_where_golden_has_a_number_is_a_finite_report(tmp_path: Path) -> None:
    model = save_model(
        tmp_path / "log.onnx",
        [helper.make_node("Log", ["x"], ["y"])],
        [tensor("x", TensorProto.FLOAT, ["N", 1])],
        [tensor("y", TensorProto.FLOAT, ["N", 1])],
    )
    bundle = make_bundle(
        tmp_path,
        model,
        golden_inputs={"x": np.array([[-1]], np.float32)},
        golden_outputs={"y": ONE},
    )
    result = tried(bundle)
    assert code_of(result) == "trial.golden"
    assert result.report is not None
    assert msgspec.json.decode(msgspec.json.encode(result), type=TrialResult) == result


def damaged(content: bytes, how: str) -> bytes:
    return {
        "truncated": content[: len(content) // 2],
        "text": b"not a model at all",
        "empty": b"",
        "flipped": content[:60] + bytes(byte ^ 0xFF for byte in content[60:300]) + content[300:],
    }[how]


@pytest.mark.parametrize("how", ["truncated", "text", "empty", "flipped"])
def test_damaged_model_is_rejected(tmp_path: Path, how: str) -> None:
    bundle = make_bundle(tmp_path)
    model = tmp_path / "damaged.onnx"
    model.write_bytes(damaged(HAR.read_bytes(), how))
    result = tried(msgspec.structs.replace(bundle, model=str(model)))
    assert result.verdict is Verdict.REJECTED
    assert code_of(result) == "trial.load"


def changed_contract(bundle: Bundle, **changes: Any) -> Bundle:
    config = bundle.config
    spec = msgspec.structs.replace(config.inputs[0], **changes)
    return msgspec.structs.replace(bundle, config=msgspec.structs.replace(config, inputs=(spec,)))


@pytest.mark.parametrize("changes", [{"shape": (-1, 6, -1)}, {"shape": (-1, 6, 64)}])
def test_model_outside_its_contract_is_rejected(tmp_path: Path, changes: dict[str, Any]) -> None:
    result = tried(changed_contract(make_bundle(tmp_path), **changes))
    assert result.verdict is Verdict.REJECTED
    assert code_of(result) in {"trial.load", "trial.golden_malformed"}


def test_golden_data_of_another_kind_is_rejected(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    spec = TensorSpec(name="input", datatype="FP64", shape=(-1, 6, 128))
    config = msgspec.structs.replace(bundle.config, inputs=(spec,))
    assert (
        code_of(tried(msgspec.structs.replace(bundle, config=config))) == "trial.golden_malformed"
    )
    pickled = tmp_path / "pickled.npz"
    np.savez(
        pickled,
        **{"input.input": np.array([{"a": 1}], dtype=object), "output.logits": ONE},
        allow_pickle=True,
    )
    assert (
        code_of(tried(msgspec.structs.replace(bundle, golden=str(pickled))))
        == "trial.golden_malformed"
    )
    text = tmp_path / "text.npz"
    text.write_text("no archive")
    assert (
        code_of(tried(msgspec.structs.replace(bundle, golden=str(text))))
        == "trial.golden_malformed"
    )


def test_golden_archive_that_unpacks_to_too_much_is_not_read(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.npz"
    np.savez_compressed(bomb, **{"input.input": np.zeros((300, 2**20), np.uint8)})
    assert bomb.stat().st_size < 2_000_000
    result = tried(msgspec.structs.replace(make_bundle(tmp_path), golden=str(bomb)))
    assert code_of(result) == "trial.golden_malformed"


@pytest.mark.parametrize("file", ["model", "golden"])
def test_missing_file_is_retryable(tmp_path: Path, file: str) -> None:
    bundle = msgspec.structs.replace(make_bundle(tmp_path), **{file: str(tmp_path / "gone")})
    result = tried(bundle)
    assert result.verdict is Verdict.FAILED
    assert code_of(result) == "trial.unreadable"


@pytest.mark.parametrize(
    "budget",
    [Budget(latency_p95_us=0.1), Budget(load_ms=0.001), Budget(rss_bytes=1000)],
    ids=["latency", "load", "memory"],
)
def test_over_budget_is_rejected(tmp_path: Path, budget: Budget) -> None:
    result = tried(make_bundle(tmp_path, budget=budget))
    assert result.verdict is Verdict.REJECTED
    assert code_of(result) == "trial.budget"
    assert result.report is not None


def test_model_beyond_the_memory_limit_is_rejected(tmp_path: Path) -> None:
    bundle = make_bundle(
        tmp_path,
        glutton(tmp_path),
        golden_inputs={"x": ONE},
        golden_outputs={"y": np.zeros(1, np.float32)},
    )
    result = tried(bundle)
    assert result.verdict is Verdict.REJECTED
    assert code_of(result) == "trial.memory", result


def test_too_little_memory_for_the_runtime_is_retryable(tmp_path: Path) -> None:
    result = tried(make_bundle(tmp_path), memory=20 * 1024 * 1024)
    assert result.verdict is Verdict.FAILED
    assert code_of(result) == "trial.memory_low"


def test_hanging_model_is_ended_and_rejected(tmp_path: Path) -> None:
    before = set(children())
    started = time.monotonic()
    result = tried(loop_bundle(tmp_path), timeout_s=2)
    assert result.verdict is Verdict.REJECTED
    assert code_of(result) == "trial.timeout"
    assert time.monotonic() - started < 10
    assert not set(children()) - before, "the trial process was left behind"


def test_no_process_is_retryable(tmp_path: Path) -> None:
    """With no descriptor left no pipe can be made: the device is short, the model is not bad."""
    bundle = make_bundle(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        result = tried(bundle)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert result.verdict is Verdict.FAILED
    assert code_of(result) == "trial.start"


def children() -> list[int]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def wait_until_computing(pid: int) -> None:
    """Wait until the process has spent a second of processor time: it is in the model's loop."""

    def seconds() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    wait_for(lambda: seconds() > 1, "the trial's computing")


@pytest.mark.parametrize(
    ("number", "verdict", "code"),
    [
        (signal.SIGILL, Verdict.REJECTED, "trial.crashed"),
        (signal.SIGSEGV, Verdict.REJECTED, "trial.crashed"),
        (signal.SIGKILL, Verdict.REJECTED, "trial.crashed"),
        (signal.SIGTERM, Verdict.FAILED, "trial.stopped"),
    ],
)
def test_death_by_signal(
    tmp_path: Path, number: signal.Signals, verdict: Verdict, code: str
) -> None:
    bundle = loop_bundle(tmp_path)
    before = set(children())
    results: list[TrialResult] = []
    thread = threading.Thread(target=lambda: results.append(tried(bundle)))
    thread.start()
    (pid,) = wait_for(lambda: set(children()) - before, "the trial's process")
    wait_until_computing(pid)
    os.kill(pid, number)
    thread.join(30)
    (result,) = results
    assert result.verdict is verdict
    assert code_of(result) == code
    assert result.reason is not None
    assert number.name in result.reason.detail


def test_a_runtime_for_other_processors_is_told_from_a_bad_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As onnxruntime 1.21 is on a Raspberry Pi 4: it ends while it is imported."""
    (tmp_path / "onnxruntime.py").write_text("import os\nos.kill(os.getpid(), 4)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = tried(make_bundle(tmp_path))
    assert result.verdict is Verdict.FAILED, "it may be tried again: the model is not bad"
    assert result.reason is not None
    assert result.reason.code == "trial.runtime"
    assert "SIGILL; this build of it is for other processors" in result.reason.detail


def test_trial_dies_with_its_supervisor(tmp_path: Path) -> None:
    """The supervisor is killed with -9 while a candidate hangs: nothing goes on computing."""
    bundle = tmp_path / "bundle.json"
    bundle.write_bytes(msgspec.json.encode(loop_bundle(tmp_path)))
    program = (
        "import sys, msgspec; from edgectl_agent.bundle import Bundle;"
        "from edgectl_agent.trial import run_trial;"
        "b = msgspec.json.decode(open(sys.argv[1], 'rb').read(), type=Bundle);"
        "run_trial(b, timeout_s=600, memory_bytes_max=2**30)"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", program, str(bundle)])
    try:
        listing = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children")
        pid = int(wait_for(lambda: listing.read_text().split(), "the trial's process")[0])
        wait_until_computing(pid)
    finally:
        supervisor.kill()
        supervisor.wait()
    wait_for(lambda: not running(pid), "the end of the trial whose supervisor was killed")


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_golden_inputs_are_real(tmp_path: Path) -> None:
    """Guards the helper: the golden inputs are windows of the data set."""
    with np.load(make_bundle(tmp_path).golden) as arrays:
        assert np.array_equal(arrays["input.input"], activity()[0][:16])


def test_the_service_does_not_notice_bad_candidates(
    process: InferenceProcess, tmp_path: Path
) -> None:
    """One that disagrees, one that hangs and one that eats memory, tried beside
    what serves: each is rejected with numbers, and no request fails or is answered by another."""
    good = make_bundle(tmp_path)
    process.load(good)
    body = {"name": "input", "shape": [1, 6, 128], "datatype": "FP32"}
    body["data"] = activity()[0][0].ravel().tolist()
    stop, answers = threading.Event(), list[object]()

    def ask() -> None:
        client = Client(process.endpoint)
        while not stop.is_set():
            status, answer = client.call("POST", "/v2/models/activity/infer", {"inputs": [body]})
            answers.append(answer["parameters"]["manifest"] if status == 200 else answer)
        client.close()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        bad = {
            "trial.golden": tried(
                make_bundle(
                    tmp_path, version="2", golden_outputs={"logits": np.zeros((16, 7), np.float32)}
                )
            ),
            "trial.timeout": tried(loop_bundle(tmp_path), timeout_s=4),
            "trial.memory": tried(
                make_bundle(
                    tmp_path,
                    glutton(tmp_path),
                    slot="glutton",
                    golden_inputs={"x": ONE},
                    golden_outputs={"y": np.zeros((1,), np.float32)},
                )
            ),
        }
        seen = len(answers)
        wait_for(lambda: len(answers) > seen + 20)
    finally:
        stop.set()
        asking.join(30)
    assert {result.verdict for result in bad.values()} == {Verdict.REJECTED}
    assert [code_of(result) for result in bad.values()] == list(bad)
    numbers = {"trial.golden": "0 of 16", "trial.timeout": "4 s", "trial.memory": str(MEMORY)}
    for code, result in bad.items():
        assert result.reason is not None
        assert numbers[code] in result.reason.detail
    assert set(answers) == {good.manifest}
    assert process.health("activity").errors == 0
