"""Whether the processor is slowed down because it is hot or short of current.

Read from sysfs, where every file may be missing or odd on some board: then it says nothing. What
counts as slowed down:

* the firmware of a Raspberry Pi says so (``get_throttled``: frequency capped, throttled, or at the
  soft limit of temperature, now);
* a cooling device that is a processor is in use;
* the count of throttling events (x86) has grown since the look before;
* the processor is hot and, though it has just computed, well below the speed that it may have.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

__all__ = ["Look", "look", "throttled"]

_TEMPERATURE_C = (-40.0, 150.0)
"""What a processor can plausibly have; sensors without a reading answer with wild values."""
_FILES_MAX = 64
_CAPPED = 0b1110
"""Of get_throttled: the state now, but for bit 0, low voltage, which alone slows nothing down."""
_HOT_C = 75.0
_SLOW = 0.7
_DIGITS_MAX = 20
_EVENTS = "devices/system/cpu/cpu*/thermal_throttle/core_throttle_count"
_FIRMWARE = "devices/platform/soc/soc:firmware/get_throttled"
_PROCESSORS = ("processor", "cpufreq", "cpu")


class Look(Struct, frozen=True, kw_only=True):
    """What was to be seen at one moment."""

    temperature_c: float | None = None
    """Of the hottest plausible sensor; None: there is none."""
    capped: bool = False
    """Firmware or kernel slow it down."""
    events: int = 0
    """Throttling events since the machine was started."""
    speed: float = 1.0
    """Of the fastest core, as a share of what it may have; 1: not told."""


def look(system: Path = Path("/sys")) -> Look:
    """Look now, best right after a computation; `system` is where sysfs is."""
    return Look(
        temperature_c=_temperature_c(system),
        capped=_firmware_says_so(system) or _is_cooled(system),
        events=sum(_number(path) or 0 for path in _some(system, _EVENTS)),
        speed=_speed(system),
    )


def throttled(before: Look, after: Look) -> bool:
    """Say whether the processor was slowed down between two looks, or is."""
    hot = after.temperature_c is not None and after.temperature_c >= _HOT_C
    return (
        before.capped
        or after.capped
        or after.events > before.events
        or (hot and after.speed < _SLOW)
    )


def _temperature_c(system: Path) -> float | None:
    found = (_number(path) for path in _some(system, "class/thermal/thermal_zone*/temp"))
    low, high = _TEMPERATURE_C
    degrees = (one / 1000 for one in found if one is not None)
    return max((one for one in degrees if low < one < high), default=None)


def _firmware_says_so(system: Path) -> bool:
    try:
        return bool(int(_text(system / _FIRMWARE), 16) & _CAPPED)
    except ValueError:
        return False


def _is_cooled(system: Path) -> bool:
    for device in _some(system, "class/thermal/cooling_device*"):
        kind = _text(device / "type").lower()
        if kind.startswith(_PROCESSORS) and (_number(device / "cur_state") or 0) > 0:
            return True
    return False


def _speed(system: Path) -> float:
    shares = []
    for policy in _some(system, "devices/system/cpu/cpufreq/policy*"):
        now, most = _number(policy / "scaling_cur_freq"), _number(policy / "scaling_max_freq")
        if now is not None and most:
            shares.append(now / most)
    return max(shares, default=1.0)


def _some(system: Path, pattern: str) -> list[Path]:
    return sorted(system.glob(pattern))[:_FILES_MAX]


def _number(path: Path) -> int | None:
    text = _text(path)
    digits = text.removeprefix("-")
    return (
        int(text) if digits.isascii() and digits.isdecimal() and len(digits) < _DIGITS_MAX else None
    )


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(256).decode("ascii", "replace").strip()
    except OSError:
        return ""
