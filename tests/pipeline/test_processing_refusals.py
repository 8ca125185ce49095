"""Steps that do not fit a model: which code, and the next step; nothing large is made."""

import pytest

from edgectl_server.pipeline.errors import PipelineRefused
from pipeline import crafted
from pipeline.processed import add, steps_of, through

PICTURE = {"datatype": "UINT8", "layout": "NHWC", "shape": ["N", 48, 64, 3]}


def entry(steps, **fields):
    return PICTURE | {"steps": steps} | fields


def refusal(model, **entries):
    with pytest.raises(PipelineRefused) as caught:
        add(model, steps_of(**entries))
    error = caught.value
    assert error.detail.endswith(".")
    assert error.hint.endswith(".")
    return error


@pytest.mark.parametrize(
    ("steps", "fields", "code", "says"),
    [
        ([{"do": "scale"}], {"tensor": "nobody"}, "processing.tensor", "'nobody'"),
        ([{"do": "layout", "to": "NCHW"}], {}, "processing.datatype", "UINT8 NCHW [N, 3, 48, 64]"),
        ([{"do": "scale"}], {}, "processing.shape", "[N, 48, 64, 3]"),
        ([{"do": "resize", "height": 32, "width": 32}], {}, "processing.shape", "antialias"),
        ([{"do": "resize", "height": 9, "width": 9}], {"layout": "NTCF"},
         "processing.shape", "N, H, W"),
        ([{"do": "crop", "height": 49, "width": 9}], {}, "processing.shape", "49x9"),
        ([{"do": "crop", "height": 4, "width": 9}], {"layout": "NTCF"}, "processing.shape", "4x9"),
        ([{"do": "layout", "to": "NCW"}], {}, "processing.shape", "NCW"),
        ([{"do": "layout", "to": "NHW"}], {}, "processing.shape", "NHW"),
        ([{"do": "normalize", "mean": [1, 2], "std": [1, 2]}], {},
         "processing.shape", "axis C has 3"),
        ([{"do": "normalize", "mean": [1, 2], "std": 1}], {"layout": "NHWT"},
         "processing.shape", "no axis C or F"),
        ([{"do": "window", "length": 3, "hop": 1}], {}, "processing.shape", "axis T"),
        ([{"do": "window", "length": 49, "hop": 1}], {"layout": "NTWC"},
         "processing.shape", "0 windows"),
        ([{"do": "window", "length": 1, "hop": 1}],
         {"layout": "NTC", "shape": ["N", 2000, 3]}, "processing.shape", "2000 windows"),
        ([{"do": "log_mel", "rate": 8000, "frame": 99, "hop": 9, "bands": 4}], {},
         "processing.shape", "axes NT"),
        ([{"do": "log_mel", "rate": 8000, "frame": 99, "hop": 9, "bands": 4}],
         {"layout": "NT", "shape": ["N", 98]}, "processing.shape", "at least 99"),
        ([{"do": "scale"}], {"shape": ["N", 8192, 8192, 3]}, "processing.limit", "elements"),
        ([{"do": "resize", "height": 8192, "width": 8192}], {}, "processing.limit", "elements"),
        ([{"do": "window", "length": 2**20, "hop": 2048}],
         {"layout": "NT", "shape": ["N", 2**21]}, "processing.limit", "constants"),
    ],
)  # fmt: skip
def test_inputs(steps, fields, code, says):
    model = through(("N", 3, 32, 32))
    error = refusal(model, input=[entry(steps, **fields)])
    assert error.code == code
    assert says in error.detail + error.hint


def test_what_an_opset_cannot_do():
    free = {"shape": ["N", -1, -1, 3]}
    shrink = [{"do": "resize", "height": 8, "width": 8, "antialias": True}]
    for opset, needed, antialias in ((17, 18, True), (9, 11, False), (9, 18, True)):
        steps = [shrink[0] | {"antialias": antialias}]
        error = refusal(through(("N", 8, 8, 3), opset=opset), input=[entry(steps, **free)])
        assert error.code == "processing.opset"
        assert f"opset_version={needed}" in error.hint
    sound = {"do": "log_mel", "rate": 8000, "frame": 256, "hop": 80, "bands": 4}
    fields = {"datatype": "FP32", "layout": "NT", "shape": ["N", 800]}
    error = refusal(through(("N", 7, 4), opset=16), input=[entry([sound], **fields)])
    assert error.code == "processing.opset"


def test_a_large_matrix_is_refused_before_it_is_made():
    """4096 by 8192 weights a side are 256 MB; nothing of it is needed to say no."""
    step = {"do": "resize", "height": 1, "width": 4096, "antialias": True}
    fields = {"layout": "NHW", "shape": ["N", 1, 8192]}
    error = refusal(through(("N", 1, 4096), opset=13), input=[entry([step], **fields)])
    assert error.code == "processing.limit"
    assert "opset_version=18" in error.hint


def test_the_batch_is_the_models():
    model = through((1, 3))
    fields = {"datatype": "FP32", "layout": "NF", "steps": [{"do": "scale", "multiply": 2}]}
    assert "1 as the first size" in refusal(model, input=[fields | {"shape": ["N", 3]}]).hint
    assert add(model, steps_of(input=[fields | {"shape": [1, 3]}])).lines


def test_windows_need_the_batch_and_all_inputs():
    window = [{"do": "window", "length": 4, "hop": 2}]
    fields = {"datatype": "FP32", "layout": "NT", "shape": ["N", 10]}
    assert refusal(through((1, 4)), input=[fields | {"shape": [1, 10], "steps": window}])
    twice = [{"do": "window", "length": 8, "hop": 1}, *window]
    assert "once" in refusal(through(("N", 4)), input=[fields | {"steps": twice}]).detail
    pair = crafted.build(
        [crafted.helper.make_node("Add", ["x", "z"], ["y"])],
        inputs=[
            crafted.helper.make_tensor_value_info(name, crafted.FLOAT, ("N", 4)) for name in "xz"
        ],
        output=("N", 4),
    )
    one = [fields | {"tensor": "x", "steps": window}]
    assert "[0, 4]" in refusal(pair, input=one).detail
    assert add(pair, steps_of(input=[*one, fields | {"tensor": "z", "steps": window}])).lines
    whole = through(("N", 4), output=("N", "M"))
    whole.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "M"
    assert add(whole, steps_of(input=[fields | {"steps": window}])).lines, "inference knows better"


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"output": [{"tensor": "q", "steps": [{"do": "softmax"}]}]}, "'q'"),
        ({"output": [{"steps": [{"do": "softmax"}]}, {"steps": [{"do": "argmax"}]}]}, "'y'"),
        ({"output": [{"name": "x", "steps": [{"do": "softmax"}]}]}, "'x' is taken"),
        ({"output": [{"name": "h", "steps": [{"do": "softmax"}]}]}, "'h' is taken"),
        ({"output": [{"name": "w", "steps": [{"do": "softmax"}]}]}, "'w' is taken"),
        ({"output": [{"name": "p", "steps": [{"do": "top_k", "k": 2, "indices": "p"}]}]},
         "'p' is taken"),
        ({"input": [{"name": "y", "datatype": "FP32", "layout": "NF", "shape": ["N", 8],
                     "steps": [{"do": "scale"}]}]}, "'y' is taken"),
        ({"input": [{"datatype": "FP32", "layout": "NF", "shape": ["N", 8],
                     "steps": [{"do": "scale"}]}] * 2}, "Two entries"),
    ],
)  # fmt: skip
def test_names(entries, says):
    error = refusal(crafted.dense(scores=False), **entries)
    assert error.code == "processing.tensor"
    assert says in error.detail


def test_which_of_several_has_to_be_said():
    model = crafted.build(
        [
            crafted.helper.make_node("Relu", ["x"], ["y"]),
            crafted.helper.make_node("Neg", ["x"], ["z"]),
        ],
        outputs=[
            crafted.helper.make_tensor_value_info(name, crafted.FLOAT, ("N", 3)) for name in "yz"
        ],
    )
    error = refusal(model, output=[{"name": "p", "steps": [{"do": "softmax"}]}])
    assert "'y', 'z'" in error.hint
    error = refusal(model, output=[{"steps": [{"do": "softmax"}]}])
    assert "for which output" in error.detail
    assert add(model, steps_of(output=[{"name": "z", "steps": [{"do": "softmax"}]}])).lines
