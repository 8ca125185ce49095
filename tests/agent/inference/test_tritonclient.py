"""Triton's own Python clients, unmodified, over HTTP and over gRPC."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException, serialize_byte_tensor, shared_memory

from agent.inference.models import KINDS, Array, activity, identity_bundle, make_bundle
from edgectl_agent.inference.options import Options
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.runtime import Model

TOKEN = "0123456789abcdef-secret"


def bearer() -> dict[str, str]:
    """Return headers of one's own: the HTTP client writes into what it is given."""
    return {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceProcess]:
    directory = tmp_path_factory.mktemp("triton")
    token = directory / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    process = InferenceProcess(
        host="127.0.0.1",
        port=0,
        socket=None,
        log=directory / "log",
        options=Options(token_file=str(token), shared_memory=True, grpc_port=0),
    )
    process.start()
    process.load(make_bundle(directory, labels=tuple("abcdefg")))
    process.load(identity_bundle(directory))
    yield process
    process.stop()


class Http:
    """What differs between the two clients, for HTTP."""

    module: Any = tritonclient.http

    def __init__(self, process: InferenceProcess) -> None:
        self.client = tritonclient.http.InferenceServerClient(urlsplit(process.endpoint).netloc)

    def plain(self, found: Any) -> Any:
        return found


class Grpc:
    """The same for gRPC: its answers become plain values."""

    module: Any = tritonclient.grpc

    def __init__(self, process: InferenceProcess) -> None:
        self.client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{process.grpc_port}")

    def plain(self, found: Any) -> Any:
        from google.protobuf.json_format import MessageToDict

        return MessageToDict(found, preserving_proto_field_name=True)


Side = Http | Grpc


@pytest.fixture(params=[Http, Grpc], ids=["http", "grpc"])
def side(request: pytest.FixtureRequest, running: InferenceProcess) -> Iterator[Side]:
    made: Side = request.param(running)
    yield made
    made.client.close()


def given(side: Side, name: str, datatype: str, values: Array, **how: bool) -> Any:
    tensor = side.module.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values, **how)
    return tensor


def test_server_and_models_describe_themselves(side: Side) -> None:
    client = side.client
    assert client.is_server_live(headers=bearer())
    assert client.is_server_ready(headers=bearer())
    assert client.is_model_ready("activity", headers=bearer())
    assert client.is_model_ready("activity", "1", headers=bearer())
    assert not client.is_model_ready("activity", "2", headers=bearer())
    assert not client.is_model_ready("other", headers=bearer())
    server = side.plain(client.get_server_metadata(headers=bearer()))
    assert server["name"] == "edgectl"
    assert {"binary_tensor_data", "statistics", "system_shared_memory"} <= set(server["extensions"])
    model = side.plain(client.get_model_metadata("activity", headers=bearer()))
    assert (model["name"], model["versions"], model["platform"]) == (
        "activity", ["1"], "onnx_onnxv1",
    )  # fmt: skip
    (described,) = model["inputs"]
    assert (described["name"], described["datatype"]) == ("input", "FP32")
    assert [int(size) for size in described["shape"]] == [-1, 6, 128]
    config = side.plain(client.get_model_config("activity", headers=bearer()))
    (described,) = config.get("config", config)["input"]
    assert (described["name"], described["data_type"]) == ("input", "TYPE_FP32")


@pytest.mark.parametrize("how", [{}, {"binary_data": False}], ids=["binary", "json"])
@pytest.mark.parametrize("rows", [1, 4])
def test_real_windows(side: Side, tmp_path: Path, how: dict[str, bool], rows: int) -> None:
    if isinstance(side, Grpc):
        how = {}  # its client knows only the binary form
    windows = activity()[0][:rows]
    outputs = [side.module.InferRequestedOutput("logits", **how)]
    for wanted in (None, outputs):
        result = side.client.infer(
            "activity",
            [given(side, "input", "FP32", windows, **how)],
            outputs=wanted,
            request_id="seven",
            headers=bearer(),
        )
        expected = Model(make_bundle(tmp_path)).run({"input": windows})["logits"]
        np.testing.assert_allclose(result.as_numpy("logits"), expected, rtol=1e-5, atol=1e-5)
        response = side.plain(result.get_response())
        assert (response["id"], response["model_version"]) == ("seven", "1")


def test_every_datatype(side: Side) -> None:
    values = {
        kind: np.array([row, row[::-1]], np.object_ if kind == "BYTES" else dtype)
        for kind, (_, dtype, row) in KINDS.items()
    }
    values["BYTES"] = np.array([[b"d\xc3\xa9j\xc3\xa0", b""], [b"x" * 5000, b"\0"]], np.object_)
    result = side.client.infer(
        "identity",
        [given(side, f"in_{kind}", kind, array) for kind, array in values.items()],
        headers=bearer(),
    )
    for kind, array in values.items():
        got = result.as_numpy(f"out_{kind}")
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)


def test_statistics_and_index(side: Side) -> None:
    side.client.infer(
        "activity", [given(side, "input", "FP32", activity()[0][:2])], headers=bearer()
    )
    for name in ("activity", ""):
        found = side.plain(side.client.get_inference_statistics(name, headers=bearer()))
        stats = {one["name"]: one for one in found["model_stats"]}["activity"]
        assert int(stats["inference_count"]) >= 2
        assert int(stats["inference_stats"]["compute_infer"]["ns"]) > 0
    index = side.plain(side.client.get_model_repository_index(headers=bearer()))
    models = index["models"] if isinstance(side, Grpc) else index
    assert {model["name"] for model in models} == {"activity", "identity"}
    assert {model["state"] for model in models} == {"READY"}


def test_what_is_refused_is_an_exception_with_our_sentence(side: Side) -> None:
    window = activity()[0][:1]
    for name, version, tensor, sentence in [
        ("other", "", given(side, "input", "FP32", window), "no model 'other'"),
        ("activity", "2", given(side, "input", "FP32", window), "version '2' is not loaded"),
        ("activity", "", given(side, "x", "FP32", window), "no input 'x'"),
        ("activity", "", given(side, "input", "FP32", window[:, :3]), "expected [-1, 6, 128]"),
        ("activity", "", given(side, "input", "FP64", window.astype(np.float64)), "expected FP32"),
    ]:
        with pytest.raises(InferenceServerException) as refused:
            side.client.infer(name, [tensor], model_version=version, headers=bearer())
        assert sentence in refused.value.message()
    for change in (side.client.load_model, side.client.unload_model):
        with pytest.raises(InferenceServerException, match="rolled out"):
            change("activity", headers=bearer())


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
def test_without_the_token_nothing_is_answered(side: Side, headers: dict[str, str]) -> None:
    window = given(side, "input", "FP32", activity()[0][:1])
    for ask in (
        lambda: side.client.infer("activity", [window], headers=dict(headers)),
        lambda: side.client.get_server_metadata(headers=headers),
        lambda: side.client.register_system_shared_memory("a", "/a", 1, headers=headers),
    ):
        with pytest.raises(InferenceServerException, match="token"):
            ask()


def test_shared_memory(side: Side) -> None:
    window = activity()[0][:1]
    key = f"edgectl-test-{os.getpid()}"
    regions = {
        name: shared_memory.create_shared_memory_region(name, f"{key}-{name}", size)
        for name, size in (("frames", 4 + window.nbytes), ("answers", 28))
    }
    try:
        shared_memory.set_shared_memory_region(regions["frames"], [window], offset=4)
        for name, size in (("frames", 4 + window.nbytes), ("answers", 28)):
            side.client.register_system_shared_memory(name, f"{key}-{name}", size, headers=bearer())
        status = side.plain(side.client.get_system_shared_memory_status(headers=bearer()))
        assert {"frames", "answers"} == names_of(status)
        tensor = side.module.InferInput("input", [1, 6, 128], "FP32")
        tensor.set_shared_memory("frames", window.nbytes, offset=4)
        output = side.module.InferRequestedOutput("logits")
        output.set_shared_memory("answers", 28)
        side.client.infer("activity", [tensor], outputs=[output], headers=bearer())
        got = shared_memory.get_contents_as_numpy(regions["answers"], np.float32, [1, 7])
        expected = side.client.infer(
            "activity", [given(side, "input", "FP32", window)], headers=bearer()
        )
        np.testing.assert_array_equal(got, expected.as_numpy("logits"))
        side.client.unregister_system_shared_memory("frames", headers=bearer())
        status = side.plain(side.client.get_system_shared_memory_status(headers=bearer()))
        assert names_of(status) == {"answers"}
        with pytest.raises(InferenceServerException, match="no region 'frames'"):
            side.client.infer("activity", [tensor], outputs=[output], headers=bearer())
        side.client.unregister_system_shared_memory(headers=bearer())
        status = side.plain(side.client.get_system_shared_memory_status(headers=bearer()))
        assert names_of(status) == set()
    finally:
        for region in regions.values():
            shared_memory.destroy_shared_memory_region(region)


def names_of(status: Any) -> set[str]:
    if isinstance(status, list):
        return {region["name"] for region in status}
    return set(status.get("regions", {}))


def test_texts_in_shared_memory(side: Side) -> None:
    key = f"edgectl-test-texts-{os.getpid()}"
    raw = serialize_byte_tensor(np.array([["a", "b\u00e9"]], np.object_)).item()
    region = shared_memory.create_shared_memory_region("texts", key, len(raw))
    tensors = [
        given(side, f"in_{kind}", kind, np.array([row], dtype))
        for kind, (_, dtype, row) in KINDS.items()
        if kind != "BYTES"
    ]
    texts = side.module.InferInput("in_BYTES", [1, 2], "BYTES")
    texts.set_shared_memory("texts", len(raw))
    try:
        shared_memory.set_shared_memory_region(region, [np.array(raw, np.object_)])
        side.client.register_system_shared_memory("texts", key, len(raw), headers=bearer())
        result = side.client.infer("identity", [*tensors, texts], headers=bearer())
        assert result.as_numpy("out_BYTES").tolist() == [[b"a", b"b\xc3\xa9"]]
    finally:
        side.client.unregister_system_shared_memory("texts", headers=bearer())
        shared_memory.destroy_shared_memory_region(region)
