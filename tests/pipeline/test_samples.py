"""Calibration and evaluation files: what is read, and with which code the others are refused."""

import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgectl_protocol.manifest import TensorSpec
from edgectl_server.pipeline.data import load_samples, random_samples
from edgectl_server.pipeline.errors import PipelineRefused
from pipeline.crafted import save_arrays

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
Z = TensorSpec(name="z", datatype="INT64", shape=(-1,))
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)
BYTES_MAX = 10_000


def load(path, *specs):
    return load_samples(path, "evaluation", specs or (X,), bytes_max=BYTES_MAX)


def refusal(path, *specs):
    with pytest.raises(PipelineRefused) as caught:
        load(path, *specs)
    error = caught.value
    assert "evaluation" in error.detail, "which file it was"
    assert error.hint.endswith((".", "))."))
    return error


def test_arrays_and_labels_are_read(tmp_path):
    path = save_arrays(tmp_path / "a.npz", x=ROWS, label=np.array([0, 1, 2], np.int16))
    samples = load(path)
    assert samples.count == 3
    np.testing.assert_array_equal(samples.inputs["x"], ROWS)
    np.testing.assert_array_equal(samples.labels, [0, 1, 2])
    assert samples.digest.startswith("sha256:")


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 5)])
def test_targets_and_boxes_are_floats(tmp_path, shape):
    path = save_arrays(tmp_path / "a.npz", x=ROWS, label=np.ones(shape, np.float32))
    labels = load(path).labels
    assert (labels.dtype, labels.shape) == (np.float64, shape)


def test_a_single_input_may_be_called_input(tmp_path):
    samples = load(save_arrays(tmp_path / "a.npz", input=np.asfortranarray(ROWS)))
    np.testing.assert_array_equal(samples.inputs["x"], ROWS)


def test_compressed_and_several_inputs(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=ROWS, z=np.array([5, 6, 7]))
    assert set(load(path, X, Z).inputs) == {"x", "z"}


def test_an_input_called_label_is_an_input(tmp_path):
    spec = TensorSpec(name="label", datatype="FP32", shape=(-1, 4))
    samples = load(save_arrays(tmp_path / "a.npz", label=ROWS), spec)
    assert samples.labels is None
    assert set(samples.inputs) == {"label"}


with_nan = ROWS.copy()
with_nan[2, 1] = np.nan
with_infinity = ROWS.copy()
with_infinity[0, 3] = -np.inf


@pytest.mark.parametrize(
    ("arrays", "code", "says"),
    [
        ({"x": ROWS.astype(np.float64)}, "data.dtype", ("float64", "float32", "'x'")),
        ({"x": ROWS.astype(">f4")}, "data.dtype", (">f4",)),
        ({"x": ROWS.astype(np.int64)}, "data.dtype", ("int64",)),
        ({"x": ROWS.astype(np.complex64)}, "data.dtype", ("complex64",)),
        ({"x": ROWS[:, :3]}, "data.shape", ("[3, 3]", "[N, 4]")),
        ({"x": ROWS[0]}, "data.shape", ("[4]", "[N, 4]")),
        ({"x": ROWS[None]}, "data.shape", ("[1, 3, 4]",)),
        ({"x": ROWS[:0]}, "data.shape", ("no samples",)),
        ({"x": np.float32(3)}, "data.shape", ("[]",)),
        ({"x": with_nan}, "data.non_finite", ("nan", "[2, 1]")),
        ({"x": with_infinity}, "data.non_finite", ("-inf", "[0, 3]")),
        ({"y": ROWS}, "data.keys", ("'y'", "Missing: 'x'", "Not an input: 'y'")),
        ({"x": ROWS, "extra": ROWS}, "data.keys", ("Not an input: 'extra'",)),
        ({"x": ROWS, "input": ROWS}, "data.keys", ("'input'",)),
        ({"label": np.zeros(3, int)}, "data.keys", ("Missing: 'x'",)),
        ({"x": ROWS, "label": np.zeros(2, int)}, "data.shape", ("label: 2", "x: 3")),
        ({"x": ROWS, "label": np.zeros((3, 2), int)}, "data.shape", ("[3, 2]",)),
        ({"x": ROWS, "label": np.zeros(3, np.complex64)}, "data.dtype", ("'label'",)),
        ({"x": ROWS, "label": np.zeros(3, bool)}, "data.dtype", ("'label'",)),
        ({"x": ROWS, "label": np.array([0, np.nan, 1])}, "data.non_finite", ("'label'", "[1]")),
        ({"x": ROWS, "label": np.zeros((3, 1, 1, 1))}, "data.shape", ("[3, 1, 1, 1]",)),
        ({"x": ROWS, "label": np.float64(1)}, "data.shape", ("[]",)),
    ],
)
def test_wrong_arrays(tmp_path, arrays, code, says):
    error = refusal(save_arrays(tmp_path / "a.npz", **arrays))
    assert error.code == code
    for part in says:
        assert part in error.detail


def test_pickles_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was loaded",))

    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([Trap()], dtype=object), allow_pickle=True)
    assert refusal(path).code == "data.dtype"


def npy(shape, payload, descr="<f4"):
    """An .npy file whose header may lie."""
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + payload


def archive(path, content, *, name="x.npy", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(npy((10**12, 4), b"\0" * 16), "data.not_npz", id="claims terabytes"),
        pytest.param(npy((-3, 4), b"\0" * 16), "data.not_npz", id="negative"),
        pytest.param(npy((1, 4), b"\0" * 99), "data.not_npz", id="more than it says"),
        pytest.param(npy((1, 4), b"\0" * 16, "|O"), "data.dtype", id="objects"),
        pytest.param(npy((1,), b"\0" * 16, [("a", "<f4", (4,))]), "data.dtype", id="records"),
        pytest.param(b"\x93NUMPY\x09\x00", "data.not_npz", id="version"),
        pytest.param(b"no numpy", "data.not_npz", id="text"),
        pytest.param(b"\x93NUMPY\x01\x00\x05\x00((((\n", "data.not_npz", id="header"),
    ],
)
def test_crafted_arrays(tmp_path, content, code):
    assert refusal(archive(tmp_path / "a.npz", content)).code == code


def test_a_zip_bomb_is_refused_by_its_header(tmp_path):
    bomb = npy((1_000_000, 4), b"\0" * 16_000_000)
    path = archive(tmp_path / "a.npz", bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    assert refusal(path).code == "data.too_large"


def test_a_zip_bomb_that_lies_about_its_size_is_refused(tmp_path):
    path = archive(
        tmp_path / "a.npz", npy((1000, 4), b"\0" * 16_000), compression=zipfile.ZIP_DEFLATED
    )
    content = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        true = file.infolist()[0].file_size
    lied = content.replace(struct.pack("<I", true), struct.pack("<I", 96))
    assert lied != content
    path.write_bytes(lied)
    assert refusal(path).code == "data.not_npz"


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"PK\x03\x04" + b"\0" * 100])
def test_other_files(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    assert refusal(path).code == "data.not_npz"


def test_a_missing_file_is_refused(tmp_path):
    assert refusal(tmp_path / "none.npz").code == "data.not_npz"


def test_mutated_archives_are_read_or_refused(tmp_path):
    original = io.BytesIO()
    np.savez_compressed(original, x=ROWS, label=np.arange(3))
    good = original.getvalue()
    path = tmp_path / "a.npz"

    @settings(
        max_examples=300,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.lists(
            st.tuples(st.integers(0, len(good) - 1), st.integers(0, 3), st.binary(max_size=3)),
            min_size=1,
            max_size=4,
        )
    )
    def check(edits):
        content = bytearray(good)
        for position, removed, inserted in edits:
            content[position : position + removed] = inserted
        path.write_bytes(content)
        try:
            assert load(path).inputs["x"].shape[1] == 4
        except PipelineRefused as error:
            assert error.code.startswith("data.")  # noqa: PT017

    check()


def test_choosing_is_seeded_and_keeps_labels_with_their_rows(tmp_path):
    rows = np.arange(400, dtype=np.float32).reshape(100, 4)
    samples = load(save_arrays(tmp_path / "a.npz", x=rows, label=np.arange(100)))
    chosen = samples.choose(10, 3)
    assert chosen.count == 10
    np.testing.assert_array_equal(chosen.inputs["x"][:, 0], chosen.labels * 4)
    np.testing.assert_array_equal(chosen.labels, samples.choose(10, 3).labels)
    assert samples.choose(100, 3) is samples


def test_made_up_samples_fit_the_inputs():
    samples = random_samples((X, Z), 5, 0)
    assert samples.inputs["x"].shape == (5, 4)
    assert samples.inputs["x"].dtype == np.float32
    assert set(np.unique(samples.inputs["z"])) <= {0, 1}
