"""The benchmark of small steps: what its last line says, and its tools."""

import pytest
from benchmarks.distribution.small_steps import Row, _best_tool, figures, line


def row(change="full", released=100, lost=0.2, held_out=False, elsewhere=(90.0, 89.5)):
    return Row(
        name=f"har fp32 {change}",
        held_out=held_out,
        change=change,
        full=1000,
        tool=900,
        ordinary=600,
        released=released,
        steps="uniform-3",
        lost=lost,
        trained_elsewhere=elsewhere[0],
        released_elsewhere=elsewhere[1],
    )


def test_figures():
    rows = [row(), row("head", released=10), row("light", released=160), row("more", lost=0.6)]
    found = figures(rows)
    assert found["pairs"] == 4
    assert found["within_goal"] == 2  # 16 percent is too much, and so are 0.6 points
    assert found["share_max"] == 0.16
    assert found["share_mean_without_heads"] == 0.12
    assert found["best_tool_share_mean_without_heads"] == 0.9
    assert found["lost_points_max"] == 0.6
    assert found["lost_points_mean_elsewhere"] == 0.5
    assert figures([])["share_max"] is None


def test_a_line_of_the_table():
    assert line(row()) == (
        "| har fp32 full | 1000 | 90.00 | 60.00 | **10.00** | uniform-3 | +0.20 | 90.00 | 89.50 |"
    )


def test_without_any_tool_there_is_nothing_to_compare_with(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RuntimeError, match="bsdiff"):
        _best_tool(tmp_path / "base", tmp_path / "target", tmp_path)
