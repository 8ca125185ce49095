"""Open Inference Protocol v2, REST: every required route and every way to be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from agent.inference.models import (
    KINDS,
    Array,
    Client,
    activity,
    identity_bundle,
    make_bundle,
    save_model,
    tensor,
)
from edgectl_agent.inference.process import InferenceProcess
from edgectl_protocol.histograms import CONFIDENCE_EDGES, LATENCY_EDGES_US

INFER = "/v2/models/activity/infer"


@pytest.fixture
def served(process: InferenceProcess, client: Client, tmp_path: Path) -> Client:
    process.load(make_bundle(tmp_path, scores=True, labels=tuple("abcdefg")))
    return client


def tensor_of(window: Array, **changes: Any) -> dict[str, Any]:
    return {
        "name": "input",
        "shape": [1, 6, 128],
        "datatype": "FP32",
        "data": window.ravel().tolist(),
        **changes,
    }


def request_of(*inputs: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"inputs": list(inputs), **changes}


REAL = tensor_of(activity()[0][0])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/activity/ready", {"name": "activity", "ready": True}),
        ("/v2/models/activity/versions/1/ready", {"name": "activity", "ready": True}),
    ],
)
def test_health_routes(served: Client, path: str, expected: dict[str, Any]) -> None:
    assert served.call("GET", path) == (200, expected)


def test_server_metadata(served: Client) -> None:
    status, found = served.call("GET", "/v2")
    assert status == 200
    assert found["name"] == "edgectl"
    assert found["version"]
    assert found["extensions"] == [
        "binary_tensor_data",
        "model_configuration",
        "model_repository",
        "statistics",
    ]


@pytest.mark.parametrize("path", ["/v2/models/activity", "/v2/models/activity/versions/1"])
def test_model_metadata(served: Client, path: str) -> None:
    status, found = served.call("GET", path)
    assert status == 200
    assert found["name"] == "activity"
    assert found["versions"] == ["1"]
    assert found["platform"] == "onnx_onnxv1"
    assert found["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 6, 128]}]
    assert found["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 7]}]
    assert found["parameters"]["manifest"].startswith("sha256:")
    assert found["labels"] == list("abcdefg")


def test_nothing_is_ready_before_a_model_is_loaded(client: Client) -> None:
    assert client.call("GET", "/v2/health/live") == (200, {"live": True})
    for path in ("/v2/health/ready", "/v2/models/activity/ready", "/v2/models/activity"):
        status, found = client.call("GET", path)
        assert status == 404
        assert found["error"]
    status, found = client.call("POST", INFER, request_of(REAL))
    assert status == 503
    assert "not ready" in found["error"]


@pytest.mark.parametrize("path", [INFER, "/v2/models/activity/versions/1/infer"])
def test_real_windows_are_classified_as_the_runtime_does(served: Client, path: str) -> None:
    windows, labels = activity()
    right = 0
    for window, label in zip(windows[:40], labels[:40], strict=True):
        status, answer = served.call("POST", path, request_of(tensor_of(window)))
        assert status == 200
        (output,) = answer["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [1, 7])
        right += int(np.argmax(output["data"])) == label
    assert right >= 30, "the demo model is right on most real windows"


def test_every_answer_names_what_has_answered(served: Client, tmp_path: Path) -> None:
    _, answer = served.call("POST", INFER, request_of(REAL, id="request-7"))
    assert answer["id"] == "request-7"
    assert answer["model_name"] == "activity"
    assert answer["model_version"] == "1"
    bundle = make_bundle(tmp_path)
    assert answer["parameters"] == {"manifest": bundle.manifest, "variant": "fp32"}
    _, answer = served.call("POST", INFER, request_of(REAL))
    assert "id" not in answer


def test_flat_and_nested_data_are_the_same(served: Client) -> None:
    windows = activity()[0][:3]
    flat = tensor_of(windows, shape=[3, 6, 128])
    nested = tensor_of(windows, shape=[3, 6, 128], data=windows.tolist())
    answers = [served.call("POST", INFER, request_of(given)) for given in (flat, nested)]
    assert answers[0] == answers[1]
    assert answers[0][1]["outputs"][0]["shape"] == [3, 7]


def test_outputs_can_be_selected(served: Client) -> None:
    wanted = request_of(REAL, outputs=[{"name": "logits", "parameters": {"binary_data": False}}])
    assert served.call("POST", INFER, wanted)[0] == 200


WRONG: dict[str, tuple[object, str]] = {
    "no JSON": (b"{not json", "malformed"),
    "empty": (b"", "truncated"),
    "not UTF-8": (b'{"inputs": "\xff"}', "not an inference request"),
    "a list": ([], "object"),
    "no inputs": ({}, "inputs"),
    "empty inputs": ({"inputs": []}, "inputs"),
    "deeply nested": (b'{"inputs":' + b"[" * 100_000, "not an inference request"),
    "nested data": (
        json.dumps(request_of(tensor_of(np.zeros(1), data=0)))
        .replace('"data": 0', '"data": ' + "[" * 5000 + "]" * 5000)
        .encode(),
        "not an inference request",
    ),
    "id is a number": (request_of(REAL, id=7), "id"),
    "wrong name": (request_of({**REAL, "name": "inptu"}), "'input'"),
    "twice": (request_of(REAL, REAL), "twice"),
    "wrong datatype": (request_of({**REAL, "datatype": "FP64"}), "expected FP32"),
    "unknown datatype": (request_of({**REAL, "datatype": "FLOAT"}), "expected FP32"),
    "wrong rank": (request_of({**REAL, "shape": [6, 128]}), "expected [-1, 6, 128]"),
    "wrong size": (request_of({**REAL, "shape": [1, 6, 127]}), "expected [-1, 6, 128]"),
    "negative size": (request_of({**REAL, "shape": [-1, 6, 128]}), "shape"),
    "huge size": (request_of({**REAL, "shape": [2**40, 6, 128]}), "shape"),
    "empty batch": (request_of({**REAL, "shape": [0, 6, 128], "data": []}), "any size from 1"),
    "too few": (request_of({**REAL, "data": [1.0] * 767}), "767 elements"),
    "too many": (request_of({**REAL, "shape": [1, 6, 128], "data": [0.5] * 769}), "769 elements"),
    "large batch, no data": (request_of({**REAL, "shape": [2**31 - 1, 6, 128]}), "768 elements"),
    "text": (request_of({**REAL, "data": ["1.0"] * 768}), "expected `float`"),
    "true": (request_of({**REAL, "data": [True] * 768}), "expected `float`"),
    "null": (request_of({**REAL, "data": [None] * 768}), "expected `float`"),
    "data is a number": (request_of({**REAL, "data": 1}), "expected `array`"),
    "NaN": (json.dumps(request_of({**REAL, "data": [float("nan")] * 768})).encode(), "malformed"),
    "infinity": (json.dumps(request_of({**REAL, "data": [float("inf")]})).encode(), "malformed"),
    "beyond FP32": (request_of({**REAL, "data": [1e39] * 768}), "too large"),
    "beyond FP64": (json.dumps(request_of(REAL)).replace("[1, 6", "[1e999, 6").encode(), ""),
    "ragged": (
        request_of({**REAL, "data": [[[1.0] * 128] * 5 + [[1.0] * 127]]}),
        "differ in length",
    ),
    "nested too deep": (request_of({**REAL, "data": [[[[1.0]]]]}), "expected `float`"),
    "nested otherwise": (request_of({**REAL, "data": [[[1.0] * 6] * 128]}), "[1, 128, 6]"),
    "no data": (request_of({"name": "input", "shape": [1, 6, 128], "datatype": "FP32"}), "no data"),
    "binary data": (
        request_of(
            {
                "name": "input",
                "shape": [1, 6, 128],
                "datatype": "FP32",
                "parameters": {"binary_data_size": 3072},
            }
        ),
        "has binary_data_size 3072, and 0 bytes are left",
    ),
    "shared memory": (
        request_of(
            {
                "name": "input",
                "shape": [1, 6, 128],
                "datatype": "FP32",
                "parameters": {"shared_memory_region": "a"},
            }
        ),
        "shared_memory_byte_size of 'input' is no number of bytes",
    ),
    "unknown output": (request_of(REAL, outputs=[{"name": "softmax"}]), "'logits'"),
    "output twice": (request_of(REAL, outputs=[{"name": "logits"}] * 2), "twice"),
}


def test_what_is_wrong_is_400_with_a_sentence(served: Client, process: InferenceProcess) -> None:
    for name, (body, sentence) in WRONG.items():
        status, answer = served.call("POST", INFER, body)
        assert status == 400, name
        assert list(answer) == ["error"], name
        assert sentence.lower() in answer["error"].lower(), (name, answer)
    health = process.health("activity")
    assert (health.requests, health.errors) == (0, 0), "what is refused says nothing of the model"
    assert served.call("POST", INFER, request_of(REAL))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/other/infer", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/other/ready", 404),
        ("POST", "/v2/models/activity/versions/2/infer", 404),
        ("GET", "/v2/models/activity/versions/2", 404),
        ("GET", "/v2/models/activity/versions/2/ready", 404),
        ("GET", "/v2/models/activity/versions", 404),
        ("GET", "/v2/models/activity/generate", 404),
        ("GET", "/v2/models/%2e%2e/ready", 404),
        ("GET", "/v2/models/", 404),
        ("GET", "/v1/models/activity", 404),
        ("GET", "/", 404),
        ("GET", INFER, 405),
        ("PUT", INFER, 405),
        ("POST", "/v2/health/live", 405),
        ("DELETE", "/v2/models/activity", 405),
    ],
)
def test_unknown_routes_and_methods(served: Client, method: str, path: str, status: int) -> None:
    found, answer = served.call(method, path, request_of(REAL) if method == "POST" else None)
    assert found == status
    assert answer["error"]


def test_encoded_paths_and_queries_are_understood(served: Client) -> None:
    assert served.call("GET", "/v2/models/%61ctivity/ready?x=1")[0] == 200


def test_head_has_no_body(served: Client) -> None:
    assert served.call("HEAD", "/v2") == (200, None)
    assert served.call("GET", "/v2/health/live")[0] == 200, "the connection is still in step"


def test_all_datatypes_go_in_and_out(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    process.load(identity_bundle(tmp_path))
    body = request_of(
        *(
            {"name": f"in_{kind}", "shape": [1, 2], "datatype": kind, "data": values}
            for kind, (_, _, values) in KINDS.items()
        )
    )
    status, answer = client.call("POST", "/v2/models/identity/infer", body)
    assert status == 200, answer
    got = {output["name"]: output for output in answer["outputs"]}
    for kind, (_, _, values) in KINDS.items():
        assert got[f"out_{kind}"] == {
            "name": f"out_{kind}",
            "shape": [1, 2],
            "datatype": kind,
            "data": values,
        }
    for kind, wrong in [
        ("UINT8", 256),
        ("UINT8", -1),
        ("INT32", 2**31),
        ("INT64", 2**63),
        ("UINT8", 1.5),
        ("BOOL", 1),
        ("BYTES", 1),
        ("FP16", 70000),
    ]:
        changed = json.loads(json.dumps(body))
        for given in changed["inputs"]:
            if given["datatype"] == kind:
                given["data"] = [wrong, wrong]
        status, answer = client.call("POST", "/v2/models/identity/infer", changed)
        assert status == 400, (kind, wrong)
        assert f"in_{kind}" in answer["error"]
    missing = request_of(*body["inputs"][1:])
    assert (
        "'in_FP32' is missing"
        in client.call("POST", "/v2/models/identity/infer", missing)[1]["error"]
    )
    one = request_of(*body["inputs"], outputs=[{"name": "out_BOOL"}, {"name": "out_FP32"}])
    _, answer = client.call("POST", "/v2/models/identity/infer", one)
    assert [output["name"] for output in answer["outputs"]] == ["out_BOOL", "out_FP32"]


def test_non_finite_outputs_are_null_marked_and_counted(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    model = save_model(
        tmp_path / "log.onnx",
        [helper.make_node("Log", ["x"], ["y"])],
        [tensor("x", TensorProto.FLOAT, ["N", 3])],
        [tensor("y", TensorProto.FLOAT, ["N", 3])],
    )
    one = np.ones((1, 3), np.float32)
    process.load(make_bundle(tmp_path, model, slot="log", golden_inputs={"x": one}))
    body = request_of({"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [-1, 0, 1]})
    status, answer = client.call("POST", "/v2/models/log/infer", body)
    assert status == 200
    assert answer["outputs"][0]["data"] == [None, None, 0.0]
    assert answer["parameters"]["non_finite"] is True
    (window,) = process.windows()
    assert (window.requests, window.errors, window.non_finite) == (1, 0, 1)


def test_a_model_that_fails_on_an_input_is_500_and_counted(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    model = save_model(
        tmp_path / "gather.onnx",
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [tensor("x", TensorProto.INT64, ["N"])],
        [tensor("y", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor("table", TensorProto.FLOAT, [2], [10.0, 20.0])],
    )
    one = np.ones(1, np.int64)
    process.load(make_bundle(tmp_path, model, slot="gather", golden_inputs={"x": one}))
    path = "/v2/models/gather/infer"
    body = request_of({"name": "x", "shape": [1], "datatype": "INT64", "data": [7]})
    status, answer = client.call("POST", path, body)
    assert status == 500
    assert "the model failed on this input" in answer["error"]
    body["inputs"][0]["data"] = [1]
    assert client.call("POST", path, body)[0] == 200
    health = process.health("gather")
    assert (health.requests, health.errors, health.non_finite) == (2, 1, 0)


def test_windows_add_up_to_what_was_asked(served: Client, process: InferenceProcess) -> None:
    windows, _ = activity()
    classes = [0] * 7
    for window in windows[:30]:
        _, answer = served.call("POST", INFER, request_of(tensor_of(window)))
        classes[int(np.argmax(answer["outputs"][0]["data"]))] += 1
    batch = tensor_of(windows[30:40], shape=[10, 6, 128])
    _, answer = served.call("POST", INFER, request_of(batch))
    for row in np.array(answer["outputs"][0]["data"]).reshape(10, 7):
        classes[int(np.argmax(row))] += 1
    (counted,) = process.windows()
    assert counted.requests == sum(counted.latency) == 31
    assert len(counted.latency) == len(LATENCY_EDGES_US) + 1
    assert len(counted.confidence) == len(CONFIDENCE_EDGES) + 1
    assert sum(counted.confidence) == 40
    assert counted.classes == tuple(classes[: len(counted.classes)])
    assert sum(counted.classes) == 40
    assert counted.start < counted.end
    assert counted.version == "1"
    assert process.windows() == (), "a window is counted once"
    assert process.health("activity").requests == 31
