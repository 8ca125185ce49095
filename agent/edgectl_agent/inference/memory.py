"""Whether memory allows another model beside those that are loaded.

What is free is the smaller of the machine's ``MemAvailable`` and what the control groups of this
process leave (cgroup v2: ``memory.max`` less what is used and cannot be dropped). What a model
takes is an estimate from its file: a runtime keeps a copy of the weights and lays some out anew.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from edgectl_agent.bundle import Bundle

__all__ = ["available_bytes", "needed_bytes"]

_BESIDE_WEIGHTS_BYTES = 16 * 1024 * 1024
_WEIGHTS_FACTOR = 2


def needed_bytes(bundle: Bundle) -> int:
    """Return what loading and running `bundle` may take."""
    try:
        size = Path(bundle.model).stat().st_size
    except OSError:
        size = 0  # loading says what is the matter
    return _WEIGHTS_FACTOR * size + _BESIDE_WEIGHTS_BYTES


def available_bytes(
    proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Return what this process may still take; None where the system does not tell.

    Args:
        proc: where the kernel describes the machine and this process.
        cgroup: root of the control groups.
    """
    found = [*_machine(proc), *_groups(proc, cgroup)]
    return max(0, min(found)) if found else None


def _machine(proc: Path) -> list[int]:
    rows = (row.split() for row in _text(proc / "meminfo").splitlines())
    return [
        int(row[1]) * 1024
        for row in rows
        if len(row) > 1 and row[0] == "MemAvailable:" and row[1].isdigit()
    ]


def _groups(proc: Path, cgroup: Path) -> list[int]:
    """Return what each group around this process leaves that has a limit."""
    own = next(
        (row[3:] for row in _text(proc / "self" / "cgroup").splitlines() if row.startswith("0::/")),
        None,
    )
    if own is None:
        return []
    left = []
    path = PurePosixPath(own)
    for group in (path, *path.parents):
        folder = cgroup / str(group).lstrip("/")
        limit, used = _text(folder / "memory.max").strip(), _text(folder / "memory.current").strip()
        if limit.isdigit() and used.isdigit():
            left.append(int(limit) - int(used) + _droppable(_text(folder / "memory.stat")))
    return left


def _droppable(stat: str) -> int:
    """Return the bytes of files in memory that the kernel drops when memory is wanted."""
    for row in stat.splitlines():
        name, _, value = row.partition(" ")
        if name == "inactive_file" and value.isdigit():
            return int(value)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""
