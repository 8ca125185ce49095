"""The file of a sample: what numpy finds in it, and what is refused before numpy sees it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest

from edgectl_protocol.errors import LimitExceeded, MalformedMessage
from edgectl_protocol.messages import Order
from edgectl_protocol.names import digest_of
from edgectl_protocol.samples import (
    SAMPLE_BYTES_MAX,
    SAMPLE_HEAD_BYTES_MAX,
    SampleNote,
    SamplePolicy,
    SampleTensor,
    encode_sample,
    read_sample_head,
)

NOTE = SampleNote(
    model="har",
    version="1",
    manifest=digest_of(b"manifest"),
    reason="uncertain",
    taken_at=datetime(2026, 11, 29, 12, tzinfo=UTC),
)
INPUT = np.arange(12, dtype="<f4").reshape(1, 3, 4)
OUTPUT = np.array([[1, -2]], dtype="<i2")
TENSORS = [
    (SampleTensor("input.x", "F32", INPUT.shape), INPUT.tobytes()),
    (SampleTensor("output.y", "I16", OUTPUT.shape), OUTPUT.tobytes()),
]
GOOD = encode_sample(NOTE, TENSORS)


def read(content: bytes) -> Any:
    return read_sample_head(content[:SAMPLE_HEAD_BYTES_MAX], len(content))


def with_header(header: Any, data: bytes = INPUT.tobytes() + OUTPUT.tobytes()) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


def changed(**changes: Any) -> bytes:
    """The good file with other entries; None takes one out."""
    length = int.from_bytes(GOOD[:8], "little")
    header = json.loads(GOOD[8 : 8 + length])
    for key, entry in changes.items():
        name = key.replace("_x", ".x").replace("_y", ".y")
        if entry is None:
            del header[name]
        else:
            header[name] = {**header.get(name, {}), **entry}
    return with_header(header)


def test_what_was_written_is_read_as_the_format_says() -> None:
    """Read here by the published description of safetensors, not by our own code."""
    length = int.from_bytes(GOOD[:8], "little")
    header, data = json.loads(GOOD[8 : 8 + length]), GOOD[8 + length :]
    begin, end = header["input.x"]["data_offsets"]
    array = np.frombuffer(data[begin:end], "<f4").reshape(header["input.x"]["shape"])
    np.testing.assert_array_equal(array, INPUT)
    begin, end = header["output.y"]["data_offsets"]
    np.testing.assert_array_equal(np.frombuffer(data[begin:end], "<i2"), OUTPUT[0])
    assert all(isinstance(value, str) for value in header["__metadata__"].values())
    assert (8 + length) % 8 == 0, "elements lie aligned"
    head = read(GOOD)
    assert head.note == NOTE
    assert head.tensors == tuple(tensor for tensor, _ in TENSORS)


HOSTILE = {
    "empty": b"",
    "cut in the header": GOOD[:40],
    "cut in the elements": GOOD[:-1],
    "more than the header tells": GOOD + b"\0",
    "a header without end": (2**63).to_bytes(8, "little") + GOOD[8:],
    "no JSON": with_header(b"\x80\x04pickle"),
    "a list": with_header([1]),
    "nested without end": with_header(b'{"__metadata__":' + b"[" * 60_000),
    "no metadata": changed(__metadata__=None),
    "another reason": changed(__metadata__={"reason": "curious"}),
    "no time zone": changed(__metadata__={"taken_at": "2026-11-29T12:00:00"}),
    "a path as a model": changed(__metadata__={"model": "../../etc"}),
    "no tensors": with_header({"__metadata__": msgspec.to_builtins(NOTE)}, b""),
    "objects": changed(input_x={"dtype": "O"}),
    "another name": changed(input_x=None, weights={"dtype": "F32", "shape": [12],
                                                   "data_offsets": [0, 48]}),
    "an overlap": changed(output_y={"data_offsets": [44, 48]}),
    "a hole": changed(output_y={"data_offsets": [49, 53]}),
    "a negative size": changed(input_x={"shape": [-1, 3, 4]}),
    "sizes that overflow": changed(input_x={"shape": [2**31 - 1] * 8}),
    "nine axes": changed(input_x={"shape": [1] * 7 + [3, 4]}),
    "a larger shape": changed(input_x={"shape": [2, 3, 4]}),
    "an unknown field": changed(input_x={"pickle": "yes"}),
    "offsets beyond the file": changed(output_y={"data_offsets": [48, 2**62]}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises((MalformedMessage, LimitExceeded)):
        read(HOSTILE[name])


def test_sizes_are_bounded() -> None:
    with pytest.raises(LimitExceeded):
        read_sample_head(GOOD, SAMPLE_BYTES_MAX + 1)
    with pytest.raises(LimitExceeded):
        encode_sample(NOTE, [(SampleTensor("input.x", "U8", (1,)), bytes(SAMPLE_BYTES_MAX))])
    many = {f"input.{number}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
            for number in range(65)}  # fmt: skip
    with pytest.raises(LimitExceeded):
        read(with_header({"__metadata__": msgspec.to_builtins(NOTE), **many}, b""))
    long_name = [(SampleTensor("input." + "x" * SAMPLE_HEAD_BYTES_MAX, "U8", (1,)), b"x")]
    with pytest.raises(LimitExceeded):
        encode_sample(NOTE, long_name)


def test_nothing_leaves_where_nobody_says_so() -> None:
    (field,) = [one for one in msgspec.structs.fields(Order) if one.name == "samples"]
    assert field.default_factory() == {}
    assert not SamplePolicy().on
    assert not SamplePolicy(bytes_per_day=1).on
    assert not SamplePolicy(reasons=("random",)).on
    assert SamplePolicy(bytes_per_day=1, reasons=("random",)).on
