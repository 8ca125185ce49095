"""The binary tensor extension, and the others that clients of Triton know."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from agent.inference.binary import LENGTH, ask, body_of, raw_of, tensor_of
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
from edgectl_agent.inference.tensors import from_raw, to_raw

INFER = "/v2/models/activity/infer"
IDENTITY = "/v2/models/identity/infer"


@pytest.fixture
def served(process: InferenceProcess, client: Client, tmp_path: Path) -> Client:
    process.load(make_bundle(tmp_path, scores=True))
    return client


def window_of(windows: Array) -> tuple[dict[str, Any], bytes]:
    return tensor_of("input", "FP32", windows)


def in_json(name: str, datatype: str, values: Array) -> tuple[dict[str, Any], bytes]:
    shape = list(values.shape)
    return {"name": name, "shape": shape, "datatype": datatype, "data": values.tolist()}, b""


@pytest.mark.parametrize("rows", [1, 3])
def test_every_datatype_goes_in_and_out(
    process: InferenceProcess, client: Client, tmp_path: Path, rows: int
) -> None:
    process.load(identity_bundle(tmp_path))
    given = {kind: np.array([row] * rows, dtype) for kind, (_, dtype, row) in KINDS.items()}
    tensors = [tensor_of(f"in_{kind}", kind, values) for kind, values in given.items()]
    # Of every length modulo 8, so that no tensor is aligned by luck.
    for padding in range(8):
        body, headers = body_of(
            *tensors, parameters={"binary_data_output": True, "x": "y" * padding}
        )
        status, answer, arrays = ask(client, IDENTITY, body, headers)
        assert status == 200, answer
        for kind, values in given.items():
            np.testing.assert_array_equal(arrays[f"out_{kind}"], values)


def test_json_and_binary_can_be_mixed(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    process.load(identity_bundle(tmp_path))
    given = {kind: np.array([row], dtype) for kind, (_, dtype, row) in KINDS.items()}
    tensors = [
        (in_json if number % 2 else tensor_of)(f"in_{kind}", kind, values)
        for number, (kind, values) in enumerate(given.items())
    ]
    wanted = [
        {"name": f"out_{kind}", "parameters": {"binary_data": number % 3 == 0}}
        for number, kind in enumerate(given)
    ]
    status, answer, arrays = ask(client, IDENTITY, *body_of(*tensors, outputs=wanted))
    assert status == 200, answer
    for number, (kind, values) in enumerate(given.items()):
        output = answer["outputs"][number]
        got = arrays[f"out_{kind}"] if number % 3 == 0 else np.reshape(output["data"], (1, 2))
        np.testing.assert_array_equal(got, values)


def test_binary_answers_are_those_of_json(served: Client) -> None:
    windows = activity()[0][:5]
    answers = []
    for tensors in (window_of(windows), in_json("input", "FP32", windows)):
        for parameters in ({"binary_data_output": True}, {}):
            body, headers = body_of(*[tensors], parameters=parameters)
            if not tensors[1]:
                headers = {}
            status, answer, arrays = ask(served, INFER, body, headers)
            assert status == 200, answer
            flat = arrays.get("logits", answer["outputs"][0].get("data"))
            answers.append(np.reshape(flat, (5, 7)))
            assert answer["parameters"]["variant"] == "fp32"
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], rtol=1e-6)


def test_a_body_without_json_is_the_only_input(served: Client) -> None:
    windows = activity()[0][:2]
    status, answer, arrays = ask(served, INFER, windows.tobytes(), {LENGTH: "0"})
    assert status == 200, answer
    assert arrays["logits"].shape == (2, 7)
    status, answer, _ = ask(served, INFER, windows.tobytes()[:-4], {LENGTH: "0"})
    assert status == 400
    status, answer, _ = ask(served, INFER, b"", {LENGTH: "0"})
    assert status == 400


def sized(**parameters: Any) -> tuple[dict[str, Any], bytes]:
    described, raw = window_of(activity()[0][:1])
    return {**described, "parameters": parameters}, raw


BATCH = activity()[0][:1]
WRONG: dict[str, tuple[bytes, dict[str, str], str]] = {
    "length beyond the body": (*body_of(window_of(BATCH)), "the body has"),
    "length within the JSON": (body_of(window_of(BATCH))[0], {LENGTH: "20"}, "not an inference"),
    "length into the tensor": (body_of(window_of(BATCH))[0], {LENGTH: "900"}, "not an inference"),
    "size too small": (*body_of(sized(binary_data_size=3068)), "3068 bytes, its shape"),
    "size too large": (*body_of(sized(binary_data_size=3076)), "3072 bytes are left"),
    "size huge": (*body_of(sized(binary_data_size=2**70)), "no number of bytes"),
    "size negative": (*body_of(sized(binary_data_size=-1)), "no number of bytes"),
    "size is true": (*body_of(sized(binary_data_size=True)), "no number of bytes"),
    "size is a float": (*body_of(sized(binary_data_size=3072.0)), "no number of bytes"),
    "size is text": (*body_of(sized(binary_data_size="3072")), "no number of bytes"),
    "no size": (*body_of(sized()), "has no data"),
    "data twice": (
        *body_of(({**window_of(BATCH)[0], "data": [0.5] * 768}, b"")),
        "in two places",
    ),
    "bytes left over": (
        *body_of(window_of(BATCH), ({**in_json("x", "FP32", BATCH)[0]}, b"")),
        "'x'",
    ),
    "BF16": (*body_of(({**window_of(BATCH)[0], "datatype": "BF16"}, b"")), "no model here takes"),
    "huge shape": (
        *body_of(({**window_of(BATCH)[0], "shape": [2**31 - 1, 6, 128]}, bytes(3072))),
        "its shape",
    ),
    "classification": (
        *body_of(
            window_of(BATCH), outputs=[{"name": "logits", "parameters": {"classification": 2}}]
        ),
        "classification",
    ),
}
WRONG["length beyond the body"] = (WRONG["no size"][0], {LENGTH: "100000"}, "the body has")


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_400_with_a_sentence(served: Client, name: str) -> None:
    body, headers, sentence = WRONG[name]
    status, answer, _ = ask(served, INFER, body, headers)
    assert status == 400, answer
    assert sentence in answer["error"], answer


def test_bytes_after_the_last_tensor_are_refused(served: Client) -> None:
    body, headers = body_of(window_of(BATCH))
    status, answer, _ = ask(served, INFER, body + b"x", headers)
    assert status == 400
    assert "3073 bytes follow" in answer["error"]


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "at least 8"),
        (struct.pack("<I", 4) + b"abcd", "element 1"),
        (struct.pack("<I", 2**32 - 1) + b"abcd", "element 0"),
        (struct.pack("<I", 5) + b"abcd", "element 0"),
        (struct.pack("<I", 0) * 2 + b"x", "9 bytes"),
        (struct.pack("<II", 0, 2) + b"\xff\xfe", "UTF-8"),
    ],
)
def test_texts_that_do_not_end_where_they_say(
    process: InferenceProcess, client: Client, tmp_path: Path, raw: bytes, sentence: str
) -> None:
    model = save_model(
        tmp_path / "texts.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [tensor("x", TensorProto.STRING, ["N"])],
        [tensor("y", TensorProto.STRING, ["N"])],
    )
    one = np.array(["a"])
    process.load(make_bundle(tmp_path, model, slot="texts", golden_inputs={"x": one}))
    described = {"name": "x", "shape": [2], "datatype": "BYTES"}
    body, headers = body_of(({**described, "parameters": {"binary_data_size": len(raw)}}, raw))
    status, answer, _ = ask(client, "/v2/models/texts/infer", body, headers)
    assert status == 400
    assert sentence in answer["error"], answer


def test_an_array_lies_over_the_request_where_that_is_aligned() -> None:
    body = bytearray(64)
    whole = np.frombuffer(body, np.uint8)
    for at in range(16):
        array = from_raw("x", memoryview(body)[at : at + 32], (2, 2), "FP64")
        assert array.flags.aligned
        assert np.shares_memory(array, whole) is (at % 8 == 0)
    with pytest.raises(Exception, match="neither 0 nor 1"):
        from_raw("x", b"\x02\x01", (2,), "BOOL")


def test_outputs_in_any_order_of_memory_are_row_major() -> None:
    array = np.arange(6000, dtype=np.int32).reshape(60, 100)
    for odd in (array.T, array[::2], np.asfortranarray(array), array[:, ::-1], array[:3, :3]):
        assert bytes(to_raw(odd, "INT32")) == odd.tobytes()
    assert bytes(to_raw(np.array(7, np.int64), "INT64")) == raw_of(np.array(7, np.int64))


def test_a_nan_that_an_application_sends_is_not_the_models_fault(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    """Else an application could take a sound model away from all others."""
    model = save_model(
        tmp_path / "log.onnx",
        [helper.make_node("Log", ["x"], ["y"])],
        [tensor("x", TensorProto.FLOAT, ["N", 1])],
        [tensor("y", TensorProto.FLOAT, ["N", 1])],
    )
    one = np.ones((1, 1), np.float32)
    process.load(make_bundle(tmp_path, model, slot="log", golden_inputs={"x": one}))
    for value, blamed in ((np.nan, 0), (np.inf, 0), (-1.0, 1), (1.0, 1)):
        given = tensor_of("x", "FP32", np.array([[value]], np.float32))
        status, answer, _ = ask(client, "/v2/models/log/infer", *body_of(given))
        assert status == 200
        assert answer["parameters"].get("non_finite", False) is (value != 1.0)
        assert process.health("log").non_finite == blamed


def test_binary_answers_leave_the_connection_in_step(served: Client) -> None:
    body, headers = body_of(window_of(BATCH), parameters={"binary_data_output": True})
    for _ in range(3):
        assert ask(served, INFER, body, headers)[0] == 200
        assert served.call("GET", "/v2/health/live")[0] == 200


def test_statistics_say_where_the_time_went(served: Client) -> None:
    for path in ("/v2/models/activity/stats", "/v2/models/stats"):
        (empty,) = served.call("GET", path)[1]["model_stats"]
        assert (empty["inference_count"], empty["last_inference"]) == (0, 0)
    body, headers = body_of(window_of(activity()[0][:4]))
    for _ in range(3):
        assert ask(served, INFER, body, headers)[0] == 200
    assert ask(served, INFER, body[:-1], headers)[0] == 400
    for path in (
        "/v2/models/activity/stats", "/v2/models/activity/versions/1/stats", "/v2/models/stats",
    ):  # fmt: skip
        status, answer = served.call("GET", path)
        assert status == 200
        (found,) = answer["model_stats"]
        assert (found["name"], found["version"]) == ("activity", "1")
        assert (found["inference_count"], found["execution_count"]) == (12, 3)
        assert found["last_inference"] > 1_700_000_000_000
        spent = found["inference_stats"]
        assert (spent["success"]["count"], spent["fail"]["count"]) == (3, 1)
        parts = ("queue", "compute_input", "compute_infer", "compute_output")
        assert all(spent[part]["ns"] > 0 for part in parts)
        assert spent["success"]["ns"] == sum(spent[part]["ns"] for part in parts)


def test_configuration_and_index(served: Client) -> None:
    status, config = served.call("GET", "/v2/models/activity/config")
    assert status == 200
    assert config["max_batch_size"] == 0
    assert config["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": [-1, 6, 128]}]
    status, index = served.call("POST", "/v2/repository/index", b"")
    assert status == 200
    assert index == [{"name": "activity", "version": "1", "state": "READY", "reason": ""}]
    assert served.call("GET", "/v2/repository/index")[0] == 405


@pytest.mark.parametrize("change", ["load", "unload"])
def test_applications_do_not_load_models(served: Client, change: str) -> None:
    status, answer = served.call("POST", f"/v2/repository/models/activity/{change}", {})
    assert status == 403
    assert "rolled out" in answer["error"]
    assert served.call("GET", "/v2/models/activity/ready")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models", "/v2/models/stats/x", "/v2/repository", "/v2/repository/models/a/erase",
        "/v2/health", "/v2/health/x", "/v2/models/activity/versions/1/stats/x",
        "/v2/systemsharedmemory", "/v2//", "/v2/x",
    ],
)  # fmt: skip
def test_what_is_no_route(served: Client, path: str) -> None:
    status, answer = served.call("GET", path)
    assert status in {403, 404}
    assert answer["error"]


def test_shared_memory_is_off_unless_it_is_switched_on(served: Client) -> None:
    assert served.call("GET", "/v2/systemsharedmemory/status")[0] == 403
    given = {"shared_memory_region": "x", "shared_memory_byte_size": 3072}
    described = {**window_of(BATCH)[0], "parameters": given}
    status, answer = served.call("POST", INFER, json.dumps({"inputs": [described]}).encode())
    assert status == 400
    assert "not switched on" in answer["error"]
