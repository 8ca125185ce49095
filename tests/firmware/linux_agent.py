"""The agent in C for Linux, and bundles of ONNX for it, published by hand on a real broker."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgectl_protocol import topics
from edgectl_protocol.chunks import CHUNK_BYTES, INDEX_ANNOTATION, make_index
from edgectl_protocol.manifest import (
    ARTIFACT_TYPE,
    CONFIG_FILE,
    GOLDEN_FILE,
    MANIFEST_MEDIA_TYPE,
    TITLE_ANNOTATION,
    BundleConfig,
    Golden,
    Lineage,
    Quantization,
    TensorSpec,
    Tolerance,
)
from edgectl_protocol.names import digest_of
from firmware.networked import Node, Stage
from firmware.programs import ROOT, onnxruntime_for_c
from waiting import wait_for

__all__ = ["MODEL", "SANITIZE", "CAgent", "Release", "UnixStage", "build_agent"]

MODEL = "tiny"
SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
SOURCES = ROOT / "firmware-examples/linux-c-agent"
HEADERS = ("mosquitto.h", "sodium.h", "openssl/ssl.h")
MODEL_FILE = "model.onnx"
CASES, WIDTH = 6, 8192

Floats = npt.NDArray[np.float32]


def build_agent(folder: Path, *, sanitize: str = SANITIZE, compiler: str = "gcc") -> Path:
    """Build the agent; any warning fails. Skips where a tool or a header is missing."""
    if shutil.which(compiler) is None or shutil.which("make") is None:
        pytest.skip(f"needs {compiler} and make (Debian packages of those names)")
    for header in HEADERS:
        found = subprocess.run(
            [compiler, "-E", "-include", header, "-x", "c", os.devnull],
            capture_output=True, check=False,
        )  # fmt: skip
        if found.returncode:
            pytest.skip(f"needs {header}: see packaging/debian-test-packages.txt")
    done = subprocess.run(
        ["make", "--silent", f"--jobs={min(2, os.cpu_count() or 1)}", f"CC={compiler}",
         f"BUILD={folder}", f"ONNXRUNTIME={onnxruntime_for_c()}", f"SANITIZE={sanitize}"],
        cwd=SOURCES, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-4000:]
    return folder / "edgectl-c-agent"


class Release:
    """A version of a model, of four chunks; no two versions answer alike."""

    def __init__(self, version: str, *, wrong: bool = False, files: Mapping[str, bytes] = {}):
        random = np.random.default_rng(int(version))
        self.version = version
        self.model = _model(random)
        self.inputs: Floats = random.standard_normal((CASES, 4)).astype(np.float32)
        self.outputs = self.answers(self.inputs)
        golden = io.BytesIO()
        promised = self.outputs[::-1] if wrong else self.outputs
        arrays = {"input.x": self.inputs, "output.y": promised}
        np.savez(golden, **arrays)  # type: ignore[arg-type]
        self.files = {
            CONFIG_FILE: msgspec.json.encode(_config(version)),
            GOLDEN_FILE: golden.getvalue(),
            MODEL_FILE: self.model,
            **files,
        }

    def answers(self, inputs: Floats) -> Floats:
        """Return what the model says, one sample a row."""
        session = onnxruntime.InferenceSession(self.model)
        rows = [session.run(["y"], {"x": one[np.newaxis]})[0] for one in inputs]
        found: Floats = np.concatenate(rows)
        return found


def _model(random: np.random.Generator) -> bytes:
    weights = {
        "w": random.standard_normal((4, WIDTH)).astype(np.float32),
        "v": (random.standard_normal((WIDTH, 3)) / 64).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "v"], ["y"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [
            helper.make_tensor(name, TensorProto.FLOAT, values.shape, values.tobytes(), raw=True)
            for name, values in weights.items()
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    content: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=9
    ).SerializeToString()
    onnx.checker.check_model(content)
    assert 3 * CHUNK_BYTES < len(content) < 4 * CHUNK_BYTES
    return content


def _config(version: str) -> BundleConfig:
    return BundleConfig(
        model=MODEL,
        version=version,
        variant="fp32",
        runtime="onnxruntime",
        format="onnx",
        precision="fp32",
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 3)),),
        golden=Golden(cases=CASES, tolerances={"y": Tolerance(atol=1e-4, rtol=1e-3)}),
        quantization=Quantization(recipe="fp32"),
        lineage=Lineage(source=digest_of(b"")),
    )


class UnixStage(Stage):
    """The server's side, for devices with onnxruntime."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.variant = "fp32"

    def publish_release(
        self, release: Release, *, altered: Mapping[int, bytes] | None = None
    ) -> str:
        """Publish all files of a release; return its manifest's digest.

        `altered` chunks of the model are published with other content than the index says.
        """
        layers = [
            self._layer(name, content, (altered or {}) if name == MODEL_FILE else {})
            for name, content in release.files.items()
        ]
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_MEDIA_TYPE,
            "artifactType": ARTIFACT_TYPE,
            "config": layers[0],
            "layers": layers,
        }
        manifest = json.dumps(document).encode()
        self.peer.publish(topics.chunk(digest_of(manifest), 0), manifest, retain=True)
        return digest_of(manifest)

    def _layer(self, name: str, content: bytes, altered: Mapping[int, bytes]) -> dict[str, Any]:
        digest = digest_of(content)
        chunks = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
        for number, chunk in enumerate(chunks):
            self.peer.publish(topics.chunk(digest, number), altered.get(number, chunk), retain=True)
        annotations = {TITLE_ANNOTATION: name}
        if len(chunks) > 1:
            index = make_index(chunks)
            self.peer.publish(topics.chunk_index(digest), index, retain=True)
            annotations[INDEX_ANNOTATION] = digest_of(index)
        return {
            "mediaType": "application/vnd.cncf.model.weight.v1.raw",
            "digest": digest,
            "size": len(content),
            "annotations": annotations,
        }

    def roll_out(self, release: Release) -> str:
        """Publish and order a release and wait until it is committed; return its manifest."""
        manifest = self.publish_release(release)
        number = self.order(manifest, version=release.version)
        state = self.wait_state(f"version {release.version}", state="committed", order=number)
        running = state.slots[self.slot].running
        assert running is not None
        assert (running.version, running.manifest) == (release.version, manifest)
        return manifest


class CAgent(Node):
    """One device: a process, whose workers end with it, and its state folder."""

    def __init__(self, program: Path, state: Path) -> None:
        super().__init__(state)
        self.program, self.state, self.model = program, state, MODEL

    def start(self) -> None:
        """Start it."""
        self.run(self.program, "run", self.state, self.model, ASAN_OPTIONS="detect_leaks=0")

    def stop(self) -> None:
        """End it as a service manager would, and look for what sanitizers have said."""
        if self.process is not None:
            self.process.terminate()
            assert self.process.wait(20) == 0, self.said()[-3000:]
            self.process = None
        for sign in ("Sanitizer", "runtime error"):
            assert sign not in self.said(), self.said()[-4000:]

    def ask(self, request: bytes = b"") -> tuple[int, bytes]:
        """Ask its socket as an application does; return the kind of the answer, and its content."""
        folder = os.open(self.state, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
                one.settimeout(10)
                # A path of the folder's own may be longer than an address may be.
                one.connect(f"/proc/self/fd/{folder}/infer.sock")
                one.sendall(struct.pack("<I", len(request)) + request)
                kind, length = struct.unpack("<II", _receive(one, 8))
                return kind, _receive(one, length)
        finally:
            os.close(folder)

    def served(self) -> str | None:
        """Return the version that answers; None: none does."""
        try:
            _, text = self.ask()
        except OSError:
            return None
        return text.decode().splitlines()[0].removeprefix("version ")

    def wait_served(self, version: str) -> None:
        """Wait until a version answers."""
        wait_for(lambda: self.served() == version, f"version {version} answers")

    def answers(self, inputs: Floats) -> Floats:
        """Return its answers, one sample a row."""
        rows = []
        for one in inputs:
            kind, content = self.ask(one.tobytes())
            assert kind == 0, content
            rows.append(np.frombuffer(content, np.float32))
        return np.stack(rows)


def _receive(one: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        more = one.recv(length - len(content))
        if not more:
            raise ConnectionResetError("the answer is not whole")
        content += more
    return content
