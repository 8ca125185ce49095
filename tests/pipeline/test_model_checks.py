"""Which model files are accepted, and with which code the others are refused."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgectl_server.pipeline import checks, errors
from edgectl_server.pipeline.checks import OPSET_MAX, OPSET_MIN, check_model, parse_model
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.spec import PipelineLimits
from pipeline import crafted

LIMITS = PipelineLimits()
DOCUMENTED = set(re.findall(r"``([a-z]+\.[a-z_]+)``", errors.__doc__ or ""))


def test_every_code_is_documented():
    used = set()
    for path in Path(errors.__file__).parent.glob("*.py"):
        used.update(
            re.findall(r'"((?:model|data|metric|processing|pipeline)\.[a-z_]+)"', path.read_text())
        )
    assert used - {"model.onnx", "metric.py"} == DOCUMENTED  # names of files


def refusal(content, limits=LIMITS):
    with pytest.raises(PipelineRefused) as caught:
        check_model(parse_model(content, limits), limits)
    error = caught.value
    assert error.detail.endswith((".", "…"))
    assert error.hint.endswith("."), "the next step is said"
    return error


def accept(model):
    content = model.SerializeToString()
    return check_model(parse_model(content, LIMITS), LIMITS)


def test_real_models_pass(activity, occupancy):
    content = (activity / "har_v1.onnx").read_bytes()
    facts = check_model(parse_model(content, LIMITS), LIMITS)
    assert (facts.opset, facts.nodes) == (17, 13)
    assert facts.parameters > 100_000
    assert [(spec.name, spec.datatype, spec.shape) for spec in facts.inputs] == [
        ("input", "FP32", (-1, 6, 128))
    ]
    for name in ("occ_mlp.onnx", "occ_rf.onnx"):
        model = parse_model((occupancy / name).read_bytes(), LIMITS)
        assert check_model(model, LIMITS).inputs[0].shape == (-1, 5)


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        pytest.param(b"", "model.not_onnx", "empty", id="empty"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "model.not_onnx", "PNG", id="png"),
        pytest.param(b"\x1c\0\0\0TFL3" + b"\0" * 64, "model.not_onnx", "TensorFlow", id="tflite"),
        pytest.param(b"PK\x03\x04" + b"\0" * 64, "model.not_onnx", "PyTorch", id="pytorch"),
        pytest.param(b"\x80\x04\x95" + b"\0" * 64, "model.not_onnx", "pickle", id="pickle"),
        pytest.param(b"hello, world\n" * 9, "model.not_onnx", "not an ONNX", id="text"),
        pytest.param(np.random.default_rng(1).bytes(5000), "model.not_onnx", "", id="noise"),
        pytest.param(b"\x08\x08", "model.not_onnx", "no ONNX graph", id="version-only"),
    ],
)
def test_other_files_are_named(content, code, says):
    error = refusal(content)
    assert error.code == code
    assert says in error.detail


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.9999])
def test_a_cut_model_is_damaged(activity, share):
    content = (activity / "har_v1.onnx").read_bytes()
    assert refusal(content[: int(len(content) * share)]).code == "model.damaged"


@pytest.mark.parametrize(
    ("build", "code"), crafted.HOSTILE, ids=lambda one: getattr(one, "__name__", one)
)
def test_hostile_models(build, code):
    assert refusal(build().SerializeToString()).code == code


def test_a_refusal_names_the_culprit():
    assert "com.evil::Evil" in refusal(crafted.custom_domain().SerializeToString()).detail
    assert "Frobnicate" in refusal(crafted.unknown_operator().SerializeToString()).detail
    error = refusal(crafted.external_initializer().SerializeToString())
    assert "'w'" in error.detail
    assert "../../../etc/passwd" in error.detail
    assert "save_as_external_data=False" in error.hint
    assert "zipmap" in refusal(crafted.sequence_output().SerializeToString()).hint


def test_contrib_and_ml_operators_are_accepted():
    contrib = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    assert accept(crafted.build([contrib], domains=("com.microsoft",))).nodes == 1


@pytest.mark.parametrize(
    ("opset", "fine"),
    [(OPSET_MIN - 1, False), (OPSET_MIN, True), (OPSET_MAX, True), (OPSET_MAX + 1, False)],
)
def test_opset_bounds(opset, fine):
    model = crafted.relu(opset=opset)
    if fine:
        assert accept(model).opset == opset
    else:
        assert refusal(model.SerializeToString()).code == "model.opset"


def test_an_ir_version_from_the_future_is_refused():
    model = crafted.relu()
    model.ir_version = onnx.IR_VERSION + 1
    assert refusal(model.SerializeToString()).code == "model.opset"


@pytest.mark.parametrize(
    ("shape", "fine"),
    [
        (("N", 3), True),
        ((1, 3), True),
        ((None, 3), True),
        ((2, 3), False),
        (("N", "T"), False),
        (("N", 0), False),
        ((), False),
        ((3,), False),
        (("N", *[1] * 8), False),
        (("N", 2**40), False),
    ],
)
def test_only_the_batch_may_be_free(shape, fine):
    model = crafted.relu(shape=shape, output=shape)
    if fine:
        assert accept(model).inputs[0].shape[0] == (1 if shape[0] == 1 else -1)
    else:
        error = refusal(model.SerializeToString())
        assert error.code == "model.shape"
        assert "'x'" in error.detail


def test_bounds_come_before_the_checker(monkeypatch):
    def never(*_):
        raise AssertionError("the checker saw a model out of bounds")

    monkeypatch.setattr(checks, "_run_checker", never)
    few = PipelineLimits(nodes_max=10, tensors_max=2, depth_max=3)
    tensors = tuple(crafted.constant(f"w{number}", np.zeros(1)) for number in range(3))
    for model in (crafted.chain(11), crafted.nested(4), crafted.relu(initializers=tensors)):
        assert refusal(model.SerializeToString(), few).code == "model.limit"
    with pytest.raises(AssertionError, match="out of bounds"):
        check_model(parse_model(crafted.chain(10).SerializeToString(), few), few)
    small = PipelineLimits(source_bytes_max=100)
    refused = refusal(crafted.chain(10).SerializeToString(), small)
    assert refused.code == "model.too_large"
    assert refused.detail == "The model is larger than 100 bytes."


@pytest.mark.parametrize("name", [b"Relu", b"xxxx", b"yyyy", b"NNNN", b"wwww", b"dddd"])
def test_a_name_that_is_no_text_is_damage(name):
    relu = helper.make_node("Relu", ["xxxx"], ["yyyy"])
    model = crafted.build(
        [relu],
        initializers=(crafted.constant("wwww", np.zeros(3, np.float32)),),
        inputs=[helper.make_tensor_value_info("xxxx", TensorProto.FLOAT, ("NNNN", 3))],
        outputs=[helper.make_tensor_value_info("yyyy", TensorProto.FLOAT, ("NNNN", 3))],
        domains=("dddd",),
    )
    content = model.SerializeToString()
    assert name in content
    assert refusal(content.replace(name, b"\xff\xfe\xfd\xfc")).code == "model.damaged"


def test_an_overridable_initializer_is_no_input():
    model = crafted.build(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        initializers=(crafted.constant("w", np.zeros(3, np.float32)),),
        inputs=[
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3)),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, (3,)),
        ],
    )
    assert [spec.name for spec in accept(model).inputs] == ["x"]


@st.composite
def mutations(draw, length, near_ends):
    """Overwritten, removed and inserted bytes, most of them where the structure is."""
    edits = []
    for _ in range(draw(st.integers(1, 6))):
        position = draw(
            st.one_of(
                st.integers(0, near_ends),
                st.integers(length - near_ends, length - 1),
                st.integers(0, length - 1),
            )
        )
        edits.append((position, draw(st.integers(0, 3)), draw(st.binary(max_size=4))))
    return edits


@pytest.mark.parametrize("name", ["activity/har_v1.onnx", "occupancy/occ_mlp.onnx"])
def test_a_mutated_model_is_accepted_or_refused(activity, occupancy, name):
    folder = activity if name.startswith("activity") else occupancy
    original = (folder / name.split("/")[1]).read_bytes()
    seen = set()

    @settings(
        max_examples=1000,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutations(len(original), 1500))
    def check(edits):
        content = bytearray(original)
        for position, removed, inserted in edits:
            content[position : position + removed] = inserted
        try:
            check_model(parse_model(bytes(content), LIMITS), LIMITS)
        except PipelineRefused as error:
            assert error.code in DOCUMENTED  # noqa: PT017
            seen.add(error.code)

    check()
    assert len(seen) >= 3, f"the mutations reach too little: {seen}"
