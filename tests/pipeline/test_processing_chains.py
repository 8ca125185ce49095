"""Chains of steps at random: right where they fit, refused with a code where they do not."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgectl_server.pipeline.errors import PipelineRefused
from pipeline import crafted, references
from pipeline.processed import add, answer, in_front, picture, steps_of

OPSETS = [7, 10, 11, 13, 17, 18, 20, 23]
slow = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@st.composite
def chains(draw):
    """Steps for pictures with what NumPy makes of them, one after the other."""
    axes = draw(st.sampled_from(["NHWC", "NCHW", "NHW"]))
    sizes = {"N": 2, "H": draw(st.integers(2, 9)), "W": draw(st.integers(2, 9)), "C": 3}
    array = picture(draw(st.integers(0, 99)), *(sizes[axis] for axis in axes))
    begin, steps = (array, axes), []
    for _ in range(draw(st.integers(1, 6))):
        do = draw(st.sampled_from(["resize", "crop", "layout", "scale", "normalize", "clip"]))
        height, width = (array.shape[axes.index(letter)] for letter in "HW")
        step = {"do": do}
        if do == "resize":
            step |= {"height": draw(st.integers(1, 9)), "width": draw(st.integers(1, 9))}
            step["antialias"] = draw(st.booleans())
            array = references.resize(
                array, axes, step["height"], step["width"], mode="linear",
                antialias=step["antialias"],
            )  # fmt: skip
        elif do == "crop":
            step |= {
                "height": draw(st.integers(1, height)),
                "width": draw(st.integers(1, width)),
            }
            array = references.crop(array, axes, step["height"], step["width"])
        elif do == "layout":
            step["to"] = "N" + "".join(draw(st.permutations(axes[1:])))
            array = array.transpose([axes.index(letter) for letter in step["to"]])
            axes = step["to"]
        elif do == "normalize":
            step |= {"mean": [120.0, 100, 80], "std": [60.0, 50, 40]}
            if "C" not in axes:
                step |= {"mean": 100.0, "std": 50.0}
            array = references.normalize(array, axes, step["mean"], step["std"])
        elif do == "scale":
            step |= {"multiply": draw(st.sampled_from([-1.0, 0.5, 2])), "add": 10.0}
            array = array.astype(np.float32) * np.float32(step["multiply"]) + np.float32(10)
        else:
            step |= {"minimum": -50.0, "maximum": 200.0}
            array = np.clip(array.astype(np.float32), -50, 200)
        steps.append(step)
    return *begin, [*steps, {"do": "cast", "to": "FP32"}], array.astype(np.float32)


@slow
@given(chains(), st.sampled_from(OPSETS))
def test_a_chain_of_input_steps(chain, opset):
    array, axes, steps, wanted = chain
    got = in_front(array, axes, steps, wanted.shape[1:], opset=opset)
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=5e-3)


small = st.integers(1, 9)
axis = st.sampled_from([-1, -1, 1, 2, -3, 0])
number = st.floats(-3, 3, width=16)
output_steps = st.one_of(
    st.fixed_dictionaries({"do": st.sampled_from(["softmax", "argmax"]), "axis": axis}),
    st.fixed_dictionaries({"do": st.just("sigmoid")}),
    st.fixed_dictionaries(
        {
            "do": st.just("threshold"),
            "axis": axis,
            "minimum": st.one_of(number, st.lists(number, min_size=1, max_size=8)),
        }
    ),
    st.fixed_dictionaries({"do": st.just("scale"), "multiply": number, "add": number}),
    st.fixed_dictionaries({"do": st.just("clip"), "minimum": st.just(-1), "maximum": st.just(1)}),
    st.fixed_dictionaries(
        {"do": st.just("cast"), "to": st.sampled_from(["FP32", "INT64", "FP64"])}
    ),
    st.fixed_dictionaries({"do": st.just("join"), "by": st.sampled_from(["mean", "max"])}),
    st.fixed_dictionaries({"do": st.just("labels"), "names": st.just(["a", "b", "c"])}),
)
input_steps = st.one_of(
    st.fixed_dictionaries(
        {"do": st.just("window"), "length": st.sampled_from([8, 8, 5]), "hop": small}
    ),
    st.fixed_dictionaries({"do": st.just("layout"), "to": st.sampled_from(["NF", "NT", "NTC"])}),
    st.fixed_dictionaries({"do": st.just("scale"), "multiply": number}),
    st.fixed_dictionaries({"do": st.just("cast"), "to": st.sampled_from(["FP32", "INT8"])}),
)


declared = st.fixed_dictionaries(
    {
        "steps": st.lists(output_steps, min_size=1, max_size=4),
        "others": st.lists(st.lists(output_steps, min_size=1, max_size=2), max_size=2),
        "k": st.one_of(st.none(), st.integers(1, 4)),
        "before": st.lists(input_steps, max_size=3),
        "layout": st.sampled_from(["NF", "NT", "NC"]),
        "size": st.sampled_from([8, 8, 8, 12, 24]),
    }
)


def test_any_steps_are_refused_or_run():
    """What is accepted runs, and its outputs have the shapes that are declared."""
    ran = []

    @settings(slow, max_examples=300)
    @given(declared, st.sampled_from(OPSETS))
    def check(given_steps, opset):
        made = _add_or_refuse(given_steps, opset)
        if made is None:
            return
        size = given_steps["size"] if given_steps["before"] else 8
        array = np.random.default_rng(1).normal(size=(3, size)).astype(np.float32)
        found = answer(made, x=array)
        assert list(found) == [value.name for value in made.graph.output]
        for value in made.graph.output:
            shape = [dim.dim_value or 3 for dim in value.type.tensor_type.shape.dim]
            assert list(found[value.name].shape) == shape
        ran.append(opset)

    check()
    assert len(ran) > 80, "most chains are refused: the test reaches too little"


def _add_or_refuse(given_steps, opset):
    steps = given_steps["steps"]
    if given_steps["k"]:
        steps = [*steps, {"do": "top_k", "k": given_steps["k"]}]
    entries = {
        "output": [
            {"name": f"o{number}", "tensor": "y", "steps": one}
            for number, one in enumerate([steps, *given_steps["others"]])
        ]
    }
    if given_steps["before"]:
        raw = {"datatype": "FP32", "layout": given_steps["layout"]}
        entries["input"] = [
            raw | {"shape": ["N", given_steps["size"]], "steps": given_steps["before"]}
        ]
    try:
        return add(crafted.dense(scores=False, opset=opset), steps_of(**entries)).model
    except PipelineRefused as error:
        assert error.code.startswith("processing.")  # noqa: PT017
        return None
