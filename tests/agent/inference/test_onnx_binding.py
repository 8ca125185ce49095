"""Bound memory gives what the session's own run gives, to whoever asks, or nothing."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgectl_agent.onnx_binding import BOUND_BYTES_MAX, bind, row_of
from edgectl_agent.onnx_session import OnnxSession
from edgectl_agent.session import Node, RunFailed, Stop

from .models import HAR, activity, save_model, tensor

FLOAT, INT64, BOOL, DOUBLE = (
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.BOOL,
    TensorProto.DOUBLE,
)
PAIR = ("sum", "greater")


@pytest.fixture
def pair(tmp_path):
    """A model of two inputs and two outputs, of different types, with an open size."""
    return save_model(
        tmp_path / "pair.onnx",
        [
            helper.make_node("Cast", ["b"], ["c"], to=FLOAT),
            helper.make_node("Add", ["a", "c"], ["sum"]),
            helper.make_node("Greater", ["a", "c"], ["greater"]),
        ],
        [tensor("a", FLOAT, ["n", 8]), tensor("b", INT64, ["n", 8])],
        [tensor("sum", FLOAT, ["n", 8]), tensor("greater", BOOL, ["n", 8])],
    )


def pair_inputs(seed, rows=1):
    random = np.random.default_rng(seed)
    return {
        "a": random.standard_normal((rows, 8)).astype(np.float32),
        "b": random.integers(-2, 3, (rows, 8)),
    }


def plain(model):
    return onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])


def bound_of(model, outputs, inputs):
    session = plain(model)
    return session, bind(session, outputs, inputs, session.run(outputs, inputs))


def assert_same(got, wanted):
    assert [array.dtype for array in got] == [array.dtype for array in wanted]
    assert [array.shape for array in got] == [array.shape for array in wanted]
    assert [array.tobytes() for array in got] == [array.tobytes() for array in wanted]


def test_every_run_gives_what_the_sessions_own_gives(pair):
    session, bound = bound_of(pair, PAIR, pair_inputs(0))
    for seed in range(50):
        inputs = pair_inputs(seed)
        assert_same(bound(PAIR, inputs), session.run(PAIR, inputs))


def test_what_was_given_before_is_neither_changed_nor_kept(pair):
    _, bound = bound_of(pair, PAIR, pair_inputs(0))
    inputs = pair_inputs(1)
    outputs = bound(PAIR, inputs)
    before = [array.copy() for array in (*inputs.values(), *outputs)]
    kept = weakref.ref(inputs["a"])
    bound(PAIR, pair_inputs(2))
    assert_same([*inputs.values(), *outputs], before)
    del inputs
    assert kept() is None


def test_not_a_number_and_infinity_pass_as_they_are(pair):
    session, bound = bound_of(pair, PAIR, pair_inputs(0))
    inputs = pair_inputs(1)
    inputs["a"][0, :3] = np.nan, np.inf, -np.inf
    assert_same(bound(PAIR, inputs), session.run(PAIR, inputs))


@pytest.mark.parametrize(
    "change",
    [
        lambda inputs: pair_inputs(3, rows=2),
        lambda inputs: {**inputs, "a": inputs["a"].astype(np.float64)},
        lambda inputs: {**inputs, "a": inputs["a"].astype(">f4")},
        lambda inputs: {**inputs, "a": inputs["a"].reshape(8)},
        lambda inputs: {**inputs, "more": inputs["a"]},
        lambda inputs: {"a": inputs["a"]},
    ],
    ids=["rows", "datatype", "byte order", "dimensions", "one more", "one less"],
)
def test_inputs_that_do_not_fit_are_left_to_the_session(pair, change):
    _, bound = bound_of(pair, PAIR, pair_inputs(0))
    assert bound(PAIR, change(pair_inputs(1))) is None
    assert bound(PAIR, pair_inputs(1)) is not None


def test_other_outputs_are_left_to_the_session(pair):
    _, bound = bound_of(pair, PAIR, pair_inputs(0))
    assert bound(PAIR[::-1], pair_inputs(1)) is None
    assert bound(PAIR[:1], pair_inputs(1)) is None


def test_a_view_with_gaps_is_read_as_it_is(pair):
    session, bound = bound_of(pair, PAIR, pair_inputs(0))
    inputs = pair_inputs(1)
    inputs["a"] = np.repeat(inputs["a"], 2, axis=1)[:, ::2]
    assert not inputs["a"].flags.c_contiguous
    assert_same(bound(PAIR, inputs), session.run(PAIR, inputs))


def test_threads_do_not_get_each_others_outputs(pair):
    session = OnnxSession(str(pair), 1)
    session.run(PAIR, pair_inputs(0), None)
    wanted = [plain(pair).run(PAIR, pair_inputs(seed)) for seed in range(4)]
    together = threading.Barrier(4)

    def ask(seed):
        inputs = pair_inputs(seed)
        together.wait(30)
        return [session.run(PAIR, inputs, None) for _ in range(500)]

    with ThreadPoolExecutor(4) as threads:
        for seed, answers in enumerate(threads.map(ask, range(4))):
            for answer in answers:
                assert_same(answer, wanted[seed])


def test_memory_goes_with_the_session_without_a_collection(pair):
    gc.disable()
    try:
        session, bound = bound_of(pair, PAIR, pair_inputs(0))
        gone = weakref.ref(session)
        del session, bound
        assert gone() is None
    finally:
        gc.enable()


def test_outputs_of_another_shape_give_the_memory_up_not_the_answer(tmp_path, capfd):
    model = save_model(
        tmp_path / "nonzero.onnx",
        [helper.make_node("NonZero", ["a"], ["where"])],
        [tensor("a", FLOAT, ["n", 4])],
        [tensor("where", INT64, [2, "found"])],
    )
    session = OnnxSession(str(model), 1)
    for row in ([1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1], [1, 0, 1, 0]):
        (where,) = session.run(("where",), {"a": np.array([row], np.float32)}, None)
        assert where.tolist() == [list(part) for part in np.nonzero([row])]
    assert capfd.readouterr().err.count("[E:onnxruntime") == 1, "it fails once, not every time"


def test_an_input_that_makes_the_model_fail_fails_and_the_next_one_does_not(tmp_path):
    model = save_model(
        tmp_path / "gather.onnx",
        [helper.make_node("Gather", ["table", "at"], ["found"])],
        [tensor("at", INT64, ["n"])],
        [tensor("found", FLOAT, ["n"])],
        [helper.make_tensor("table", FLOAT, [3], [5, 6, 7])],
    )
    session = OnnxSession(str(model), 1)
    for _ in range(3):
        for at in range(3):
            assert session.run(("found",), {"at": np.array([at])}, None)[0].tolist() == [5 + at]
        with pytest.raises(RunFailed, match="out of data bounds"):
            session.run(("found",), {"at": np.array([3])}, None)


def test_a_run_that_may_be_ended_is_ended(pair):
    session = OnnxSession(str(pair), 1)
    for _ in range(2):
        session.run(PAIR, pair_inputs(0), None)
    stop = Stop()
    stop.set()
    with pytest.raises(RunFailed):
        session.run(PAIR, pair_inputs(0), stop)


def test_wrong_datatypes_are_refused_as_before(pair):
    session = OnnxSession(str(pair), 1)
    for _ in range(2):
        session.run(PAIR, pair_inputs(0), None)
    wrong = {**pair_inputs(0), "a": np.zeros((1, 8))}
    with pytest.raises(RunFailed, match="Unexpected input data type"):
        session.run(PAIR, wrong, None)


def test_a_model_that_does_not_repeat_itself_is_not_bound(tmp_path):
    model = save_model(
        tmp_path / "random.onnx",
        [helper.make_node("RandomNormalLike", ["a"], ["noise"])],
        [tensor("a", FLOAT, [1, 4])],
        [tensor("noise", FLOAT, [1, 4])],
    )
    _, bound = bound_of(model, ("noise",), {"a": np.zeros((1, 4), np.float32)})
    assert bound is None


def test_an_output_that_is_an_input_is_written(tmp_path):
    model = save_model(
        tmp_path / "same.onnx",
        [helper.make_node("Identity", ["a"], ["same"])],
        [tensor("a", DOUBLE, [1, 4])],
        [tensor("same", DOUBLE, [1, 4])],
    )
    session = OnnxSession(str(model), 1)
    for number in range(4):
        given = np.full((1, 4), number, np.float64)
        assert_same(session.run(("same",), {"a": given}, None), [given])


def test_large_outputs_are_not_bound(tmp_path):
    model = save_model(
        tmp_path / "wide.onnx",
        [helper.make_node("Expand", ["a", "shape"], ["wide"])],
        [tensor("a", FLOAT, [1, 1])],
        [tensor("wide", FLOAT, [1, BOUND_BYTES_MAX // 4])],
        [helper.make_tensor("shape", INT64, [2], [1, BOUND_BYTES_MAX // 4])],
    )
    _, bound = bound_of(model, ("wide",), {"a": np.ones((1, 1), np.float32)})
    assert bound is None


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (Node("a", "FP32", (None, 4)), (1, 4)),
        (Node("a", "FP32", (1, BOUND_BYTES_MAX // 4)), (1, BOUND_BYTES_MAX // 4)),
        (Node("a", "FP32", (1, BOUND_BYTES_MAX // 4 + 1)), None),
        (Node("a", "FP32", None), None),
        (Node("a", "BYTES", (1, 4)), None),
        (Node("a", "seq(tensor(float))", (1, 4)), None),
    ],
)
def test_memory_is_bound_for_small_rows_of_numbers(node, shape):
    assert row_of((node,)) == (None if shape is None else {"a": shape})


def test_a_real_model_answers_the_same_in_every_mix_of_rows():
    windows = activity()[0][:24].astype(np.float32)
    session, own = OnnxSession(str(HAR), 1), plain(HAR)
    (output,) = (node.name for node in session.outputs)
    (name,) = (node.name for node in session.inputs)
    for begin, rows in ((0, 2), (2, 1), (3, 1), (4, 3), (7, 1), (8, 16), (0, 1)):
        inputs = {name: windows[begin : begin + rows]}
        assert_same(session.run((output,), inputs, None), own.run((output,), inputs))
