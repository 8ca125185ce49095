"""The steps of `redact`: what they do, what they refuse, and that nothing gets round them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgectl_agent.errors import UsageError
from edgectl_agent.redaction_steps import (
    StepsRefused,
    parse_steps,
    redact_tensors,
    split_command,
)
from edgectl_protocol.samples import SampleTensor

X = np.array([[1.26, 2.5, -3.7, np.nan], [5, 6, 7, 8]], "<f4")
TYPES = {"f4": "F32", "i2": "I16", "u1": "U8", "i8": "I64", "b1": "BOOL", "f2": "F16"}


def redacted(steps: str, model: str = "har", **arrays: Any) -> dict[str, Any]:
    given = {"input.x": X} | {name.replace("_", "."): one for name, one in arrays.items()}
    tensors = [
        (SampleTensor(name, TYPES[array.dtype.str[1:]], array.shape), array.tobytes())
        for name, array in given.items()
    ]
    found = redact_tensors(model, tensors, parse_steps(steps))
    return {
        tensor.name: np.frombuffer(content, given[tensor.name].dtype).reshape(tensor.shape)
        for tensor, content in found
    }


def test_columns_become_zero_and_the_rest_stays() -> None:
    np.testing.assert_array_equal(redacted("zero input.x")["input.x"], np.zeros((2, 4)))
    found = redacted("zero input.x[1:3] # the place")["input.x"]
    np.testing.assert_array_equal(found[:, [1, 2]], np.zeros((2, 2)))
    np.testing.assert_array_equal(found[:, [0, 3]], X[:, [0, 3]])
    np.testing.assert_array_equal(redacted("keep input.*")["input.x"], X)


def test_numbers_are_rounded_to_multiples() -> None:
    found = redacted("round input.x 0.5\nzero input.x[0]")["input.x"]
    np.testing.assert_array_equal(found[0], np.array([0, 2.5, -3.5, np.nan], "<f4"))
    whole = np.array([-32768, 32767, 14, 15], "<i2")
    found = redacted("keep input.x; round input.n 10", input_n=whole)["input.n"]
    np.testing.assert_array_equal(found, [-32768, 32767, 10, 20])
    large = np.array([2**63 - 1, -(2**63)], "<i8")
    found = redacted("keep input.x; round input.n 1000", input_n=large)["input.n"]
    assert abs(int(found[0]) - 2**63) <= 2048
    assert int(found[1]) == -(2**63)


@pytest.mark.parametrize(
    ("steps", "more"),
    [
        ("zero input.y", {}),
        ("zero input.x", {"output_y": X}),
        ("kws: zero input.x", {}),
        ("zero input.x[4]", {}),
        ("zero input.x[2:5]", {}),
        ("keep input.x; zero input.s[0]", {"input_s": np.array(1, "<f4")}),
        ("keep input.x; round input.b 1", {"input_b": np.array([True], "|b1")}),
    ],
)
def test_what_is_not_covered_is_dropped(steps: str, more: dict[str, Any]) -> None:
    """A model under another name, or with another tensor, gets round nothing."""
    with pytest.raises(StepsRefused):
        redacted(steps, **more)


def test_a_step_for_one_model_does_nothing_to_another() -> None:
    steps = "har: zero input.x; kws: keep input.x"
    assert not redacted(steps, "har")["input.x"].any()
    np.testing.assert_array_equal(redacted(steps, "kws")["input.x"], X)


@pytest.mark.parametrize(
    "text",
    [
        "blur input.x", "zero x", "zero input.x[3", "zero input.x[3:3]", "zero input.x[a]",
        "round input.x", "round input.x 0", "round input.x -1", "round input.x inf",
        "zero input.x 5", "har zero input.x", "zero", "keep input.x;" * 65, "round input.x 1e999",
        "round input.x .",
    ],
)  # fmt: skip
def test_a_line_that_is_no_step_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_steps(text)
    assert caught.value.code == "settings.value"


def test_a_command_is_split_as_by_a_shell_and_named_whole() -> None:
    assert split_command("") == ()
    assert split_command("/usr/bin/blur --most '3 px'") == ("/usr/bin/blur", "--most", "3 px")
    for text in ("blur", "./blur", "/usr/bin/blur 'open"):
        with pytest.raises(UsageError):
            split_command(text)
