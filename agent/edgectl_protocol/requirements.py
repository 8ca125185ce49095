"""What a version must reach before it is signed: one line of text each, such as ``size<=200kB``.

A requirement is ``NAME>=BOUND`` or ``NAME<=BOUND``, with a unit behind the bound where the name has
one. `KINDS` has all names, their direction and their unit; a wrong direction is an error and not
another meaning. People and programs write the same text; `format_requirement` is its one spelling,
and bounds are kept in bytes, microseconds, points, or as plain numbers.

========  ====================================================  =============
unit      written as                                            kept in
========  ====================================================  =============
share     a number, or with ``%``                               0 to 1
points    a number                                              points
number    a number                                              as it is
bytes     ``B``, ``kB``, ``MB``, ``GB``, ``KiB``, ``MiB``,      bytes
          ``GiB``; without a unit bytes
time      ``us``, ``µs``, ``ms``, ``s``; the unit is needed     microseconds
========  ====================================================  =============
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta, Struct

from edgectl_protocol.errors import InvalidRequirement

__all__ = [
    "ALLOWABLE",
    "KINDS",
    "METRIC_NAMES",
    "OWN_METRIC",
    "REQUIREMENTS_MAX",
    "UPDATE_BUDGET_CODE",
    "Requirement",
    "check_allowed",
    "format_requirement",
    "parse_requirement",
    "parse_requirements",
    "strictest",
    "update_budget_problem",
]

Direction = Literal[">=", "<="]
Unit = Literal["share", "points", "number", "bytes", "time"]

UPDATE_BUDGET_CODE = "version.update_budget"
TEXT_CHARACTERS_MAX = 64
REQUIREMENTS_MAX = 16
BOUND_MAX = 1e15
OWN_METRIC = "own"
"""Name of the metric that somebody's ``metric.py`` computes."""
METRIC_NAMES = ("accuracy", "top5", "f1", "auc", "rmse", "map", "agreement")
"""Names of the metrics that are built in."""


@dataclass(frozen=True)
class Kind:
    """What may be required under one name; both directions where only the user knows."""

    directions: tuple[Direction, ...]
    unit: Unit
    meaning: str


_LEAST: tuple[Direction, ...] = (">=",)
_MOST: tuple[Direction, ...] = ("<=",)

KINDS: dict[str, Kind] = {
    "accuracy": Kind(_LEAST, "share", "share of right classes"),
    "top5": Kind(_LEAST, "share", "share of samples whose class is among the five best"),
    "f1": Kind(_LEAST, "share", "mean F1 of the classes"),
    "auc": Kind(_LEAST, "share", "area under the ROC curve"),
    "rmse": Kind(_MOST, "number", "root mean squared error"),
    "map": Kind(_LEAST, "share", "mean average precision at IoU 0.5"),
    "agreement": Kind(_LEAST, "share", "agreement with fp32"),
    OWN_METRIC: Kind((">=", "<="), "number", "what the pushed metric.py computes"),
    "class_recall_drop": Kind(_MOST, "points", "largest loss of recall of a class against fp32"),
    "parent_agreement": Kind(_LEAST, "share", "agreement with the version that is replaced"),
    "size": Kind(_MOST, "bytes", "size of the model file"),
    "latency_p50": Kind(_MOST, "time", "median latency of one sample, on the server"),
    "latency_p95": Kind(_MOST, "time", "95th percentile of the latency of one sample"),
    "ram": Kind(_MOST, "bytes", "peak memory of a process that runs the model"),
}

ALLOWABLE: dict[str, str] = {
    "drop": "the loss against fp32, --max-drop",
    "contract": "inputs, outputs and labels of the version that is replaced",
    "data": "errors of the data checks",
    **{name: kind.meaning for name, kind in KINDS.items()},
}
"""Gates that ``--allow`` overrides: those that are always there, and what can be required."""

_FACTORS: dict[Unit, dict[str, float]] = {
    "share": {"": 1.0, "%": 0.01},
    "points": {"": 1.0},
    "number": {"": 1.0},
    "bytes": {
        "": 1.0, "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9,
        "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30,
    },
    "time": {"us": 1.0, "µs": 1.0, "μs": 1.0, "ms": 1e3, "s": 1e6},
}  # fmt: skip
_HIGHEST: dict[Unit, float] = {"share": 1.0, "points": 100.0}
_TEXT = re.compile(
    r" *(?P<name>[a-z][a-z0-9_]{0,31}) *(?P<direction>>=|<=) *"
    r"(?P<bound>[+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,3})?) *"
    r"(?P<unit>[A-Za-zµμ%]{0,3}) *"
)
_EXAMPLE = "expected such as accuracy>=0.9, size<=200kB or latency_p95<=5ms"


class Requirement(Struct, frozen=True, kw_only=True):
    """A bound, in the unit that is kept (see the module)."""

    name: Annotated[str, Meta(max_length=32)]
    direction: Direction
    bound: float

    def holds(self, measured: float) -> bool:
        """Say whether a measured value is inside; NaN is not."""
        return measured >= self.bound if self.direction == ">=" else measured <= self.bound


def parse_requirement(text: str) -> Requirement:
    """Return what a line of text requires.

    Raises:
        InvalidRequirement: another form, an unknown name, the wrong direction, a unit or a bound
            that the name cannot have.
    """
    shown = repr(text[:TEXT_CHARACTERS_MAX])
    match = _TEXT.fullmatch(text) if len(text) <= TEXT_CHARACTERS_MAX else None
    if match is None:
        raise InvalidRequirement(f"{shown} is no requirement: {_EXAMPLE}")
    name, direction, unit = match["name"], match["direction"], match["unit"]
    kind = KINDS.get(name)
    if kind is None:
        raise InvalidRequirement(f"{shown}: there is no {name}; known are {', '.join(KINDS)}")
    if direction not in kind.directions:
        raise InvalidRequirement(
            f"{shown}: {name} is {kind.meaning}, and can only be required with {kind.directions[0]}"
        )
    factors = _FACTORS[kind.unit]
    if unit not in factors:
        named = ", ".join(one for one in factors if one) or "no unit"
        raise InvalidRequirement(
            f"{shown}: the bound of {name} takes {named}, got {unit or 'none'}"
        )
    bound = _scaled(match["bound"], factors[unit])
    highest = _HIGHEST.get(kind.unit, BOUND_MAX)
    lowest = -BOUND_MAX if kind.unit == "number" else 0.0
    if not lowest <= bound <= highest:
        raise InvalidRequirement(f"{shown}: the bound of {name} is from {lowest:g} to {highest:g}")
    return Requirement(name=name, direction=direction, bound=bound)


def parse_requirements(texts: Iterable[str]) -> tuple[Requirement, ...]:
    """Return what several lines require, the stricter where a name is there twice.

    Raises:
        InvalidRequirement: as `parse_requirement`, or more than `REQUIREMENTS_MAX`.
    """
    lines = list(texts)
    if len(lines) > REQUIREMENTS_MAX:
        raise InvalidRequirement(f"{len(lines)} requirements, at most {REQUIREMENTS_MAX}")
    return strictest(parse_requirement(line) for line in lines)


def format_requirement(requirement: Requirement) -> str:
    """Return the one spelling of a requirement; parsing it gives the same requirement."""
    bound = requirement.bound
    text = f"{int(bound)}" if bound == int(bound) else repr(bound)
    unit = {"bytes": "B", "time": "us"}.get(KINDS[requirement.name].unit, "")
    return f"{requirement.name}{requirement.direction}{text}{unit}"


def strictest(requirements: Iterable[Requirement]) -> tuple[Requirement, ...]:
    """Return one requirement for each name and direction, the stricter of two; sorted."""
    kept: dict[tuple[str, str], Requirement] = {}
    for one in requirements:
        key = one.name, one.direction
        other = kept.get(key)
        if other is None or not one.holds(other.bound):
            kept[key] = one
    return tuple(kept[key] for key in sorted(kept))


def check_allowed(name: str) -> str:
    """Return the name of a gate that may be overridden; raise `InvalidRequirement` otherwise."""
    if name not in ALLOWABLE:
        raise InvalidRequirement(
            f"{name[:TEXT_CHARACTERS_MAX]!r} is no gate; known are {', '.join(ALLOWABLE)}"
        )
    return name


def _scaled(digits: str, factor: float) -> float:
    """Return the number, exactly what was written where the factor is a whole number or 1/100."""
    value = float(digits)
    scaled = value / 100 if factor == 0.01 else value * factor  # noqa: PLR2004
    return 0.0 if scaled == 0 else scaled


def update_budget_problem(*, parent: bool, data: bool) -> tuple[str, str] | None:
    """Return why a budget for smaller updates says nothing, and what to do; None if all is there.

    Args:
        parent: whether the version is named that devices have.
        data: whether there is calibration or evaluation data.
    """
    if not parent:
        return (
            "a budget for smaller updates needs the version that devices have",
            "name it with --parent, `parent` in a request, or leave the budget out",
        )
    if not data:
        return (
            "nothing says what a smaller update costs without data",
            "push the data that the update is for with --evaluation, or leave the budget out",
        )
    return None
