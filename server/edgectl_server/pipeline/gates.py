"""What a variant must be before it is signed: a table of small evaluators. Pure.

A gate compares one thing that was measured with one bound, and says ``passed``, ``failed`` or
``not_enough_data``; ``overridden`` is one of the latter two that somebody has allowed by name.

Always there:

- ``finite``: no output holds NaN or infinity; nobody can allow that;
- ``drop``: the loss against fp32, in points, is at most ``--max-drop``;
- ``contract``: an application of the version that is replaced still works (`contract_changes`);
- ``data``: the data checks found no error (`edgectl_server.pipeline.data_checks`).

And one for each requirement (`edgectl_protocol.requirements`). What is required and cannot be
measured is refused, or leaving the evaluation data out would be the way around; ``drop`` and
``contract`` without anything to compare with refuse nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from msgspec import Struct

from edgectl_protocol.manifest import GateResult, Scores, TensorSpec
from edgectl_protocol.requirements import KINDS, Requirement, format_requirement
from edgectl_server.pipeline.spec import DataCheckRow, Disagreement

__all__ = [
    "Contract",
    "Demands",
    "Evidence",
    "Matrix",
    "Reading",
    "check_contract",
    "check_data_rows",
    "check_variant",
    "contract_changes",
    "reason",
    "refuses",
]

Matrix = tuple[tuple[int, ...], ...]
_ROUNDING = 1e-9
_DETAIL_MAX = 512
_LISTED = 3


@dataclass(frozen=True)
class Reading:
    """What was measured; `value` is None where it could not be, and `detail` says why."""

    value: float | None
    detail: str = ""


class Evidence(Struct, frozen=True, kw_only=True):
    """What is known of a variant.

    Attributes:
        finite: no output holds NaN or infinity.
        value: of the metric; None: it could not be measured.
        readings: by name of the requirement, and ``drop``.
        confusion: a row a true class, a column a named one.
        disagreements: samples of another class than fp32's.
    """

    finite: bool = True
    value: float | None = None
    readings: dict[str, Reading] = {}
    confusion: Matrix | None = None
    disagreements: tuple[Disagreement, ...] = ()


@dataclass(frozen=True)
class Contract:
    """What applications rely on: inputs, outputs, and the order of the classes."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    scores: Scores | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Demands:
    """What is asked of every variant.

    Attributes:
        max_drop_points: largest loss against fp32.
        requirements: bounds.
        allowed: names of gates that are overridden.
        allowed_by: who has allowed it.
    """

    max_drop_points: float
    requirements: tuple[Requirement, ...] = ()
    allowed: frozenset[str] = field(default_factory=frozenset)
    allowed_by: str = ""


def check_variant(
    readings: Mapping[str, Reading], demands: Demands, *, finite: bool
) -> tuple[GateResult, ...]:
    """Return how a variant stands to each gate.

    Args:
        readings: by name of the requirement, and ``drop`` in points; one that is not there was not
            measured.
        demands: the bounds.
        finite: no output holds NaN or infinity. What was measured on others counts for nothing.
    """
    found = []
    drop = Requirement(name="drop", direction="<=", bound=demands.max_drop_points)
    for requirement in (drop, *demands.requirements):
        reading = readings.get(requirement.name, Reading(None, "it was not measured"))
        if not finite and requirement.name not in _WITHOUT_OUTPUTS:
            reading = Reading(None, "the outputs hold NaN or infinity")
        found.append(_bounded(requirement, reading))
    return (_finite(finite=finite), *(_overridden(one, demands) for one in found))


_WITHOUT_OUTPUTS = frozenset({"size", "latency_p50", "latency_p95", "ram"})
"""What can be measured whatever the model answers."""


def check_contract(before: Contract | None, after: Contract, demands: Demands) -> GateResult:
    """Return whether a version can take the place of another."""
    if before is None:
        result = GateResult(
            name="contract", status="not_enough_data", detail="no version is replaced"
        )
    elif changes := contract_changes(before, after):
        result = GateResult(name="contract", status="failed", detail=_listed(changes))
    else:
        result = GateResult(name="contract", status="passed")
    return _overridden(result, demands)


def check_data_rows(rows: Sequence[DataCheckRow], demands: Demands) -> GateResult:
    """Return whether the data checks let the data pass."""
    errors = [f"{row.name}: {row.detail}" for row in rows if row.severity == "error"]
    if errors:
        return _overridden(
            GateResult(name="data", status="failed", detail=_listed(errors)), demands
        )
    return GateResult(name="data", status="passed")


def refuses(results: Iterable[GateResult]) -> tuple[GateResult, ...]:
    """Return the gates that refuse."""
    return tuple(
        one
        for one in results
        if one.status == "failed" or (one.status == "not_enough_data" and one.name in KINDS)
    )


def reason(result: GateResult) -> str:
    """Return why a gate refuses, for a person, without a full stop."""
    more = f" ({result.detail})" if result.detail else ""
    if result.bound is None or result.direction == "":
        return f"gate {result.name}: {result.detail or result.status}"
    if result.name == "drop":
        wanted = f"at most {result.bound:g} points may be lost"
    else:
        bound = Requirement(name=result.name, direction=result.direction, bound=result.bound)
        wanted = f"required is {format_requirement(bound)}"
    if result.measured is None:
        return f"gate {result.name}: not enough data, {wanted}{more}"
    return f"gate {result.name}: {wanted}, measured {result.measured:g}{more}"


# ---------------------------------------------------------------- the evaluators


def _finite(*, finite: bool) -> GateResult:
    if finite:
        return GateResult(name="finite", status="passed")
    return GateResult(name="finite", status="failed", detail="an output holds NaN or infinity")


def _bounded(requirement: Requirement, reading: Reading) -> GateResult:
    measured = reading.value
    if measured is not None and not math.isfinite(measured):
        measured = None
        reading = Reading(None, "what was measured is not finite")
    status: Literal["passed", "failed", "not_enough_data"] = "not_enough_data"
    if measured is not None:
        status = "passed" if _holds(requirement, measured) else "failed"
    kind = KINDS.get(requirement.name)
    return GateResult(
        name=requirement.name,
        status=status,
        measured=measured,
        bound=requirement.bound,
        direction=requirement.direction,
        unit=kind.unit if kind is not None else "points",
        detail=reading.detail[:_DETAIL_MAX],
    )


def _holds(requirement: Requirement, measured: float) -> bool:
    """Compare; 0.9 - 0.89 is not 0.01 in binary, and shall be."""
    slack = _ROUNDING * max(1.0, abs(requirement.bound))
    shifted = measured + slack if requirement.direction == ">=" else measured - slack
    return requirement.holds(shifted)


def _overridden(result: GateResult, demands: Demands) -> GateResult:
    if result.name not in demands.allowed or not refuses([result]):
        return result
    overridden: GateResult = msgspec.structs.replace(
        result, status="overridden", overridden_by=demands.allowed_by[:128]
    )
    return overridden


# ---------------------------------------------------------------- the contract


def contract_changes(before: Contract, after: Contract) -> tuple[str, ...]:
    """Return what an application of `before` would stumble over, in words; empty: nothing.

    What was accepted must be accepted still: the same inputs, each of the same type, each dimension
    the same or now free. What was answered must be answered still: the outputs that were there, of
    the same type and shape, an order of classes that is the same. New outputs, and class names
    where there were none, are no change.
    """
    changes = [
        *_tensor_changes("input", before.inputs, after.inputs, widening=True),
        *_tensor_changes("output", before.outputs, after.outputs, widening=False),
    ]
    new = sorted({spec.name for spec in after.inputs} - {spec.name for spec in before.inputs})
    changes += [f"input {name[:80]!r} is new" for name in new]
    kinds = before.scores, after.scores
    if kinds[0] and kinds[1] and _meaning(kinds[0]) != _meaning(kinds[1]):
        changes.append(
            f"class scores were {kinds[0].kind} in {kinds[0].output[:80]!r}, now {kinds[1].kind} "
            f"in {kinds[1].output[:80]!r}"
        )
    return (*changes, *_label_changes(before.labels, after.labels))


def _meaning(scores: Scores) -> tuple[str, str]:
    """Return what classes are read from; the scale of integers is another in each training."""
    return scores.output, scores.kind


def _tensor_changes(
    what: str,
    before: tuple[TensorSpec, ...],
    after: tuple[TensorSpec, ...],
    *,
    widening: bool,
) -> list[str]:
    changes = []
    now = {spec.name: spec for spec in after}
    for was in before:
        name = f"{what} {was.name[:80]!r}"
        spec = now.get(was.name)
        if spec is None:
            changes.append(f"{name} is gone")
        elif spec.datatype != was.datatype:
            changes.append(f"{name} was {was.datatype}, now {spec.datatype}")
        elif not _same_shape(was.shape, spec.shape, widening=widening):
            changes.append(f"{name} had the shape {list(was.shape)}, now {list(spec.shape)}")
    return changes


def _same_shape(was: tuple[int, ...], now: tuple[int, ...], *, widening: bool) -> bool:
    """Compare; the batch of an output follows that of the inputs, which has been compared."""
    if len(was) != len(now):
        return False
    pairs = list(zip(was, now, strict=True))
    if widening:
        return all(new in (old, -1) for old, new in pairs)
    return all(new == old for old, new in pairs[1:])


def _label_changes(before: tuple[str, ...], after: tuple[str, ...]) -> list[str]:
    if not before or not after or before == after:
        return []
    if sorted(before) == sorted(after):
        moved = [
            f"class {number} was {old[:40]!r}, now {new[:40]!r}"
            for number, (old, new) in enumerate(zip(before, after, strict=True))
            if old != new
        ]
        return [f"the order of the classes has changed: {_listed(moved)}"]
    gone, new_ = sorted(set(before) - set(after)), sorted(set(after) - set(before))
    parts = [f"gone: {_names(gone)}"] if gone else []
    parts += [f"new: {_names(new_)}"] if new_ else []
    return [f"the classes have changed; {', '.join(parts) or 'their number is another'}"]


def _names(labels: list[str]) -> str:
    shown = ", ".join(repr(label[:40]) for label in labels[:_LISTED])
    return shown + (f" and {len(labels) - _LISTED} more" if len(labels) > _LISTED else "")


def _listed(parts: Sequence[str]) -> str:
    shown = "; ".join(parts[:_LISTED])
    more = f"; and {len(parts) - _LISTED} more" if len(parts) > _LISTED else ""
    return (shown[: _DETAIL_MAX - 20] + more)[:_DETAIL_MAX]
