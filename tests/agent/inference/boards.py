"""Made-up boards: trees of files as sysfs has them."""

from __future__ import annotations

from pathlib import Path

FIRMWARE = "devices/platform/soc/soc:firmware/get_throttled"
EVENTS = "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"


def board(root: Path, files: dict[str, str]) -> Path:
    """Write the files of a board below `root`; return it."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def hot_pi(root: Path) -> Path:
    """A Raspberry Pi that is throttled now."""
    return board(root, {FIRMWARE: "4\n", "class/thermal/thermal_zone0/temp": "83200\n"})
