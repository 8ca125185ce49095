"""Small-step releases: what is released is near to the parent, measured, and never dearer."""

import hashlib

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgectl_server.deltas.encoder import encode
from edgectl_server.pipeline.recipes import recipe_of_parent
from edgectl_server.pipeline.small_steps import (
    LEVELS,
    Level,
    NothingToStep,
    estimate_levels,
    make_steps,
)
from edgectl_server.pipeline.spec import ParentVariant, PipelineLimits
from pipeline import crafted
from pipeline.conftest import run

RECIPE = "int8-static-minmax-per-channel-reduced"
PRECISIONS = ("fp16", "fp32", "int8")


@pytest.fixture(scope="module")
def data(activity):
    return {"calibration": activity / "calibration.npz", "evaluation": activity / "eval.npz"}


@pytest.fixture(scope="module")
def parent(tmp_path_factory, activity, data):
    """The version that devices have, in all precisions."""
    return run(
        tmp_path_factory.mktemp("parent"),
        source=activity / "har_v1.onnx",
        recipes=(RECIPE, "fp16"),
        precisions=PRECISIONS,
        **data,
    )


@pytest.fixture(scope="module")
def successor(tmp_path_factory, activity):
    return crafted.retrained(
        activity / "har_v1.onnx", tmp_path_factory.mktemp("successor") / "v2.onnx", 0.05
    )


def parents_of(parent):
    return tuple(
        ParentVariant(
            variant=one.variant,
            precision=one.precision,
            model=parent.directory / one.variant / "model.onnx",
        )
        for one in parent.result.candidates
    )


def push(folder, successor, parent, data, **fields):
    options = {
        "version": "2",
        "source": successor,
        "recipes": (RECIPE, "fp16"),
        "precisions": PRECISIONS,
        "parent": parent.directory / "int8/model.onnx",
        "parent_recipe": RECIPE,
        "parents": parents_of(parent),
        "update_budget_points": 0.5,
    }
    return run(folder, **(options | data | fields))


@pytest.fixture(scope="module")
def released(tmp_path_factory, successor, parent, data):
    return push(tmp_path_factory.mktemp("released"), successor, parent, data)


def test_every_variant_is_released_in_fewer_bytes(released, parent):
    report = released.result.report
    found = {one.variant: one for one in report.small_steps}
    assert set(found) == set(PRECISIONS)
    by_variant = {one.variant: one for one in released.result.candidates}
    for variant, one in found.items():
        assert one.released, one.reason
        assert one.released_bytes < one.trained_bytes < one.size_bytes
        assert one.released_bytes < 0.3 * one.size_bytes
        assert one.trained_value - one.released_value <= 0.005 + 1e-9
        base = (parent.directory / variant / "model.onnx").read_bytes()
        made = (released.directory / variant / "model.onnx").read_bytes()
        assert len(encode(base, made).content) == one.released_bytes
        assert by_variant[variant].quantization.recipe == one.released
        assert by_variant[variant].evaluation.value == one.released_value
        digest = f"sha256:{hashlib.sha256(base).hexdigest()}"
        assert by_variant[variant].steps_from == digest
    rows = {row.recipe: row for row in report.trials}
    for one in found.values():
        row = rows[one.released]
        assert row.status == "accepted"
        assert row.latency_p50_us > 0
        assert row.update_bytes == one.released_bytes
    assert "release" in {one.stage for one in released.progress}


def test_the_fewest_bytes_that_pass_are_taken(released):
    for one in released.result.report.small_steps:
        sizes = [level.estimated_bytes for level in one.levels]
        assert sizes == sorted(sizes)
        states = [level.status for level in one.levels]
        first = states.index("released")
        assert set(states[:first]) <= {"rejected", "failed"}
        assert all(level.reason for level in one.levels[:first])
        assert states[-1] == "skipped", "what takes more bytes is not tried"


def test_int8_keeps_the_scales_and_the_range_of_codes(released, parent):
    before, after = (
        {
            one.name: numpy_helper.to_array(one)
            for one in onnx.load(made.directory / "int8/model.onnx").graph.initializer
        }
        for made in (parent, released)
    )
    scales = [name for name, array in before.items() if "scale" in name and array.size > 1]
    assert scales
    assert all(np.array_equal(before[name], after[name]) for name in scales)
    codes = [name for name, array in before.items() if array.dtype == np.int8 and array.ndim > 1]
    assert all(np.abs(after[name].astype(int)).max() <= 64 for name in codes)  # 7 bits: portable
    stay = np.mean([np.mean(before[name] == after[name]) for name in codes])
    assert stay > 0.2


def test_the_update_is_not_undone(tmp_path, activity, parent, data):
    """Where a step may cost all that was gained, at most half of it is given up."""
    noisy = crafted.retrained(activity / "har_v1.onnx", tmp_path / "noisy.onnx", 0.35)
    (tmp_path / "before").mkdir()
    before = run(tmp_path / "before", source=noisy, precisions=("fp32",), **data)
    (tmp_path / "after").mkdir()
    after = run(
        tmp_path / "after",
        source=activity / "har_v1.onnx",
        version="2",
        precisions=("fp32",),
        parents=parents_of(before),
        update_budget_points=50.0,
        **data,
    )
    (found,) = after.result.report.small_steps
    gain = 100 * (found.trained_value - found.parent_value)
    assert gain > 1
    assert found.allowed_points == pytest.approx(gain / 2, abs=1e-3)
    assert 100 * (found.trained_value - found.released_value) <= gain / 2 + 1e-6
    assert found.released_bytes > 100


def test_why_a_variant_is_released_as_trained(tmp_path, successor, parent, data, activity):
    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        folder.mkdir()
    fp32 = {"precisions": ("fp32",)}
    alone = push(folders[0], successor, parent, data, **fp32, parents=())
    (found,) = alone.result.report.small_steps
    assert (found.released, found.reason) == (
        "", "the parent has no such variant that can be read",
    )  # fmt: skip
    assert alone.result.candidates[0].quantization.recipe == "fp32"
    assert alone.result.candidates[0].steps_from is None
    other = crafted.save(crafted.dense(), tmp_path / "other.onnx")
    hostile = tmp_path / "hostile.onnx"
    hostile.write_bytes(b"\x08" * 1000)
    for folder, path, reason in (
        (folders[1], other, "in common"),
        (folders[2], hostile, ""),
        (folders[3], activity / "har_v1.onnx", "in common"),
    ):
        parents = (ParentVariant(variant="fp32", precision="fp32", model=path),)
        source = path if path.name == "har_v1.onnx" else successor
        made = push(folder, source, parent, data, **fp32, parents=parents)
        (found,) = made.result.report.small_steps
        assert not found.released
        assert reason in found.reason
        assert found.reason
        assert made.result.candidates[0].quantization.recipe == "fp32"


def test_the_time_for_the_search_holds_for_steps_too(tmp_path, successor, parent, data):
    limits = PipelineLimits(search_s_max=0.001)
    made = push(tmp_path, successor, parent, data, precisions=("fp32",), limits=limits)
    (found,) = made.result.report.small_steps
    assert found.reason == "the time for the search was up"
    assert {level.status for level in found.levels} == {"skipped"}
    assert made.result.candidates[0].quantization.recipe == "fp32"


def dense(weights, bias):
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", weights.shape[0]])],
        [helper.make_tensor_value_info("y", 1, ["n", weights.shape[1]])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    return helper.make_model(graph)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_each_level_rounds_as_it_says(tmp_path, level):
    rng = np.random.default_rng(3)
    before = rng.standard_normal((40, 30)).astype(np.float32)
    bias = rng.standard_normal(30).astype(np.float32)
    trained = before + (0.01 * rng.standard_normal((40, 30))).astype(np.float32)
    paths = [tmp_path / name for name in ("v1", "v2", "made")]
    onnx.save(dense(before, bias), paths[0])
    onnx.save(dense(trained, bias + np.float32(0.01)), paths[1])
    make_steps(*paths, level)
    made = numpy_helper.to_array(onnx.load(paths[2]).graph.initializer[0])
    numbers = 2 ** (level.bits - 1) - 1
    largest = np.abs(trained - before).max(axis=1, keepdims=True)
    if level.way == "uniform":
        largest = 4 * np.sqrt(np.mean((trained - before) ** 2))
    room = 1.51 if level.bits == 8 else 1.01  # of sizes, the next one, where 127 steps are too few
    assert np.all(np.abs(made - trained) <= largest / numbers / 2 * room + 1e-6)
    sizes = dict(estimate_levels(*paths[:2]))
    delta = encode(paths[0].read_bytes(), paths[2].read_bytes()).content
    assert len(delta) < 1.2 * sizes.get(level, 2000) + 250


def test_files_without_weights_in_common(tmp_path):
    one = crafted.save(crafted.dense(), tmp_path / "one.onnx")
    with pytest.raises(NothingToStep, match="in common"):
        estimate_levels(one, one)
    with pytest.raises(NothingToStep, match="in common"):
        make_steps(one, one, tmp_path / "made.onnx", Level("uniform", 4))


def test_the_next_version_takes_over_from_a_release_in_small_steps():
    found = recipe_of_parent(f"{RECIPE}-steps-uniform-2.5", ())
    assert found is not None
    assert found.name == f"{RECIPE}-parent"
    assert recipe_of_parent("fp32-steps-uniform-3", ()) is None
