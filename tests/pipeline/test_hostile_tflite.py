"""Damaged, twisted and crafted ``.tflite`` files: a code, in bounded time, and nothing left."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from benchmarks import hostile_models

from edgectl_server.pipeline import errors
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.spec import PipelineLimits
from edgectl_server.pipeline.tflite_checks import check_tflite
from pipeline import crafted_tflite

MODELS = Path(__file__).parents[1] / "data" / "tflite"
COUNT, SEED = 40, 5
LIMITS = PipelineLimits()


def test_the_model_that_the_crafted_ones_are_changes_of_is_sound(tmp_path: Path) -> None:
    """What refuses everything would pass the tests below."""
    content = crafted_tflite.adder()
    facts = check_tflite(content, LIMITS)
    assert (facts.inputs[0].name, facts.outputs, facts.parameters) == ("x", ("y",), 4)
    samples = tmp_path / "x.npz"
    np.savez(samples, x=np.eye(4, dtype=np.float32))
    one = hostile_models.Mutated("none", content, samples)
    assert hostile_models.give(one, tmp_path).code == "accepted"


@pytest.mark.parametrize(
    ("content", "code"),
    [(content, code) for _, content, code in crafted_tflite.HOSTILE],
    ids=[name for name, _, _ in crafted_tflite.HOSTILE],
)
def test_crafted_models_end_with_their_code(content: bytes, code: str) -> None:
    began = time.monotonic()
    with pytest.raises(PipelineRefused) as caught:
        check_tflite(content, LIMITS)
    assert caught.value.code == code
    assert caught.value.hint
    assert f"``{code}``" in (errors.__doc__ or "")
    assert time.monotonic() - began < 30


def test_limits_are_those_of_the_settings() -> None:
    content = (MODELS / "mobilenet.tflite").read_bytes()
    facts = check_tflite(content, LIMITS)
    assert facts.nodes == 31
    for limits in (
        PipelineLimits(nodes_max=30),
        PipelineLimits(tensors_max=40),
        PipelineLimits(source_bytes_max=len(content) - 1),
    ):
        with pytest.raises(PipelineRefused) as caught:
            check_tflite(content, limits)
        assert caught.value.code in {"model.limit", "model.too_large"}


def test_mutated_files_are_refused_or_described() -> None:
    """In this process: nothing but a refusal ever comes out of the reader."""
    chance = random.Random(SEED)
    sources = [path.read_bytes() for path in sorted(MODELS.glob("hello*.tflite"))]
    codes: dict[str, int] = {}
    for _ in range(1500):
        change = chance.choice(hostile_models.OF_BYTES)
        content = change(chance.choice(sources), chance)
        try:
            check_tflite(content, LIMITS)
            code = "described"
        except PipelineRefused as error:
            code = error.code
        codes[code] = codes.get(code, 0) + 1
    assert set(codes) > {"described", "model.damaged", "model.limit", "model.shape"}, codes


def test_mutated_files_end_with_a_code_and_leave_nothing(tmp_path: Path) -> None:
    files = list(hostile_models.mutated_tflite(tmp_path, COUNT, SEED))
    me = psutil.Process()
    others = set(me.children(recursive=True))

    def give(number: int) -> hostile_models.Outcome:
        folder = tmp_path / str(number)
        folder.mkdir()
        return hostile_models.give(files[number], folder)

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(give, range(COUNT)))
    for one in outcomes:
        assert one.code == "accepted" or f"``{one.code}``" in (errors.__doc__ or ""), one
    found = {one.code for one in outcomes}
    assert found > {"model.damaged", "model.unsupported"}, "some reach the runtime"
    limit_s = hostile_models.LIMITS.wall_s + hostile_models.GRACE_S
    assert max(one.seconds for one in outcomes) < limit_s
    assert set(me.children(recursive=True)) - others == set()
