"""SECURITY.md claims nothing without a test: every "no" is a link, every link leads to a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
TESTS = dict(re.findall(r"^\[([a-z-]+)\]: (\S+)$", PAGE, re.MULTILINE))
USED = re.findall(r"\]\[([a-z-]+)\]", PAGE)
MATRIX = PAGE.partition("## Who can do what")[2].partition("\n## ")[0]


@pytest.mark.parametrize("label", sorted(TESTS))
def test_a_link_leads_to_a_test(label: str) -> None:
    path, _, name = TESTS[label].partition("#")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    found = [one for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert name.startswith("test_")
    assert name in {one.name for one in found}, f"{path} has no {name}"


def test_every_link_is_defined_once_and_used() -> None:
    assert set(USED) == set(TESTS)
    assert len(TESTS) == len(re.findall(r"^\[[a-z-]+\]: ", PAGE, re.MULTILINE))


def test_every_no_of_the_matrix_is_a_link() -> None:
    rows = [line.strip("|").split("|") for line in MATRIX.splitlines() if line.startswith("| ")]
    width = len(rows[0])
    assert len(rows) > 10
    for row in rows[1:]:
        assert len(row) == width, row[0]
        for cell in row[1:]:
            unlinked = re.sub(r"\[[^]]*\]\[[a-z-]+\]", "", cell)
            assert not re.search(r"\b(no|not|nor|little|bounded)\b", unlinked), (row[0], cell)


def test_folders_that_are_named_are_there() -> None:
    for path in re.findall(r"`(tests/[a-z_/.]+)`", PAGE):
        assert (ROOT / path).exists(), path
