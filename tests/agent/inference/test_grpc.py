"""The gRPC service beyond what Triton's client sends: typed contents, hostile messages, limits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from agent.inference.binary import raw_of
from agent.inference.models import (
    KINDS,
    activity,
    counted_bundle,
    identity_bundle,
    make_bundle,
)
from edgectl_agent.inference.grpc_messages import METHODS, SERVICE, message
from edgectl_agent.inference.options import Options
from edgectl_agent.inference.process import InferenceDown, InferenceProcess

CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents",
    "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents",
    "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
WINDOW = activity()[0][:1]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceProcess]:
    directory = tmp_path_factory.mktemp("grpc")
    options = Options(grpc_port=0, body_bytes_max=1024 * 1024)
    process = InferenceProcess(host="127.0.0.1", port=0, socket=None, options=options)
    process.start()
    process.load(make_bundle(directory))
    process.load(identity_bundle(directory))
    yield process
    process.stop()


@pytest.fixture
def channel(running: InferenceProcess) -> Iterator[grpc.Channel]:
    opened = grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}")
    yield opened
    opened.close()


def call(channel: grpc.Channel, method: str, request: Any) -> Any:
    """Call with the messages that others generated, not with ours."""
    answered = getattr(service_pb2, f"{method}Response")
    invoke = channel.unary_unary(
        f"/{SERVICE}/{method}",
        request_serializer=lambda given: given.SerializeToString(),
        response_deserializer=answered.FromString,
    )
    return invoke(request, timeout=20)


def code_of(channel: grpc.Channel, request: Any, method: str = "ModelInfer") -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, method, request)
    return failed.value.code().name, failed.value.details()


def activity_request(**changes: Any) -> Any:
    request = service_pb2.ModelInferRequest(model_name="activity", **changes)
    request.inputs.add(name="input", datatype="FP32", shape=[1, 6, 128])
    return request


@pytest.mark.parametrize("name", [
    f"{method}{side}" for method in METHODS for side in ("Request", "Response")
])  # fmt: skip
def test_our_messages_are_those_of_the_protocol(name: str) -> None:
    """Field by field against a generated copy: number, kind, and whether it is repeated."""

    def compare(ours: Any, theirs: Any, seen: frozenset[str] = frozenset()) -> None:
        if ours.full_name in seen:
            return
        assert ours.full_name == theirs.full_name
        for field in ours.fields:
            other = theirs.fields_by_number[field.number]
            assert (field.name, field.is_repeated) == (other.name, other.is_repeated)
            if field.name == "data_type":  # an enumeration there, the same on the wire
                continue
            assert field.type == other.type, field.full_name
            if field.message_type is not None:
                inner = seen | {ours.full_name}
                compare(field.message_type, other.message_type, inner)

    compare(message(name).DESCRIPTOR, getattr(service_pb2, name).DESCRIPTOR)


def test_both_copies_of_the_protocol_live_in_one_process() -> None:
    """In either order of importing them."""
    ours, theirs = "edgectl_agent.inference.grpc_messages", "tritonclient.grpc.service_pb2"
    for first, second in ((ours, theirs), (theirs, ours)):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", f"import {first}, {second}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_typed_contents_go_in_and_out(running: InferenceProcess, channel: grpc.Channel) -> None:
    request = service_pb2.ModelInferRequest(model_name="identity", id="seven")
    for kind, (_, _, row) in KINDS.items():
        given = request.inputs.add(name=f"in_{kind}", datatype=kind, shape=[1, 2])
        if kind == "FP16":
            continue
        values = [value.encode() for value in row] if kind == "BYTES" else row
        getattr(given.contents, CONTENTS[kind]).extend(values)
    assert "raw_input_contents" in code_of(channel, request)[1], "FP16 has no typed contents"
    raw = service_pb2.ModelInferRequest(model_name="identity")
    for kind, (_, dtype, row) in KINDS.items():
        raw.inputs.add(name=f"in_{kind}", datatype=kind, shape=[1, 2])
        raw.raw_input_contents.append(raw_of(np.array(row, dtype)))
    answer = call(channel, "ModelInfer", raw)
    for number, (_, dtype, row) in enumerate(KINDS.values()):
        assert answer.raw_output_contents[number] == raw_of(np.array(row, dtype))


def test_typed_contents_are_answered_in_kind(channel: grpc.Channel) -> None:
    request = activity_request(id="seven")
    request.inputs[0].contents.fp32_contents.extend(WINDOW.ravel().tolist())
    answer = call(channel, "ModelInfer", request)
    assert (answer.id, answer.model_name, answer.model_version) == ("seven", "activity", "1")
    assert answer.parameters["manifest"].string_param.startswith("sha256:")
    (output,) = answer.outputs
    assert (output.name, list(output.shape)) == ("logits", [1, 7])
    assert not answer.raw_output_contents
    raw = activity_request()
    raw.raw_input_contents.append(WINDOW.tobytes())
    (content,) = call(channel, "ModelInfer", raw).raw_output_contents
    np.testing.assert_allclose(
        output.contents.fp32_contents, np.frombuffer(content, np.float32), rtol=1e-5
    )


def wrong_requests() -> dict[str, tuple[Any, str, str]]:
    found: dict[str, tuple[Any, str, str]] = {}

    def add(name: str, request: Any, sentence: str, code: str = "INVALID_ARGUMENT") -> None:
        found[name] = (request, sentence, code)

    add("no data", activity_request(), "0 elements")
    request = activity_request()
    request.inputs[0].contents.fp64_contents.extend([0.5] * 768)
    add("another field", request, "0 elements")
    request = activity_request()
    request.raw_input_contents.append(WINDOW.tobytes()[:-1])
    add("too short", request, "3071 bytes")
    request = activity_request()
    request.raw_input_contents.extend([WINDOW.tobytes()] * 2)
    add("one too many", request, "2 raw_input_contents")
    request = activity_request()
    request.inputs[0].contents.fp32_contents.extend([0.5] * 768)
    request.raw_input_contents.append(WINDOW.tobytes())
    add("twice", request, "beside")
    request = activity_request()
    request.inputs.add(name="input", datatype="FP32", shape=[1, 6, 128])
    request.raw_input_contents.extend([WINDOW.tobytes()] * 2)
    add("input twice", request, "given twice")
    request = activity_request()
    del request.inputs[0].shape[:]
    request.inputs[0].shape.extend([1] * 100_000)
    request.raw_input_contents.append(WINDOW.tobytes())
    add("dimensions without end", request, "expected [-1, 6, 128]")
    for shape in ([-1, 6, 128], [2**62, 6, 128], [0, 6, 128]):
        request = activity_request()
        request.inputs[0].shape[:] = shape
        request.raw_input_contents.append(WINDOW.tobytes())
        add(f"shape {shape}", request, "input 'input'")
    request = activity_request()
    request.inputs[0].name = "x" * 100_000
    add("a long name", request, "no input")
    request = service_pb2.ModelInferRequest(model_name="activity", id="x" * 2000)
    add("a long id", request, "at most 1024")
    request = service_pb2.ModelInferRequest(model_name="activity")
    for _ in range(100):
        request.inputs.add(name="input")
    add("inputs without end", request, "at most 64")
    add("no inputs", service_pb2.ModelInferRequest(model_name="activity"), "is missing")
    request = activity_request()
    request.raw_input_contents.append(WINDOW.tobytes())
    request.outputs.add(name="softmax")
    add("unknown output", request, "'logits'")
    request = activity_request()
    request.inputs[0].parameters["shared_memory_region"].string_param = "x"
    add("shared memory", request, "no number of bytes")
    request = activity_request()
    request.inputs[0].parameters["shared_memory_region"].string_param = "x"
    request.inputs[0].parameters["shared_memory_byte_size"].int64_param = 3072
    add("shared memory that is off", request, "not switched on")
    request = activity_request(model_version="9")
    add("unknown version", request, "version '9'", "NOT_FOUND")
    request = service_pb2.ModelInferRequest(model_name="m" * 100_000)
    add("unknown model", request, "no model", "NOT_FOUND")
    request = activity_request()
    request.raw_input_contents.append(bytes(2 * 1024 * 1024))
    add("too large", request, "larger than max", "RESOURCE_EXHAUSTED")
    return found


def test_what_is_wrong_is_a_status_with_a_sentence(channel: grpc.Channel) -> None:
    for name, (request, sentence, expected) in wrong_requests().items():
        code, details = code_of(channel, request)
        assert code == expected, (name, details)
        assert sentence in details, (name, details)
        assert len(details) <= 1000, name


def test_bytes_that_are_no_message(channel: grpc.Channel) -> None:
    invoke = channel.unary_unary(f"/{SERVICE}/ModelInfer")
    random = np.random.default_rng(20261129)
    good = activity_request()
    good.raw_input_contents.append(WINDOW.tobytes())
    content = good.SerializeToString()
    for _ in range(200):
        damaged = bytearray(content)
        for at in random.integers(0, 100, 3):
            damaged[at] = random.integers(0, 256)
        ended = invoke.future(bytes(damaged), timeout=20)
        assert ended.code().name in {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL", "UNKNOWN"}
        assert "see the agent's log" not in str(ended.details())
    assert call(channel, "ModelInfer", good).model_name == "activity"


def test_methods_that_are_not_served(channel: grpc.Channel) -> None:
    invoke = channel.unary_unary(f"/{SERVICE}/TraceSetting")
    with pytest.raises(grpc.RpcError) as failed:
        invoke(b"", timeout=20)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        request = getattr(service_pb2, f"{method}Request")(model_name="activity")
        assert code_of(channel, request, method)[0] == "PERMISSION_DENIED"


def test_a_client_that_goes_leaves_the_model_in_order(tmp_path: Path) -> None:
    """Its run goes on and is counted; the next one is answered."""
    process = InferenceProcess(host="127.0.0.1", port=0, socket=None, options=Options(grpc_port=0))
    process.start()
    process.load(counted_bundle(tmp_path))
    request = service_pb2.ModelInferRequest(model_name="counted")
    request.inputs.add(name="rounds", datatype="INT64", shape=[1])
    request.raw_input_contents.append(np.array([400_000], np.int64).tobytes())
    with grpc.insecure_channel(f"127.0.0.1:{process.grpc_port}") as channel:
        invoke = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=lambda given: given.SerializeToString(),
        )
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as failed:
                invoke(request, timeout=0.02)
            assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        request.raw_input_contents[0] = np.array([5], np.int64).tobytes()
        answer = call(channel, "ModelInfer", request)
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [5.0]
    process.unload("counted")
    process.stop()


def test_nothing_serves_yet() -> None:
    process = InferenceProcess(host="127.0.0.1", port=0, socket=None, options=Options(grpc_port=0))
    process.start()
    with grpc.insecure_channel(f"127.0.0.1:{process.grpc_port}") as channel:
        assert not call(channel, "ServerReady", service_pb2.ServerReadyRequest()).ready
        assert code_of(channel, activity_request())[0] == "UNAVAILABLE"
    process.stop()


def test_a_port_that_is_taken_is_said(running: InferenceProcess) -> None:
    options = Options(grpc_port=running.grpc_port)
    process = InferenceProcess(host="127.0.0.1", port=0, socket=None, options=options)
    with pytest.raises(InferenceDown) as down:
        process.start()
    assert down.value.code == "inference.bind"
    assert f"127.0.0.1:{running.grpc_port}" in down.value.detail


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "grpc.py").write_text("raise ImportError('No module named grpc')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    process = InferenceProcess(host="127.0.0.1", port=0, socket=None, options=Options(grpc_port=0))
    with pytest.raises(InferenceDown) as down:
        process.start()
    assert down.value.code == "inference.grpc"
    assert "pip install 'edgectl-agent[grpc]'" in down.value.detail
    process = InferenceProcess(host="127.0.0.1", port=0, socket=None)
    process.start()
    assert process.grpc_port is None
    process.stop()
