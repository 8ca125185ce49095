"""A push for microcontrollers: made, measured, signed, and run by the C core."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edgectl_agent.runtime import check_runtime
from edgectl_protocol.manifest import (
    CONFIG_FILE,
    Lineage,
    decode_config,
    decode_manifest,
    layer_by_file,
    model_layer,
)
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.flat_bundle import HEADER_BYTES, read_payload
from edgectl_server.pipeline.flat_reading import decode_flat
from edgectl_server.pipeline.flat_reference import quantize, run_flat
from edgectl_server.pipeline.pack import MicrocontrollerSigner, pack
from edgectl_server.pipeline.spec import TrialRow
from edgectl_server.signing.microcontroller_key import MicrocontrollerKey
from firmware.programs import Programs
from firmware.test_flat_model import network
from pipeline.conftest import Run, run


class Blobs:
    """A store in memory."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    def add_bytes(self, content: bytes) -> str:
        digest = f"sha256:{len(self.content):064}"
        self.content[digest] = content
        return digest

    def add_file(self, path: Path, *, expected: str | None = None) -> str:
        return self.add_bytes(path.read_bytes())


def files(folder: Path, model: Any) -> dict[str, Any]:
    """Write a model with data for it; the classes are those that it says itself."""
    onnx.save(model, folder / "pushed.onnx")
    numbers = np.random.default_rng(6).normal(size=(160, 3, 12, 10)).astype(np.float32)
    session = __import__("onnxruntime").InferenceSession(model.SerializeToString())
    label = session.run(None, {"x": numbers})[0].argmax(axis=1)
    np.savez(folder / "cal.npz", x=numbers[:60])
    np.savez(folder / "eval.npz", x=numbers[60:], label=label[60:])
    return {
        "source": folder / "pushed.onnx",
        "calibration": folder / "cal.npz",
        "evaluation": folder / "eval.npz",
        "precisions": ("fp32", "int8"),
        "runtimes": ("cortex-m",),
        "max_drop_points": 6.0,
        "allowed": ("data",),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("push")
    (work := folder / "work").mkdir()
    return run(work, model="tiny", **files(folder, network(np.random.default_rng(4))))


def row_of(made: Run) -> TrialRow:
    return next(row for row in made.result.report.trials if row.runtime == "cortex-m")


def test_it_is_a_row_of_the_report_with_its_accuracy(made: Run) -> None:
    row = row_of(made)
    assert (row.status, row.variant, row.precision) == ("accepted", "cortex-m-int8", "int8")
    assert row.value is not None
    assert row.value >= 0.94
    assert row.drop_points == pytest.approx(100 * (1 - row.value), abs=0.01)
    assert row.latency_p50_us is None, "this machine says nothing about a microcontroller"
    assert [one.variant for one in made.result.candidates] == ["cortex-m-int8"]
    (candidate,) = made.result.candidates
    assert candidate.evaluation is not None
    assert candidate.evaluation.value == row.value
    assert "the reference of flat models" in made.result.report.measured_on


def test_the_bundle_is_signed_and_a_device_runs_it(
    made: Run, tmp_path: Path, build: Callable[..., Programs]
) -> None:
    key, blobs = MicrocontrollerKey(tmp_path / "keys"), Blobs()
    (packed,) = pack(
        made.result,
        made.directory,
        blobs=blobs,
        model="tiny",
        version="7",
        labels=(),
        lineage=Lineage(source=made.result.source),
        microcontrollers=MicrocontrollerSigner(12, key.sign),
    )
    manifest = decode_manifest(packed.manifest)
    layer = model_layer(manifest)
    assert layer.file == "model.emb"
    config = decode_config(blobs.content[layer_by_file(manifest, CONFIG_FILE).digest])
    assert (config.runtime, config.format) == ("cortex-m", "flat")
    content = blobs.content[layer.digest]
    public = bytes.fromhex((tmp_path / "keys/microcontrollers.pub").read_text())
    signed, signature = content[:160], content[160:HEADER_BYTES]
    Ed25519PublicKey.from_public_bytes(public).verify(signature, signed)
    assert int.from_bytes(content[8:16], "little") == 12
    cases, file = read_payload(content)
    model = decode_flat(file)
    with np.load(made.directory / "cortex-m-int8/golden.npz") as golden:
        numbers = golden["input.x"][: len(cases)]
    values = quantize(numbers, model.tensors[model.input])
    assert [one.tobytes() for one in values] == [one for one, _ in cases]
    assert [one.tobytes() for one in run_flat(model, values)] == [two for _, two in cases]

    (tmp_path / "key").write_bytes(public)
    (tmp_path / "bundle").write_bytes(content)
    programs = build("gcc")
    said = programs.run("read_bundle", tmp_path / "key", "tiny", tmp_path / "bundle")
    assert json.loads(said.stdout) == {"installed": 0, "booted": 0}
    other = programs.run("read_bundle", tmp_path / "key", "other", tmp_path / "bundle")
    assert other.returncode == 1


def test_what_has_no_counterpart_is_a_row_with_the_operator(tmp_path: Path) -> None:
    model = network(np.random.default_rng(4))
    model.graph.node[-1].op_type = "LogSoftmax"
    (work := tmp_path / "work").mkdir()
    with pytest.raises(PipelineRefused) as caught:
        run(work, **files(tmp_path, model))
    (row,) = (one for one in caught.value.data["report"]["trials"] if one["runtime"] == "cortex-m")
    assert row["status"] == "failed"
    assert "LogSoftmax" in row["reason"]


def test_where_int8_was_not_asked_for_it_is_skipped(tmp_path: Path) -> None:
    fields = files(tmp_path, network(np.random.default_rng(4)))
    (work := tmp_path / "work").mkdir()
    more = {"calibration": None, "runtimes": ("onnxruntime", "cortex-m"), "precisions": ("fp32",)}
    made = run(work, **(fields | more))
    assert (row_of(made).status, row_of(made).reason) == (
        "skipped",
        "it is int8, which was not asked for",
    )
    assert [one.variant for one in made.result.candidates] == ["fp32"]


def test_no_other_device_loads_it() -> None:
    with pytest.raises(ImportError, match="microcontrollers"):
        check_runtime("cortex-m")
