"""Data checks: each finds what it is for, says numbers, and is silent on good data."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgectl_server.pipeline import data_checks
from edgectl_server.pipeline.data import Samples
from edgectl_server.pipeline.data_checks import check_data


def samples(role, rows, labels=None, name="x"):
    return Samples(role, {name: np.asarray(rows)}, None if labels is None else np.asarray(labels))


def normal(count=200, width=6, seed=0, scale=1.0):
    return (np.random.default_rng(seed).normal(size=(count, width)) * scale).astype(np.float32)


def evaluation(rows=None, labels=None):
    rows = normal(seed=1) if rows is None else rows
    return samples("evaluation", rows, np.arange(len(rows)) % 4 if labels is None else labels)


CALIBRATION = samples("calibration", normal(2000))


def found(calibration=CALIBRATION, evaluated=None, **more):
    rows = check_data(calibration, evaluation() if evaluated is None else evaluated, **more)
    assert all(row.detail and row.hint for row in rows)
    return {row.name: row for row in rows}


def test_good_data_has_nothing_to_say():
    assert found(classes=4) == {}


def load(path):
    with np.load(path) as file:
        return dict(file)


def test_real_data_is_let_pass(activity, occupancy):
    har = {name: load(activity / f"{name}.npz") for name in ("calibration", "eval")}
    rows = check_data(
        samples("calibration", har["calibration"]["input"]),
        samples("evaluation", har["eval"]["input"], har["eval"]["label"]),
        classes=7,
    )
    assert not [row for row in rows if row.severity == "error"], rows
    occ = {name: load(occupancy / f"{name}.npz") for name in ("train", "test")}
    rows = check_data(
        samples("calibration", occ["train"]["X"]),
        samples("evaluation", occ["test"]["X"], occ["test"]["label"]),
        classes=2,
    )
    assert not [row for row in rows if row.severity == "error"], rows
    assert "duplicates" not in {row.name for row in rows} or rows


def test_no_data_is_no_error():
    assert check_data(None, None) == ()
    assert check_data(CALIBRATION, None) == ()


# ---------------------------------------------------------------- how much, and of what


def test_few_samples():
    rows = found(samples("calibration", normal(2000)[:31]), evaluation(normal(99, seed=1)))
    assert rows["few_calibration"].severity == "warning"
    assert "31 calibration samples" in rows["few_calibration"].detail
    assert "1 points" in rows["few_evaluation"].detail


def test_one_class_only():
    rows = found(evaluated=evaluation(labels=np.full(200, 3)))
    assert rows["one_class"].severity == "error"
    assert "class 3" in rows["one_class"].detail
    assert "class_balance" not in rows


def test_labels_that_are_targets_are_no_classes():
    ones = np.ones(200)
    assert found(evaluated=evaluation(labels=ones)) == {}
    assert found(evaluated=evaluation(labels=ones.astype(int)), classifies=False) == {}
    assert found(evaluated=evaluation(labels=np.zeros((200, 2, 5)))) == {}


def test_a_small_class():
    rows = found(evaluated=evaluation(labels=np.repeat([0, 1], [197, 3])), classes=2)
    row = rows["class_balance"]
    assert row.severity == "warning"
    for part in ("class 1 has 3", "class 0 197", "65.7 times"):
        assert part in row.detail


@pytest.mark.parametrize("count", [2000, 4000])
def test_imbalance_counts_where_no_class_is_small(count):
    labels = np.repeat([0, 1], [count - 60, 60])
    rows = found(evaluated=evaluation(normal(count, seed=1), labels))
    assert ("class_balance" in rows) == (count == 4000)


def test_missing_classes():
    rows = found(evaluated=evaluation(), classes=30)
    assert "26 of 30 classes" in rows["missing_classes"].detail
    assert "4, 5, 6" in rows["missing_classes"].detail
    assert "…" in rows["missing_classes"].detail


@pytest.mark.parametrize("label", [-1, 2**62, 1023])
def test_labels_out_of_range_are_somebody_elses_matter(label):
    labels = np.arange(200) % 4
    labels[0] = label
    rows = found(evaluated=evaluation(labels=labels), classes=4)
    assert "missing_classes" not in rows


# ---------------------------------------------------------------- twice


def test_duplicates():
    rows = normal(seed=1)
    rows[100:125] = rows[:25]
    row = found(evaluated=evaluation(rows))["duplicates"]
    assert "25 of 200 evaluation samples (12.5 %)" in row.detail
    rows[100:125] = normal(25, seed=9)
    assert "duplicates" not in found(evaluated=evaluation(rows))


@pytest.mark.parametrize(
    ("shared", "severity"), [(1, "info"), (2, "warning"), (99, "warning"), (100, "error")]
)
def test_leakage(shared, severity):
    rows = normal(seed=1)
    rows[:shared] = CALIBRATION.inputs["x"][-shared:]
    row = found(evaluated=evaluation(rows))["leakage"]
    assert row.severity == severity
    assert f"{shared} of 200" in row.detail


def test_samples_of_several_inputs_are_the_same_when_all_are():
    one, two = normal(seed=1), normal(seed=2)
    calibration = Samples("calibration", {"a": one, "b": two})
    other = Samples("evaluation", {"b": two[::-1].copy(), "a": one})
    assert "leakage" not in {row.name for row in check_data(calibration, other)}
    same = Samples("evaluation", {"b": two, "a": one})
    (row,) = check_data(calibration, same)
    assert (row.name, row.severity) == ("leakage", "error")


def test_the_order_of_memory_is_no_difference():
    rows = normal(seed=1).reshape(200, 2, 3)
    calibration = samples("calibration", rows)
    (row,) = check_data(calibration, samples("evaluation", np.asfortranarray(rows)))
    assert row.name == "leakage"


def test_flat_samples():
    """An input [N] has numbers as its samples."""
    calibration = samples("calibration", np.arange(100, dtype=np.int64))
    other = samples("evaluation", np.arange(50, 150, dtype=np.int64))
    assert {row.name for row in check_data(calibration, other)} == {"leakage", "range"}


# ---------------------------------------------------------------- values


def test_constant_features():
    rows = normal(2000)
    rows[:, 2] = 0.5
    row = found(samples("calibration", rows))["constant_features"]
    assert row.severity == "info"
    assert "1 of 6 values" in row.detail
    assert "[2]" in row.detail


def test_values_outside_of_the_calibrated_range():
    rows = normal(seed=1)
    assert "range" not in found(evaluated=evaluation(rows))
    rows[:, 0] += 8
    row = found(evaluated=evaluation(rows))["range"]
    assert row.severity == "warning"
    assert " % of the evaluation values" in row.detail


def test_one_value_far_outside():
    rows = normal(seed=1)
    rows[7, 3] = 40
    assert "0.08 % of the evaluation values" in found(evaluated=evaluation(rows))["range"].detail


def test_a_calibration_without_range():
    zeros = samples("calibration", np.full((2000, 6), 1, np.float32))
    assert "the range is 0" in found(zeros)["range"].detail


def test_pixels_that_were_scaled_in_one_set_only():
    pixels = np.random.default_rng(0).integers(0, 256, (200, 8)).astype(np.float32)
    scaled = samples("calibration", np.random.default_rng(1).random((200, 8), np.float32))
    rows = found(scaled, evaluation(pixels))
    assert rows["scale"].severity == "error"
    assert "pixels 0 to 255" in rows["scale"].detail
    assert "range" not in rows, "said once"
    back = found(samples("calibration", pixels), evaluation(pixels[::-1] / 255 + 1e-4))
    assert "the calibration data is" in back["scale"].detail


def test_raw_pixels_for_a_model_of_floats():
    pixels = np.random.default_rng(0).integers(0, 256, (400, 8))
    both = [samples("calibration", pixels[:200].astype(np.float32)),
            samples("evaluation", pixels[200:].astype(np.float32))]  # fmt: skip
    assert {row.name for row in check_data(*both)} == {"raw_pixels"}
    both = [samples("calibration", pixels[:200].astype(np.uint8)),
            samples("evaluation", pixels[200:].astype(np.uint8))]  # fmt: skip
    assert check_data(*both) == ()


def test_all_zero_beside_something():
    rows = found(samples("calibration", np.zeros((200, 6), np.float32)))
    assert "infinitely" in rows["scale"].detail


@given(
    arrays.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.uint64, np.int64, bool]),
        st.tuples(st.integers(1, 50), st.integers(1, 3)),
    ),
    st.integers(0, 2**32 - 1),
)
def test_any_numbers_give_rows_and_no_error(rows, seed):
    if rows.dtype.kind == "f":
        rows = np.nan_to_num(rows)  # what is not finite is refused before
    labels = np.random.default_rng(seed).integers(-3, 5, len(rows))
    for row in check_data(samples("calibration", rows), samples("evaluation", rows, labels)):
        assert len(row.detail) <= 500


# ---------------------------------------------------------------- cost


def test_more_samples_than_are_hashed(monkeypatch):
    monkeypatch.setattr(data_checks, "HASHED_SAMPLES_MAX", 50)
    rows = normal(201, seed=1)
    both = samples("calibration", rows), samples("evaluation", rows)
    assert "41 of 41" in check_data(*both)[0].detail


def test_large_data_is_not_copied():
    """60 MB of many small samples: hashed in part, looked at in slices."""
    large = samples("evaluation", np.zeros((3_000_000, 5), np.float32))
    tracemalloc.start()
    rows = {row.name for row in check_data(CALIBRATION_OF_FIVE, large)}
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "duplicates" in rows
    assert most < 30_000_000


CALIBRATION_OF_FIVE = samples("calibration", normal(100, 5))
