"""The agent's packages on ARM: enrolled over MQTT, a model pushed and served, its numbers compared.

Not part of ``make test``: ``make test-arm64`` and ``make test-armhf``. Each ends with one line of
JSON for each model: how far its answers there are from those of an agent on this machine, and how
many golden cases have agreed in the trial. With ``MODELS=FOLDER``, the models of that folder too
(``<name>/<short>_v1.onnx`` with ``calibration.npz`` and ``eval.npz``).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e.conftest import activity, start  # noqa: F401 - fixtures
from e2e.fleet import Agent, Server
from edgectl.types import BenchmarkStart, DeviceSummary, MeasurementInfo
from installation.foreign import (
    A7,
    A72,
    A76,
    BOUND_S,
    Foreign,
    Processor,
    make_root,
    needs_emulation,
)
from installation.machine import remove
from installation.packages import build, build_msgspec
from waiting import wait_for

ROWS = 100
VERSIONS = {"1": "int8", "2": "fp32"}
GOLDEN_MIN = {"int8": 0.9, "fp32": 1.0}
"""Share of the golden cases that must agree, as the bundles say."""
SAME_CLASS_MIN = {"int8": 0.95, "fp32": 1.0}
"""Share of the rows that both processors must give the same class."""
PACKAGES = {
    "arm64-bookworm": ("bookworm", "arm64", (A72, A76)),
    "arm64-trixie": ("trixie", "all", (A76,)),  # its onnxruntime needs half precision: no A72
    "armhf-trixie": ("trixie", "all", (A7,)),
}


@pytest.fixture(params=PACKAGES)
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Any]]:
    """The root of a device, and the processors that it is tried with."""
    release, architecture, processors = PACKAGES[request.param]
    output = tmp_path / "package"
    packages = [build("agent", output, release=release, architecture=architecture)]
    if processors[0].architecture == "armhf":
        packages.append(build_msgspec(output / "more"))
    # Programs must work there, which memory file systems may forbid.
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        yield make_root(folder, release, processors[0].architecture, *packages), processors
    finally:
        remove(folder)


def models(activity: dict[str, Any]) -> dict[str, dict[str, Any]]:  # noqa: F811 - a fixture
    """Return what is pushed, by name: the model, and data for the pipeline to choose by."""
    found = {"har": {role: activity[role] for role in ("model", "calibration", "evaluation")}}
    for path in sorted(Path(os.environ.get("MODELS") or "/nowhere").glob("*/*_v1.onnx")):
        data = {
            role: path.with_name(f"{name}.npz")
            for role, name in (("calibration", "calibration"), ("evaluation", "eval"))
        }
        if all(file.exists() for file in data.values()):
            found.setdefault(path.stem.removesuffix("_v1"), {"model": path, **data})
    return found


def measured(server: Server, name: str, version: str, device: str) -> MeasurementInfo:
    """Have a device replay the golden cases of a version's only variant; return what it saw."""
    job = server.client.start_benchmark(name, version, BenchmarkStart(device, runs=20))
    ended = server.client.wait_job(job.id)
    assert ended.state == "succeeded", str(ended.error)
    return next(
        one
        for one in server.client.measurements(name, version).items
        if (one.device, one.source) == (device, "benchmark")
    )


def answers(agent: Agent, name: str, rows: Any) -> tuple[str, Any]:
    """Return the manifest that has answered, and the first output for every row."""
    manifests, found = set(), []
    for row in rows:
        answer = agent.infer(name, row[None])
        manifests.add(answer["parameters"]["manifest"])
        found.append(answer["outputs"][0]["data"])
    (manifest,) = manifests
    return manifest, np.array(found)


def compare(
    server: Server, here: Agent, there: Foreign, name: str, data: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield one comparison for each precision of the model, and check it."""
    with np.load(data["evaluation"]) as arrays:
        chosen = np.linspace(0, len(arrays["label"]) - 1, ROWS).astype(int)  # they lie in order
        rows, labels = arrays["input"][chosen], arrays["label"][chosen]
    for version, precision in VERSIONS.items():
        seen = measured(server, name, version, there.device)
        assert seen.verdict == "ok", seen
        assert seen.golden_passed is not None
        assert seen.golden_passed >= GOLDEN_MIN[precision] * (seen.golden_total or 0) > 0, seen
        server.wait_rollout(server.roll_out(name, version, observe_s=0.5), bound_s=BOUND_S)
        manifest, wanted = answers(here, name, rows)
        found, got = answers(there, name, rows)
        assert found == manifest == seen.manifest, "both have the same file, and it was measured"
        same = float(np.mean(got.argmax(1) == wanted.argmax(1)))
        assert same >= SAME_CLASS_MIN[precision], (
            f"{same:.0%} of the classes of {name} are the same"
        )
        yield {
            "model": name,
            "variant": seen.variant,
            "processor": there.processor.name,
            "runtime": seen.runtime,
            "golden": f"{seen.golden_passed}/{seen.golden_total}",
            "golden_max_abs_diff": seen.max_abs_diff,
            "rows": len(rows),
            "max_abs_diff": float(np.abs(got - wanted).max()),
            "largest_output": float(np.abs(wanted).max()),
            "same_class": same,
            "accuracy": float(np.mean(got.argmax(1) == labels)),
            "accuracy_x86_64": float(np.mean(wanted.argmax(1) == labels)),
        }


def online(server: Server) -> DeviceSummary:
    """Wait until the foreign device has enrolled and is online."""

    def look() -> DeviceSummary | None:
        devices = server.client.devices().items
        return next((one for one in devices if one.id == "there" and one.online), None)

    found = wait_for(look, "the device online", bound_s=BOUND_S)
    assert found is not None
    return found


@needs_emulation
@pytest.mark.timeout(1800)
def test_a_device_of_another_processor(
    device: tuple[Path, tuple[Processor, ...]],
    start: Any,  # noqa: F811 - a fixture
    activity: dict[str, Any],  # noqa: F811 - a fixture
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, processors = device
    server: Server = start.server()
    here = start.agent(server, "here")
    pushed = models(activity)
    for name, data in pushed.items():
        for version, precision in VERSIONS.items():
            job = server.push(name, version=version, precisions=[precision], **data)
            assert job.state == "succeeded", job.error
    there = Foreign(server, "there", root, server.enrol_token())
    there.processor = processors[0]
    try:
        for processor in processors:
            # The second time it is who it was, with what it had, on another processor.
            there.stop()
            there.processor = processor
            there.start()
            there.token = ""
            assert online(server).machine == processor.machine
            for name, data in pushed.items():
                for line in compare(server, here, there, name, data):
                    with capsys.disabled():
                        print("\n" + json.dumps({"benchmark": "processors", **line}), flush=True)
    except AssertionError:
        print(there.log.read_text()[-5000:])
        raise
    finally:
        there.stop()
