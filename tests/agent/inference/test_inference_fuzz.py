"""Hostile bytes into the two parsers of the endpoint: accepted, or the documented refusal."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.inference.binary import LENGTH, body_of, tensor_of
from agent.inference.models import KINDS, identity_bundle, make_bundle
from edgectl_agent.bundle import Bundle
from edgectl_agent.golden import GoldenMalformed, read_golden
from edgectl_agent.inference.endpoint import Answer, Endpoint, Limits, Request
from edgectl_agent.inference.protocol import parse_call
from edgectl_agent.inference.refusals import Refused
from edgectl_agent.inference.tensors import from_raw, to_raw
from edgectl_agent.runtime import DTYPES, shape_fits

SETTINGS = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
VALID = {
    "id": "1",
    "inputs": [{"name": "input", "shape": [1, 6, 128], "datatype": "FP32", "data": [0.25] * 768}],
    "outputs": [{"name": "logits"}],
}
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["input", "logits", "FP32", "INT64", "BYTES"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "shape", "datatype", "data", "parameters", "binary_data"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model with an input of every datatype."""
    return identity_bundle(tmp_path_factory.mktemp("every"))


def check(body: bytes, bundle: Bundle) -> None:
    try:
        call = parse_call(body, bundle.config)
    except Refused:
        return
    (array,) = call.inputs.values()
    assert array.dtype == np.float32
    assert array.shape[1:] == (6, 128)
    assert np.isfinite(array).all()


@SETTINGS
@given(field=st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), value=VALUES)
def test_a_field_of_an_input_may_be_anything(bundle: Bundle, field: str, value: Any) -> None:
    body = json.loads(json.dumps(VALID))
    body["inputs"][0][field] = value
    check(json.dumps(body).encode(), bundle)


@SETTINGS
@given(field=st.sampled_from(["id", "inputs", "outputs", "parameters", "x"]), value=VALUES)
def test_a_field_of_a_request_may_be_anything(bundle: Bundle, field: str, value: Any) -> None:
    check(json.dumps({**VALID, field: value}).encode(), bundle)


@SETTINGS
@given(data=st.data())
def test_damaged_bodies(bundle: Bundle, data: st.DataObject) -> None:
    body = bytearray(json.dumps(VALID).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    check(bytes(body), bundle)


def binary(body: bytes, header_length: int, bundle: Bundle) -> None:
    """Like `check`, for what may hold a NaN."""
    try:
        call = parse_call(body, bundle.config, header_length=header_length)
    except Refused:
        return
    for spec in bundle.config.inputs:
        array = call.inputs[spec.name]
        assert array.dtype == DTYPES[spec.datatype]
        assert shape_fits(array.shape, spec)
        assert array.flags.aligned
        if spec.datatype == "BYTES":
            assert all(type(text) is str for text in array.ravel())
        if spec.datatype == "BOOL":
            assert set(array.view(np.uint8).ravel().tolist()) <= {0, 1}


def binary_body(**parameters: Any) -> tuple[bytes, int]:
    tensors = [
        tensor_of(f"in_{kind}", kind, np.array([row], dtype))
        for kind, (_, dtype, row) in KINDS.items()
    ]
    body, headers = body_of(*tensors, parameters=parameters)
    return body, int(headers[LENGTH])


@SETTINGS
@given(data=st.data())
def test_damaged_binary_bodies(every: Bundle, data: st.DataObject) -> None:
    """Damaged anywhere, cut anywhere, and with any length of the JSON object."""
    body, length = binary_body()
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    lengths = st.just(length) | st.integers(0, len(body) + 5) | st.integers(0, 10**20)
    binary(bytes(damaged), data.draw(lengths), every)


@SETTINGS
@given(
    kind=st.sampled_from(sorted(KINDS)),
    field=st.sampled_from(["binary_data_size", "shared_memory_region", "shape", "data"]),
    value=VALUES,
    raw=st.binary(max_size=40),
)
def test_one_binary_input_may_say_anything(
    every: Bundle, kind: str, field: str, value: Any, raw: bytes
) -> None:
    body, length = binary_body()
    request = json.loads(body[:length])
    given = next(given for given in request["inputs"] if given["datatype"] == kind)
    target = given if field in {"shape", "data"} else given["parameters"]
    target[field] = value
    header = json.dumps(request).encode()
    binary(header + body[length:], len(header), every)
    binary(header + body[length:] + raw, len(header), every)


@SETTINGS
@given(raw=st.binary(max_size=200), rows=st.integers(0, 4))
def test_texts_in_binary_form_may_be_anything(raw: bytes, rows: int) -> None:
    try:
        array = from_raw("x", raw, (rows, 2), "BYTES")
    except Refused:
        return
    assert to_raw(array, "BYTES") == raw


@SETTINGS
@given(name=st.sampled_from(["out_FP32", "x", ""]), value=VALUES)
def test_outputs_may_be_asked_for_in_any_way(every: Bundle, name: str, value: Any) -> None:
    body, length = binary_body()
    request = json.loads(body[:length])
    for key in ("binary_data", "classification", "shared_memory_region"):
        request["outputs"] = [{"name": name, "parameters": {key: value}}]
        header = json.dumps(request).encode()
        binary(header + body[length:], len(header), every)


@SETTINGS
@given(at=st.integers(0, 40_000), content=st.binary(min_size=1, max_size=40))
def test_damaged_golden_data(bundle: Bundle, tmp_path: Path, at: int, content: bytes) -> None:
    file = bytearray(Path(bundle.golden).read_bytes())
    at %= len(file)
    file[at : at + len(content)] = content
    damaged = tmp_path / "golden.npz"
    damaged.write_bytes(file)
    try:
        cases = read_golden(msgspec.structs.replace(bundle, golden=str(damaged)))
    except GoldenMalformed:
        return
    assert cases.count == bundle.config.golden.cases


REQUEST = (
    b"POST /v2/models/a/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nabcde"
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nab\r\n0\r\n\r\nGET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
)


def test_damaged_requests_never_break_the_server() -> None:
    """Hundreds of damaged streams on one server: each ends in answers, and the last is good."""
    random = np.random.default_rng(20261123)
    loop_errors: list[dict[str, Any]] = []

    def handler(request: Request) -> Answer:
        return Answer(200, b"{}")

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: loop_errors.append(context)
        )
        endpoint = Endpoint(handler, Limits(body_bytes_max=100, head_bytes_max=500))
        port = await endpoint.listen_tcp("127.0.0.1", 0)
        for _ in range(400):
            stream = bytearray(REQUEST)
            for _ in range(random.integers(1, 4)):
                at = int(random.integers(0, len(stream)))
                stream[at : at + int(random.integers(0, 4))] = random.bytes(
                    int(random.integers(0, 4))
                )
            await ask(port, bytes(stream))
        assert (await ask(port, REQUEST)).count(b"HTTP/1.1 200 OK") == 3
        await endpoint.close()

    async def ask(port: int, stream: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(stream)
        writer.write_eof()
        try:
            async with asyncio.timeout(10):
                answered = await reader.read()
        except ConnectionResetError:
            answered = b""
        writer.close()
        return answered

    asyncio.run(run())
    assert not loop_errors, loop_errors[:3]
