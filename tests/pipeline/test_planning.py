"""What is tried next."""

from hypothesis import given
from hypothesis import strategies as st

from edgectl_server.pipeline.planning import keeps_accuracy, mixed_counts, nearest, other_ranges
from edgectl_server.pipeline.recipes import RECIPES
from pipeline.test_selection import row

NAMES = {recipe.name: recipe for recipe in RECIPES}
TENSOR = "int8-static-minmax-per-tensor"
CHANNEL = "int8-static-minmax-per-channel"
REDUCED = "int8-static-minmax-per-channel-reduced"


def rejected(name, drop):
    return row(name, "rejected", drop=drop)


def test_other_ranges_are_for_the_nearest_two():
    rows = [rejected(TENSOR, 9.0), rejected(CHANNEL, 2.0), rejected(REDUCED, 2.0)]
    assert [one.name for one in nearest(rows, RECIPES)] == [REDUCED, CHANNEL, TENSOR]
    found = [one.name for one in other_ranges(rows, RECIPES)]
    assert found == [
        "int8-static-entropy-per-channel-reduced",
        "int8-static-percentile-per-channel-reduced",
        "int8-static-entropy-per-channel",
        "int8-static-percentile-per-channel",
    ]
    assert other_ranges([*rows, row("int8-static-minmax-u8u8")], RECIPES) == []


def test_a_dynamic_recipe_does_not_end_the_search():
    assert not keeps_accuracy([row("int8-dynamic"), rejected(TENSOR, 5.0)])


def test_the_name_of_a_mixed_recipe_says_how_many_stay():
    mixed = NAMES[REDUCED].mixed(("a", "b"))
    assert mixed.name == "int8-mixed-minmax-per-channel-reduced-2"
    assert mixed.portable
    assert mixed.excluded == ("a", "b")


@given(total=st.integers(0, 60), needed=st.integers(1, 80), at_once=st.integers(1, 4))
def test_the_fewest_operators_are_found(total, needed, at_once):
    """For a model that passes with `needed` operators in float or more."""
    verdicts: dict[int, bool] = {}
    for _ in range(40):
        counts = mixed_counts(total, verdicts, at_once)
        if not counts:
            break
        assert len(counts) <= at_once
        assert not set(counts) & set(verdicts)
        assert all(0 < count < total for count in counts)
        verdicts |= {count: count >= needed for count in counts}
    assert mixed_counts(total, verdicts, at_once) == []
    passed = [count for count, good in verdicts.items() if good]
    assert min(passed, default=None) == (needed if needed < total else None)
    assert len(verdicts) <= 2 * max(1, total).bit_length() + 2 * at_once
