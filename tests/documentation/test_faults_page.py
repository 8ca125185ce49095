"""The table of faults: every test that it links exists, and no code of an update is missing."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "faults.md"
ABOUT_UPDATES = re.compile(
    r"(bundle|disk|observe|order|store|transfer|trial|update|hook|offline)\."
)
FROM_THE_AGENT = re.compile(r"^\| `([a-z0-9_.]+)` \|.*\| [^|]*edgectl_agent[^|]* \|$", re.MULTILINE)
ROWS_MIN = 120


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0] != "Fault"]


@cache
def names_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef))


def test_there_are_as_many_rows_as_there_were() -> None:
    assert len(rows()) >= ROWS_MIN
    assert all(len(row) == 4 for row in rows()), [row for row in rows() if len(row) != 4]
    names = [row[0] for row in rows()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_each_row_links_tests_that_exist(row: list[str]) -> None:
    links = re.findall(r"\]\(([^)#]+)#([^)]+)\)", row[3])
    assert links, row[0]
    for file, name in links:
        path = (PAGE.parent / file).resolve()
        assert path.is_file(), file
        assert name in names_in(path), f"{file} has no {name}"
        assert name.startswith("test_"), name


def test_every_code_of_an_update_is_in_the_table() -> None:
    known = set(FROM_THE_AGENT.findall((ROOT / "docs" / "errors.md").read_text()))
    wanted = {code for code in known if ABOUT_UPDATES.match(code)}
    assert len(wanted) > 15
    shown = {code for row in rows() for code in re.findall(r"`([a-z0-9_.]+)`", row[2])}
    assert wanted <= shown, sorted(wanted - shown)


def test_every_code_in_the_table_is_one_of_the_agent() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "agent").rglob("*.py"))
    shown = {code for row in rows() for code in re.findall(r"`([a-z0-9_.]+)`", row[2])}
    for code in shown:
        literal = code.replace("trial.", "load.") if code == "trial.unreadable" else code
        assert f'"{literal}"' in source, code
