"""Threads and execution providers are chosen in the trial; a bad provider falls, not the model.

onnxruntime on this machine has the processor alone, so that the child gets a runtime that claims
another provider and behaves as the case says: `sitecustomize` in the child's path.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

from agent.inference.boards import board, hot_pi
from agent.inference.litert import make_litert_bundle
from agent.inference.models import make_bundle, save_model, tensor
from agent.inference.scoring import scoring
from edgectl_agent import litert_session
from edgectl_agent.bundle import Bundle
from edgectl_agent.runtime import Model
from edgectl_agent.trial import TrialResult, Verdict, run_trial
from edgectl_protocol.manifest import Budget

MEMORY = 600 * 1024 * 1024
XNNPACK = "XnnpackExecutionProvider"
CPU = "CPUExecutionProvider"

CLAIMING = f"""
import os, signal, time
import onnxruntime

real = onnxruntime.InferenceSession
onnxruntime.get_available_providers = lambda: ["{XNNPACK}", "{CPU}"]

class Session:
    def __init__(self, source, options, providers):
        self.claimed = providers[0] != "{CPU}"
        self.real = real(source, options, providers=["{CPU}"])
        if self.claimed:
            BEGIN
    def __getattr__(self, name):
        return getattr(self.real, name)
    def run(self, *arguments):
        values = self.real.run(*arguments)
        if self.claimed:
            RUN
        else:
            time.sleep(0.002)
        return values

onnxruntime.InferenceSession = Session
"""
BEHAVIOURS = {
    # name: (when it is opened, at each run, what is used in the end, why the other one is not)
    "faster": ("pass", "pass", XNNPACK, "trial.provider"),
    "no faster": ("pass", "time.sleep(0.002)", CPU, "trial.provider"),
    "crashes": ("pass", "os.kill(os.getpid(), signal.SIGILL)", CPU, "trial.crashed"),
    "crashes when it is opened": ("os.kill(os.getpid(), 11)", "pass", CPU, "trial.crashed"),
    "gives other outputs": ("pass", "values = [values[0] + 1]", CPU, "trial.golden"),
    "does not take the model": ("raise RuntimeError('no')", "pass", CPU, "trial.provider"),
}


def tried(bundle: Bundle, **more: Any) -> TrialResult:
    return run_trial(bundle, **{"timeout_s": 60, "memory_bytes_max": MEMORY, **more})


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_a_provider_is_tried_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    begin, run, used, why = BEHAVIOURS[name]
    text = CLAIMING.replace("BEGIN", begin).replace("RUN", run)
    (tmp_path / "sitecustomize.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = tried(scoring(tmp_path, "1"))
    assert result.verdict is Verdict.OK, result
    report = result.report
    assert report is not None
    assert report.provider == used
    assert [(one.provider, one.reason.code) for one in report.others] == [
        (CPU if used == XNNPACK else XNNPACK, why)
    ]


def test_a_model_that_is_bad_everywhere_is_rejected_for_what_the_processor_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = CLAIMING.replace("BEGIN", "pass").replace("RUN", "pass")
    (tmp_path / "sitecustomize.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    bad = msgspec.structs.replace(
        scoring(tmp_path, "1"), golden=scoring(tmp_path, "2", factor=3.0).golden
    )
    result = tried(bad)
    assert result.verdict is Verdict.REJECTED
    assert result.reason is not None
    assert result.reason.code == "trial.golden"
    assert result.report is not None
    assert result.report.provider == CPU


def test_plain_operators_where_the_delegate_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LiteRT with its delegate crashes; without it the model passes."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "import ai_edge_litert.interpreter as runtime\n"
        "real = runtime.Interpreter\n"
        "def make(**given):\n"
        "    if 'experimental_op_resolver_type' not in given:\n"
        "        os.kill(os.getpid(), 4)\n"
        "    return real(**given)\n"
        "runtime.Interpreter = make\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = tried(make_litert_bundle(tmp_path))
    assert result.verdict is Verdict.OK, result
    assert result.report is not None
    assert result.report.provider == litert_session.PLAIN
    assert [one.reason.code for one in result.report.others] == ["trial.crashed"]


def test_what_the_trial_has_chosen_is_what_serves(tmp_path: Path) -> None:
    bundle = scoring(tmp_path, "1")
    assert (Model(bundle).threads, Model(bundle).provider) == (1, CPU)
    cores = len(os.sched_getaffinity(0))
    chosen = msgspec.structs.replace(bundle, threads=2, provider="GoneExecutionProvider")
    model = Model(chosen)
    assert (model.threads, model.provider) == (min(2, cores), CPU), "what is gone is replaced"
    litert = msgspec.structs.replace(
        make_litert_bundle(tmp_path), threads=2, provider=litert_session.PLAIN
    )
    assert Model(litert).provider == litert_session.PLAIN


def test_threads_are_measured(tmp_path: Path) -> None:
    """A product of large matrices is faster with two cores; whatever it is, it is one of three."""
    size = 700
    model = save_model(
        tmp_path / "product.onnx",
        [
            helper.make_node("Mul", ["wide", "x"], ["scaled"]),
            helper.make_node("MatMul", ["scaled", "wide"], ["product"]),
            helper.make_node("ReduceMean", ["product"], ["y"], keepdims=0),
        ],
        [tensor("x", TensorProto.FLOAT, [1, 1])],
        [tensor("y", TensorProto.FLOAT, [])],
        [helper.make_tensor("wide", TensorProto.FLOAT, [size, size], np.ones(size * size))],
    )
    bundle = make_bundle(
        tmp_path,
        model,
        slot="product",
        golden_inputs={"x": np.ones((1, 1), np.float32)},
        golden_outputs={"y": np.full((1,), size, np.float32)},
    )
    result = tried(bundle)
    assert result.verdict is Verdict.OK, result
    assert result.report is not None
    assert result.report.threads in {1, 2, len(os.sched_getaffinity(0))}
    assert result.report.provider == CPU


# ---------------------------------------------------------------- heat


def slow_for_its_budget(directory: Path, **more: Any) -> Bundle:
    return scoring(directory, "1", budget=Budget(latency_p95_us=0.001, **more))


def test_a_hot_processor_is_no_fault_of_the_model(tmp_path: Path) -> None:
    bundle = slow_for_its_budget(tmp_path)
    result = tried(bundle, system=str(hot_pi(tmp_path / "sys")))
    assert result.verdict is Verdict.FAILED
    assert result.reason is not None
    assert result.reason.code == "trial.throttled"
    assert "83 °C" in result.reason.detail
    assert result.report is not None
    assert (result.report.throttled, result.report.temperature_c) == (True, 83.2)
    result = tried(bundle, system=str(board(tmp_path / "cool", {})))
    assert result.verdict is Verdict.REJECTED
    assert result.reason is not None
    assert result.reason.code == "trial.budget"


def test_heat_excuses_nothing_but_slowness(tmp_path: Path) -> None:
    hot = str(hot_pi(tmp_path / "sys"))
    result = tried(slow_for_its_budget(tmp_path, rss_bytes=1), system=hot)
    assert result.verdict is Verdict.REJECTED
    assert tried(scoring(tmp_path, "2"), system=hot).verdict is Verdict.OK


# ---------------------------------------------------------------- the older distribution


def test_the_older_distribution_of_litert_where_only_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in of the same interface, over the real runtime; beside it runs the real one."""
    import ai_edge_litert.interpreter as newer

    made = []

    def interpreter(**given: Any) -> Any:
        made.append(given)
        return newer.Interpreter(**given)

    older: Any = ModuleType("tflite_runtime.interpreter")
    older.Interpreter, older.OpResolverType = interpreter, newer.OpResolverType
    bundle = make_litert_bundle(tmp_path)
    expected = Model(bundle).run({"x": np.full((1, 1), 0.5, np.float32)})
    monkeypatch.setitem(sys.modules, "tflite_runtime", ModuleType("tflite_runtime"))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", older)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    found = Model(bundle).run({"x": np.full((1, 1), 0.5, np.float32)})
    assert made == [{"num_threads": 1, "model_path": bundle.model}]
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in expected.items()
    }
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", None)
    with pytest.raises(ImportError, match="ai_edge_litert"):
        litert_session.check_installed()
