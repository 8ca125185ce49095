"""A prepared data folder for all attacks, and the table of what came of them.

Each test is one attempt; `ATTACKER` of its module says whose. A test that is marked
``admitted("what")`` shows something that gets through, as the threat model admits; every other one
shows that nothing does. The table is printed at the end, and written as Markdown to the file that
``EDGECTL_ATTACKS_TABLE`` names.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.scene import Ana, Site, prepare
from once import made_once

ACTIVITY = Path(__file__).parents[2] / "server/edgectl/demo/activity"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "admitted(what): what this attempt gets, and may get")


@pytest.fixture(scope="session")
def activity() -> dict[str, Any]:
    """The activity model, and a window for it."""
    with np.load(ACTIVITY / "eval.npz") as data:
        return {"model": ACTIVITY / "har_v1.onnx", "windows": data["input"]}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, activity: Any) -> Path:
    def make(folder: Path) -> Path:
        (folder / "ana").mkdir()
        prepare(folder / "server", Ana(folder / "ana"), activity)
        return folder / "server"

    return made_once(tmp_path_factory, "attacked", make)


@pytest.fixture(scope="session")
def ana(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Ana:
    """She who has prepared it; her machine is one for each worker."""
    folder = tmp_path_factory.mktemp("ana") / "machine"
    return Ana(shutil.copytree(prepared.parent / "ana", folder))


@pytest.fixture(scope="module")
def open_site(
    tmp_path_factory: pytest.TempPathFactory, prepared: Path
) -> Iterator[Callable[..., Site]]:
    """Make sites, each with a copy of the prepared folder; they are stopped at the end."""
    opened: list[Site] = []

    def make(**options: Any) -> Site:
        site = Site(tmp_path_factory.mktemp("site"), prepared, **options)
        opened.append(site)
        return site

    yield make
    for site in opened:
        site.stop()


# ---------------------------------------------------------------- the table


_RESULTS: dict[str, tuple[str, str, str, str]] = {}
"""By test: attacker, attempt, what came of it, what is admitted."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Any:
    report = yield
    if report.when == "call" or (report.failed and report.when == "setup"):
        attacker = getattr(item.module, "ATTACKER", item.module.__name__)
        attempt = item.name.removeprefix("test_").replace("_", " ")
        mark = item.get_closest_marker("admitted")
        came = "open" if not report.passed else "admitted" if mark else "refused"
        _RESULTS[item.nodeid] = attacker, attempt, came, mark.args[0] if mark else ""
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _RESULTS:
        return
    counted: dict[str, Counter[str]] = {}
    for attacker, _, came, _ in _RESULTS.values():
        counted.setdefault(attacker, Counter())[came] += 1
    lines = ["| attacker | attempts | refused | admitted | open |", "|---|---|---|---|---|"]
    for attacker, came in counted.items():
        numbers = came.total(), came["refused"], came["admitted"], came["open"]
        lines.append(f"| {attacker} | {' | '.join(map(str, numbers))} |")
    admitted = [(who, what, says) for who, what, came, says in _RESULTS.values() if says]
    lines += ["", "What is admitted:", ""]
    lines += [f"- {who}, {what}: {says}" for who, what, says in admitted]
    terminalreporter.section("attacks")
    for line in lines:
        terminalreporter.write_line(line)
    file = os.environ.get("EDGECTL_ATTACKS_TABLE")
    if file:
        Path(file).write_text("\n".join(lines) + "\n", encoding="utf-8")
