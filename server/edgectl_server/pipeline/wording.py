"""Steps as a person reads them, in the report and in the bundle: one bounded line an entry."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from edgectl_protocol.manifest import PROCESSING_LINE_MAX

__all__ = ["describe_steps"]

_NUMBERS_SHOWN = 4


def describe_steps(name: str, come: object, steps: Sequence[Struct], to: str, go: object) -> str:
    """Return such as ``image UINT8 NHWC [N, 48, 64, 3]: scale divide 255 → x FP32 [N, …]``."""
    words = ", ".join(_step(step) for step in steps)
    line = f"{name}: {come} → {words} → {to}: {go}"
    return line if len(line) <= PROCESSING_LINE_MAX else f"{line[: PROCESSING_LINE_MAX - 1]}…"


def _step(step: Struct) -> str:
    fields = msgspec.structs.asdict(step)
    default = {field.name: field.default for field in msgspec.structs.fields(step)}
    said = [
        f"{name.rstrip('_')} {_value(value)}"
        for name, value in fields.items()
        if value != default[name]
    ]
    return " ".join([str(step.__struct_config__.tag), *said])


def _value(value: object) -> str:
    if isinstance(value, tuple):
        shown = " ".join(_value(one) for one in value[:_NUMBERS_SHOWN])
        more = f" and {len(value) - _NUMBERS_SHOWN} more" if len(value) > _NUMBERS_SHOWN else ""
        return f"[{shown}{more}]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
