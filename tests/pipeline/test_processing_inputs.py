"""Steps in front of a model give what NumPy and Pillow give, in every opset.

Tolerances are of FP32: 1e-5 of the largest value for sums of a few products, 1e-3 of one grey level
for a resize (ONNX Runtime computes its coordinates in FP32), none where nothing is computed.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgectl_server.pipeline.errors import PipelineRefused
from pipeline import references
from pipeline.processed import NUMPY, in_front, picture

OPSETS = (7, 9, 10, 11, 12, 13, 17, 18, 21, 23)
GREY_LEVELS = 2e-3
quick = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("axes", ["NHWC", "NCHW", "NHW"])
@pytest.mark.parametrize(
    ("size", "mode", "antialias"),
    [
        ((7, 5), "linear", True),
        ((7, 5), "linear", False),
        ((7, 5), "nearest", None),
        ((29, 40), "linear", None),
        ((29, 6), "linear", True),
        ((13, 12), "nearest", None),
    ],
)
def test_resize(opset, axes, size, mode, antialias):
    array = picture(1, *(2 if axis == "N" else {"H": 13, "W": 17, "C": 3}[axis] for axis in axes))
    step = {"do": "resize", "height": size[0], "width": size[1], "mode": mode}
    step |= {} if antialias is None else {"antialias": antialias}
    wanted = references.resize(array, axes, *size, mode=mode, antialias=bool(antialias))
    datatype = "UINT8" if mode == "nearest" else "FP32"
    got = in_front(array, axes, [step], wanted.shape[1:], opset=opset, datatype=datatype)
    assert got.dtype == wanted.dtype or mode == "linear"
    tolerance = 0 if mode == "nearest" else GREY_LEVELS
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance)


@quick
@given(
    st.tuples(*[st.integers(1, 40)] * 4),
    st.sampled_from(["linear", "nearest"]),
    st.booleans(),
    st.sampled_from([7, 11, 17, 18]),
)
def test_any_resize(sizes, mode, antialias, opset):
    height, width, to_height, to_width = sizes
    array = picture(2, 1, height, width, 1)
    step = {
        "do": "resize", "height": to_height, "width": to_width, "mode": mode,
        "antialias": antialias,
    }  # fmt: skip
    if mode == "nearest":
        wanted = references.nearest(array, "NHWC", to_height, to_width)
    else:
        wanted = references.resize(
            array, "NHWC", to_height, to_width, mode=mode, antialias=antialias
        )
    datatype = "UINT8" if mode == "nearest" else "FP32"
    got = in_front(array, "NHWC", [step], wanted.shape[1:], opset=opset, datatype=datatype)
    tolerance = 0 if mode == "nearest" else GREY_LEVELS
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("opset", [7, 13, 23])
@pytest.mark.parametrize("axes", ["NHWC", "NCHW"])
def test_crop(opset, axes):
    array = picture(3, *({"N": 2, "H": 10, "W": 13, "C": 3}[axis] for axis in axes))
    wanted = references.crop(array, axes, 7, 6)
    got = in_front(
        array, axes, [{"do": "crop", "height": 7, "width": 6}], wanted.shape[1:],
        opset=opset, datatype="UINT8",
    )  # fmt: skip
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("opset", [7, 13, 23])
@pytest.mark.parametrize(
    ("axes", "to"),
    [("NHWC", "NCHW"), ("NCHW", "NHWC"), ("NTC", "NCT"), ("NHW", "NCHW"), ("NHW", "NHWC"),
     ("NHWC", "NHWC"), ("NT", "NCT"), ("NF", "NF"), ("N", "NC")],
)  # fmt: skip
def test_layout(opset, axes, to):
    sizes = {"N": 2, "H": 3, "W": 4, "C": 1 if "C" not in axes else 5, "T": 6, "F": 7}
    array = picture(4, *(sizes[axis] for axis in axes))
    wanted = np.einsum(f"{axes}->{to.replace('C', '') if 'C' not in axes else to}", array)
    wanted = wanted.reshape([sizes[axis] for axis in to])
    got = in_front(
        array, axes, [{"do": "layout", "to": to}], wanted.shape[1:], opset=opset, datatype="UINT8"
    )
    np.testing.assert_array_equal(got, wanted)


def test_a_channel_axis_of_one_goes():
    array = picture(5, 2, 3, 1, 4)
    got = in_front(array, "NHCW", [{"do": "layout", "to": "NWH"}], (4, 3), datatype="UINT8")
    np.testing.assert_array_equal(got, array[:, :, 0].transpose(0, 2, 1))


@pytest.mark.parametrize("opset", [7, 13, 23])
@pytest.mark.parametrize("to", ["FP32", "INT32", "INT64", "FP16", "FP64", "INT8"])
def test_cast(opset, to):
    array = np.array([[-3.7, 0.2, 100.9]], np.float32)
    got = in_front(array, "NF", [{"do": "cast", "to": to}], (3,), opset=opset, datatype=to)
    np.testing.assert_array_equal(got, array.astype(NUMPY[to]))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("axes", ["NHWC", "NCHW", "NCT", "NF"])
def test_arithmetic(opset, axes):
    sizes = {"N": 2, "H": 3, "W": 4, "C": 3, "T": 6, "F": 3}
    array = picture(6, *(sizes[axis] for axis in axes))
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    steps = [
        {"do": "scale", "divide": 255, "add": 0.01},
        {"do": "normalize", "mean": mean, "std": std},
        {"do": "clip", "minimum": -1.5, "maximum": 2},
        {"do": "normalize", "mean": 0.1, "std": 4},
    ]
    scaled = array.astype(np.float32) / 255 + np.float32(0.01)
    wanted = np.clip(references.normalize(scaled, axes, mean, std), -1.5, 2)
    wanted = references.normalize(wanted, axes, 0.1, 4)
    got = in_front(array, axes, steps, wanted.shape[1:], opset=opset)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("datatype", ["UINT8", "INT8", "UINT16", "INT16", "INT32", "INT64", "FP64"])
def test_arithmetic_takes_every_datatype(datatype):
    array = np.array([[0, 1, 100]], NUMPY[datatype])
    got = in_front(array, "NF", [{"do": "scale", "multiply": -0.5, "add": 3}], (3,), opset=7)
    np.testing.assert_allclose(got, [[3, 2.5, -47]], rtol=1e-6)


@quick
@given(
    st.integers(1, 60),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from(["NCT", "NTC", "NT"]),
)
def test_windows(size, length, hop, axes):
    array = picture(7, *({"N": 3, "C": 2, "T": size}[axis] for axis in axes))
    count = (size - length) // hop + 1
    shape = tuple(length if axis == "T" else 2 for axis in axes[1:])
    steps = [{"do": "window", "length": length, "hop": hop}, {"do": "cast", "to": "FP32"}]
    if count < 1:
        with pytest.raises(PipelineRefused, match=r"processing\.shape"):
            in_front(array, axes, steps, shape)
        return
    wanted = references.windows(array, axes, length, hop)
    got = in_front(array, axes, steps, shape, opset=7)
    assert got.shape == (3, count, *shape), "outputs are in rows of windows"
    np.testing.assert_array_equal(got.reshape(wanted.shape), wanted)


@pytest.mark.parametrize("opset", [17, 18, 20, 23])
@pytest.mark.parametrize(("low_hz", "high_hz"), [(0.0, None), (125.0, 3800.0)])
def test_log_mel(opset, low_hz, high_hz):
    """The log of power: 1e-3 is 0.1 % of the power of a band."""
    random = np.random.default_rng(8)
    time = np.arange(4000) / 8000
    sound = np.sin(2 * np.pi * 440 * time) + 0.1 * random.normal(size=(2, 4000))
    sound = sound.astype(np.float32)
    step = {"rate": 8000, "frame": 240, "hop": 80, "bands": 12, "low_hz": low_hz, "floor": 1e-3}
    wanted = references.log_mel(sound, **step, high_hz=high_hz or 4000)
    declared = {"do": "log_mel", **step} | ({"high_hz": high_hz} if high_hz else {})
    steps = [declared, {"do": "layout", "to": "NCTF"}]
    got = in_front(sound, "NT", steps, (1, *wanted.shape[1:]), opset=opset)
    np.testing.assert_allclose(got[:, 0], wanted, rtol=0, atol=1e-3)
