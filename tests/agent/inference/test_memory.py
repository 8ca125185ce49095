"""What memory is left, read from the files of made-up kernels, and from the real one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent.inference.scoring import scoring
from edgectl_agent.inference.memory import available_bytes, needed_bytes

MIB = 1024 * 1024


def machine(root: Path, *, available_kib: int | None, group: str | None) -> tuple[Path, Path]:
    proc, cgroup = root / "proc", root / "cgroup"
    (proc / "self").mkdir(parents=True)
    cgroup.mkdir()
    if available_kib is not None:
        (proc / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:  {available_kib} kB\n")
    if group is not None:
        (proc / "self" / "cgroup").write_text(f"0::{group}\n")
    return proc, cgroup


def limit(folder: Path, maximum: str, current: int, inactive: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{maximum}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\n")


def test_the_machine_alone(tmp_path: Path) -> None:
    assert available_bytes(*machine(tmp_path, available_kib=1024, group=None)) == MIB


def test_the_tightest_of_the_groups_around_it_counts(tmp_path: Path) -> None:
    proc, cgroup = machine(tmp_path, available_kib=1024 * 1024, group="/system.slice/agent.service")
    limit(cgroup / "system.slice" / "agent.service", "max", 5 * MIB)
    limit(cgroup / "system.slice", str(100 * MIB), 80 * MIB, inactive=10 * MIB)
    assert available_bytes(proc, cgroup) == 30 * MIB
    limit(cgroup / "system.slice" / "agent.service", str(6 * MIB), 5 * MIB)
    assert available_bytes(proc, cgroup) == MIB
    limit(cgroup / "system.slice" / "agent.service", str(6 * MIB), 7 * MIB)
    assert available_bytes(proc, cgroup) == 0, "over the limit is nothing, not less"


@pytest.mark.parametrize("text", ["", "MemAvailable:", "nonsense"])
def test_a_system_that_does_not_tell(tmp_path: Path, text: str) -> None:
    proc, cgroup = machine(tmp_path, available_kib=None, group="/../..")
    (proc / "meminfo").write_text(text)
    assert available_bytes(proc, cgroup) is None


def test_the_real_one() -> None:
    found = available_bytes()
    assert found is not None
    assert found > 16 * MIB


def test_a_model_needs_more_than_its_file(tmp_path: Path) -> None:
    bundle = scoring(tmp_path, "1")
    assert needed_bytes(bundle) > 2 * Path(bundle.model).stat().st_size
    assert needed_bytes(msgspec.structs.replace(bundle, model=str(tmp_path / "none"))) > 0
