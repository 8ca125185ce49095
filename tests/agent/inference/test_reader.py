"""A reader that remembers gives what `parse_call` gives, whatever came before."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.inference.binary import LENGTH, body_of, tensor_of
from agent.inference.models import KINDS, identity_bundle, make_bundle
from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.protocol import Call, encode_outputs, parse_call, response_parameters
from edgectl_agent.inference.reader import FORMS_MAX, Reader, encode_again
from edgectl_agent.inference.refusals import Refused
from edgectl_agent.inference.tensors import from_json
from edgectl_protocol.manifest import TensorSpec

WINDOW = np.arange(768, dtype=np.float32).reshape(1, 6, 128)
SETTINGS = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def activity(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("activity"))


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model with an input of every datatype."""
    return identity_bundle(tmp_path_factory.mktemp("every"))


def binary(array: np.ndarray[Any, Any] = WINDOW, **fields: Any) -> tuple[bytes, int]:
    body, headers = body_of(tensor_of("input", "FP32", array), **fields)
    return body, int(headers[LENGTH])


def outcome(read: Any, body: bytes, length: int | None) -> Any:
    """Return what comes of a request, comparable: the call's content, or the refusal's words."""
    try:
        call: Call = read(body, length)
    except Refused as refused:
        return str(refused)
    arrays = [(name, one.dtype, one.shape, repr(one.tolist())) for name, one in call.inputs.items()]
    assert all(one.flags.aligned for one in call.inputs.values())
    return arrays, call.outputs, call.id, call.raw, call.extents


def both(bundle: Bundle) -> Any:
    reader = Reader(bundle.config)

    def compare(body: bytes, length: int | None) -> Any:
        fresh = outcome(
            lambda body, length: parse_call(body, bundle.config, header_length=length), body, length
        )
        for _ in range(3):
            again = outcome(
                lambda body, length: reader.read(body, header_length=length), body, length
            )
            assert again == fresh
        return fresh

    return compare


def test_the_same_form_with_other_bytes(activity: Bundle) -> None:
    compare = both(activity)
    first = compare(*binary(parameters={"binary_data_output": True}))
    other = compare(*binary(-WINDOW, parameters={"binary_data_output": True}))
    assert first[0][0][3] != other[0][0][3]


def test_a_known_head_before_a_body_of_another_length(activity: Bundle) -> None:
    compare = both(activity)
    body, length = binary()
    assert not isinstance(compare(body, length), str)
    for damaged in (body[:-1], body + b"x", body[:length], body * 2):
        assert isinstance(compare(damaged, length), str)
    assert isinstance(compare(body, length - 1), str)
    assert isinstance(compare(body, len(body) + 1), str)
    assert not isinstance(compare(body, length), str)


def test_a_body_without_an_object_takes_its_shape_from_its_length(activity: Bundle) -> None:
    compare = both(activity)
    for rows in (1, 2, 1, 3):
        (found,), *_ = compare(WINDOW.tobytes() * rows, 0)
        assert found[2] == (rows, 6, 128)
    assert isinstance(compare(WINDOW.tobytes()[:-4], 0), str)


def test_what_must_be_looked_at_each_time_is(every: Bundle) -> None:
    """A BOOL that is neither 0 nor 1, and a text that is not UTF-8, behind a head that was good."""
    tensors = [
        tensor_of(f"in_{kind}", kind, np.array([row], of)) for kind, (_, of, row) in KINDS.items()
    ]
    body, headers = body_of(*tensors)
    length = int(headers[LENGTH])
    compare = both(every)
    assert not isinstance(compare(body, length), str)
    for at in range(length, len(body)):
        damaged = bytearray(body)
        damaged[at] = 0xFF
        compare(bytes(damaged), length)


@SETTINGS
@given(data=st.data())
def test_damaged_bodies_after_a_good_one(activity: Bundle, data: st.DataObject) -> None:
    body, length = binary(parameters={"binary_data_output": True})
    compare = both(activity)
    compare(body, length)
    damaged = bytearray(body)
    at = data.draw(st.integers(0, length + 8))
    damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    compare(bytes(damaged), data.draw(st.sampled_from([length, length - 1, length + 4, 0])))


@pytest.mark.parametrize(
    "data",
    [
        WINDOW.tolist(),
        WINDOW.ravel().tolist(),
        [[1.0] * 768],
        [*[1.0] * 767, 1e39],
        [*[1.0] * 767, True],
        [*[1.0] * 767, None],
        [*[1.0] * 767, [1.0]],
        [1.0] * 767,
        [1] * 768,
        {},
        "x",
        None,
    ],
)
def test_json_flat_nested_and_wrong(activity: Bundle, data: object) -> None:
    given_input = {"name": "input", "shape": [1, 6, 128], "datatype": "FP32", "data": data}
    both(activity)(json.dumps({"inputs": [given_input]}).encode(), None)


@pytest.mark.parametrize("count", [1, 4096, 4097, 10_000])
def test_numbers_become_what_numpy_makes_of_them(count: int) -> None:
    values = np.random.default_rng(1).normal(size=count) * 1000
    for datatype, kind in (("FP16", np.float16), ("FP32", np.float32), ("FP64", np.float64)):
        spec = TensorSpec(name="x", datatype=datatype, shape=(-1,))
        data = json.dumps(values.tolist()).encode()
        array = from_json("x", data, (count,), spec)  # type: ignore[arg-type]
        assert array.dtype == kind
        assert np.array_equal(array, values.astype(kind))


@pytest.mark.parametrize(
    ("datatype", "last", "first_beyond"),
    [
        ("FP16", 65519.99, 65520.0),
        ("FP32", 3.4028235677973362e38, 3.4028235677973366e38),
    ],
)
def test_the_largest_number_of_a_datatype(datatype: Any, last: float, first_beyond: float) -> None:
    for count in (1, 5000):
        spec = TensorSpec(name="x", datatype=datatype, shape=(-1,))
        rest = [0.0] * (count - 1)
        good = from_json("x", json.dumps([*rest, last]).encode(), (count,), spec)  # type: ignore[arg-type]
        assert np.isfinite(good).all()
        for sign in (1, -1):
            bad = json.dumps([*rest, sign * first_beyond]).encode()
            with pytest.raises(Refused, match="too large"):
                from_json("x", bad, (count,), spec)  # type: ignore[arg-type]


def test_answers_of_a_remembered_form(activity: Bundle) -> None:
    """By shape: the head says how many bytes follow."""
    reader = Reader(activity.config)
    parameters = response_parameters(activity, non_finite=False)
    body, length = binary(parameters={"binary_data_output": True})
    reader.read(body, header_length=length)
    call = reader.read(body, header_length=length)
    assert call.heads == {}
    for rows in (1, 2, 1, 2):
        outputs = {"logits": np.arange(rows * 6, dtype=np.float32).reshape(rows, 6)}
        expected = encode_outputs(call, outputs, activity, parameters)
        assert encode_again(call, outputs, activity, parameters) == expected
    for rows in range(1, 100):
        outputs = {"logits": np.zeros((rows, 6), np.float32)}
        encode_again(call, outputs, activity, parameters)
    assert len(call.heads) <= 32


def test_answers_in_json_begin_as_those_before(activity: Bundle) -> None:
    reader = Reader(activity.config)
    parameters = response_parameters(activity, non_finite=False)
    tensor = {"name": "input", "shape": [1, 6, 128], "datatype": "FP32", "data": [0.5] * 768}
    call = reader.read(json.dumps({"inputs": [tensor]}).encode())
    assert call.heads == {}
    for rows in (1, 2, 1, 2):
        outputs = {"logits": np.random.default_rng(rows).normal(size=(rows, 6)).astype(np.float32)}
        expected = encode_outputs(call, outputs, activity, parameters)
        assert encode_again(call, outputs, activity, parameters) == expected
    for fields in ({"id": "1"}, {"parameters": {"binary_data_output": True}}):
        other = reader.read(json.dumps({"inputs": [tensor], **fields}).encode())
        assert other.heads is None


def test_there_is_a_bound_of_what_is_remembered(activity: Bundle) -> None:
    reader = Reader(activity.config)
    for number in range(3 * FORMS_MAX):
        body, length = binary(parameters={"mine": number})
        reader.read(body, header_length=length)
        assert 0 < len(reader._forms) <= FORMS_MAX
    before = len(reader._forms)
    for fields in ({"id": "1"}, {"parameters": {"mine": "x" * 2000}}):
        body, length = binary(**fields)
        reader.read(body, header_length=length)
        assert len(reader._forms) == before
