"""Requests that wait for the same model are computed as one; each gets its own rows."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from agent.inference.models import Client, make_bundle, save_model, tensor
from agent.inference.scoring import scoring
from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.batching import is_batchable, join, joinable, rows_of, split
from edgectl_agent.inference.connection import Answer, Request
from edgectl_agent.inference.options import Options
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.inference.routes import Routes
from edgectl_agent.inference.service import Service
from edgectl_agent.inference.slots import Slots
from edgectl_agent.runtime import Stop, Tensor


def request(rows: Sequence[Sequence[float]], name: str = "scoring") -> Request:
    made = Request()
    made.method, made.url = b"POST", f"/v2/models/{name}/infer".encode()
    shape = [len(rows), len(rows[0]) if rows else 0]
    data = [value for row in rows for value in row]
    given = {"name": "x", "shape": shape, "datatype": "FP32", "data": data}
    made.body = json.dumps({"inputs": [given]}).encode()
    return made


class Held:
    """A service on a worker that is held up until all requests wait."""

    def __init__(self, rows_max: int) -> None:
        self.slots, self.worker = Slots(), ThreadPoolExecutor(1)
        self.service = Service(self.slots, self.worker, batch_rows_max=rows_max)
        self.routes = Routes(self.service)
        self.sizes: list[int] = []

    async def load(self, bundle: Bundle) -> None:
        await self.slots.load([bundle], time.monotonic() + 60, hung=[bundle.manifest])
        served = self.slots.get(bundle.slot)
        assert served is not None
        self.served = served
        model: Any = served.model
        right = model.run

        def run(inputs: Mapping[str, Tensor], stop: Stop | None = None) -> dict[str, Tensor]:
            self.sizes.append(len(inputs["x"]))
            return dict(right(inputs, stop))

        model.run = run

    async def ask(self, *requests: Request) -> list[Answer]:
        go = threading.Event()
        self.worker.submit(go.wait, 60)
        futures = [self.routes(one) for one in requests]
        go.set()
        answers = []
        for one in futures:
            assert isinstance(one, asyncio.Future)
            answers.append(await asyncio.wait_for(one, 30))
        return answers


def values(answer: Answer) -> list[float]:
    assert answer.status == 200, answer.body
    found: list[float] = json.loads(answer.body)["outputs"][0]["data"]
    return found


def test_each_gets_its_own_rows(tmp_path: Path) -> None:
    async def run() -> None:
        held = Held(rows_max=8)
        await held.load(scoring(tmp_path, "1", factor=2.0))
        rows = [[[float(n), 1.0, 2.0]] * (1 + n % 3) for n in range(6)]
        answers = await held.ask(*map(request, rows))
        for sent, answer in zip(rows, answers, strict=True):
            assert values(answer) == [2 * value for row in sent for value in row]
        assert held.sizes == [1 + 2 + 3 + 1, 2 + 3], "as many as fit, in order"
        seen = held.slots.health("scoring")
        assert (seen.requests, sum(seen.latency)) == (6, 6), "each is counted"
        assert sum(seen.classes) == 12
        assert len(held.served.waiting) == 0

    asyncio.run(run())


def test_one_larger_than_a_batch_is_computed_alone(tmp_path: Path) -> None:
    async def run() -> None:
        held = Held(rows_max=4)
        await held.load(scoring(tmp_path, "1"))
        await held.ask(request([[1.0, 2.0, 3.0]]), request([[1.0, 2.0, 3.0]] * 9))
        assert held.sizes == [1, 9]

    asyncio.run(run())


def test_what_is_outside_the_contract_takes_nobody_with_it(tmp_path: Path) -> None:
    async def run() -> None:
        held = Held(rows_max=8)
        await held.load(scoring(tmp_path, "1"))
        good, bad = request([[1.0, 2.0, 3.0]]), request([[1.0, 2.0]])
        answers = await held.ask(good, bad, good)
        assert [one.status for one in answers] == [200, 400, 200]
        assert held.sizes == [2]

    asyncio.run(run())


def picky_bundle(directory: Path) -> Bundle:
    """Looks up its first input in a table of three: 7 is outside it, and fails the whole run."""
    model = save_model(
        directory / "picky.onnx",
        [
            helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "whole"], ["y"]),
        ],
        [tensor("x", TensorProto.FLOAT, ["rows", 1])],
        [tensor("y", TensorProto.FLOAT, ["rows", 1])],
        [helper.make_tensor("table", TensorProto.FLOAT, [3], [10.0, 20.0, 30.0])],
    )
    one = np.ones((1, 1), np.float32)
    return make_bundle(
        directory,
        model,
        slot="picky",
        golden_inputs={"x": one},
        golden_outputs={"y": one * 20},
    )


def test_one_that_fails_the_run_fails_alone(tmp_path: Path) -> None:
    async def run() -> None:
        held = Held(rows_max=8)
        await held.load(picky_bundle(tmp_path))
        answers = await held.ask(*(request([[n]], "picky") for n in (0.0, 7.0, 2.0)))
        assert [one.status for one in answers] == [200, 500, 200]
        assert (values(answers[0]), values(answers[2])) == ([10.0], [30.0])
        seen = held.slots.health("picky")
        assert (seen.requests, seen.errors) == (3, 1)
        assert held.sizes == [3, 1, 1, 1]

    asyncio.run(run())


def mixing_bundle(directory: Path) -> Bundle:
    """Claims a row for each row, and gives a single one."""
    model = save_model(
        directory / "mixing.onnx",
        [helper.make_node("ReduceSum", ["x", "axis"], ["y"], keepdims=1)],
        [tensor("x", TensorProto.FLOAT, ["rows", 1])],
        [tensor("y", TensorProto.FLOAT, ["sums", 1])],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [0])],
    )
    one = np.ones((1, 1), np.float32)
    return make_bundle(
        directory, model, slot="mixing", golden_inputs={"x": one}, golden_outputs={"y": one}
    )


def test_a_model_that_mixes_rows_is_found_by_their_number(tmp_path: Path) -> None:
    async def run() -> None:
        held = Held(rows_max=8)
        await held.load(mixing_bundle(tmp_path))
        answers = await held.ask(*(request([[n]], "mixing") for n in (1.0, 2.0)))
        assert [values(one) for one in answers] == [[1.0], [2.0]]

    asyncio.run(run())


def test_off_unless_asked_for(tmp_path: Path) -> None:
    async def run() -> None:
        held = Held(rows_max=1)
        await held.load(scoring(tmp_path, "1"))
        await held.ask(*[request([[1.0, 2.0, 3.0]])] * 3)
        assert held.sizes == [1, 1, 1]

    asyncio.run(run())


def test_in_a_real_process(tmp_path: Path) -> None:
    """A large model, several clients at once, and a swap in between: everybody gets an answer."""
    process = InferenceProcess(
        host="127.0.0.1", port=0, socket=None, options=Options(batch_rows_max=16)
    )
    process.start()
    try:
        process._hung_models.update(  # so that it computes on the worker thread
            scoring(tmp_path, version, factor=2.0).manifest for version in ("1", "2")
        )
        process.load(scoring(tmp_path, "1", factor=2.0))
        wrong: list[object] = []

        def work(number: int) -> None:
            client = Client(process.endpoint)
            for turn in range(60):
                x = [float(number), float(turn), 1.0]
                given = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": x}
                status, answer = client.call(
                    "POST", "/v2/models/scoring/infer", {"inputs": [given]}
                )
                if status != 200 or answer["outputs"][0]["data"] != [2 * one for one in x]:
                    wrong.append(answer)
            client.close()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        process.load(scoring(tmp_path, "2", factor=2.0))
        for thread in threads:
            thread.join(60)
        assert not wrong, wrong[:2]
        assert sum(window.requests for window in process.windows()) == 6 * 60
    finally:
        process.stop()


# ---------------------------------------------------------------- pure parts


@given(rows=st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_joined_and_split_is_what_it_was(rows: list[int]) -> None:
    numbers = iter(range(1000))
    requests = [
        {"x": np.array([[next(numbers)] * 2 for _ in range(count)], np.float32)} for count in rows
    ]
    assert all(joinable(requests[0], other) for other in requests)
    assert [rows_of(one) for one in requests] == rows
    parts = split(join(requests), rows)
    assert parts is not None
    for one, part in zip(requests, parts, strict=True):
        assert np.array_equal(one["x"], part["x"])


def test_strings_and_shapes() -> None:
    words = [{"x": np.array([["a"], ["ü"]], object)}, {"x": np.array([[""]], object)}]
    parts = split(join(words), [2, 1])
    assert parts is not None
    assert [part["x"].ravel().tolist() for part in parts] == [["a", "ü"], [""]]
    assert not joinable({"x": np.zeros((1, 2))}, {"x": np.zeros((1, 3))})
    assert rows_of({"x": np.zeros((1, 2)), "z": np.zeros((2, 2))}) is None
    assert split({"y": np.array(1.0)}, [1]) is None


@pytest.mark.parametrize(
    ("inputs", "outputs", "is_one"),
    [([-1, 3], [-1, 3], True), ([1, 3], [-1, 3], False), ([-1, 3], [1], False), ([], [-1], False)],
)
def test_whose_rows_are_free(
    tmp_path: Path, *, inputs: list[int], outputs: list[int], is_one: bool
) -> None:
    config = scoring(tmp_path, "1").config
    x, y = config.inputs[0], config.outputs[0]
    changed = msgspec.structs.replace(
        config,
        inputs=(msgspec.structs.replace(x, shape=tuple(inputs)),),
        outputs=(msgspec.structs.replace(y, shape=tuple(outputs)),),
    )
    assert is_batchable(changed) is is_one
