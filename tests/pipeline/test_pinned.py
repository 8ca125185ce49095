"""The scales of a parent: taken over where they fit, and the update that they save."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgectl_server.pipeline.pinned import estimate_update, parent_scales
from edgectl_server.pipeline.recipes import recipe_of_parent
from pipeline import crafted
from pipeline.conftest import run

RECIPE = "int8-static-minmax-per-channel-reduced"


@pytest.mark.parametrize("recipe", [RECIPE, "int8-weights"])
def test_a_successor_with_the_scales_of_its_parent_takes_a_smaller_update(
    tmp_path, activity, recipe
):
    data = {"calibration": activity / "calibration.npz", "evaluation": activity / "eval.npz"}
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    source = activity / "har_v1.onnx"
    run(folders[0], source=source, recipes=(recipe,), **data)
    parent = folders[0] / "int8/model.onnx"
    report = run(
        folders[1],
        source=crafted.retrained(source, tmp_path / "v2.onnx", 0.01),
        recipes=(recipe,),
        parent=parent,
        parent_recipe=recipe,
        **data,
    ).result.report
    rows = {row.recipe: row for row in report.trials}
    anew, kept = rows[recipe], rows[f"{recipe}-parent"]
    assert kept.status == anew.status == "accepted"
    assert kept.update_bytes < anew.update_bytes < kept.size_bytes
    assert abs(kept.value - anew.value) < 0.01
    before, after = (
        {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
        for path in (parent, folders[1] / f"{recipe}-parent.onnx")
    )
    scales = [name for name, array in before.items() if "scale" in name and array.size > 1]
    assert scales
    assert all(np.array_equal(before[name], after[name]) for name in scales)


def test_a_parent_of_another_shape_has_nothing_to_give(tmp_path, activity):
    other = crafted.save(crafted.dense(), tmp_path / "other.onnx")
    assert parent_scales(other, activity / "har_v1.onnx") == {}
    assert estimate_update(other, activity / "har_v1.onnx") > 100_000
    assert estimate_update(other, other) < 1000


@pytest.mark.parametrize(
    ("name", "float_nodes", "becomes"),
    [
        (RECIPE, (), f"{RECIPE}-parent"),
        (f"{RECIPE}-parent", (), f"{RECIPE}-parent"),
        ("int8-static-entropy-per-tensor", (), "int8-static-minmax-per-tensor-parent"),
        ("int8-mixed-minmax-per-tensor-2", ("a", "b"), "int8-mixed-minmax-per-tensor-2-parent"),
        ("int8-weights", (), "int8-weights-parent"),
        ("int8-dynamic", (), None),
        ("fp32", (), None),
        ("anything", ("a",), None),
    ],
)
def test_which_recipe_takes_over(name, float_nodes, becomes):
    found = recipe_of_parent(name, float_nodes)
    assert (found and found.name) == becomes
    assert found is None or found.excluded == float_nodes
