"""From evidence to rows: which variant passes its gates, which one does not, and why. Pure.

Gates on what a variant answers are asked as soon as it has been tried, since the search goes on
from their verdicts; those on size, latency and memory at the end, when all is measured: no other
recipe would help there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from edgectl_protocol.manifest import GateResult
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.gates import (
    Contract,
    Demands,
    Evidence,
    Reading,
    check_contract,
    check_data_rows,
    check_variant,
    reason,
    refuses,
)
from edgectl_server.pipeline.scoring import Yardstick
from edgectl_server.pipeline.selection import gate_reason
from edgectl_server.pipeline.spec import DataCheckRow, GateRow, PipelineSpec, TrialRow

__all__ = [
    "check_version",
    "demands_of",
    "gate_rows",
    "judge_answers",
    "judge_costs",
    "nearest_rows",
    "no_variant",
    "refuse_version",
    "variant_gates",
]

_COSTS = frozenset({"size", "latency_p50", "latency_p95", "ram"})
_NO_EVIDENCE = Evidence()


def demands_of(spec: PipelineSpec, *, costs: bool = True) -> Demands:
    """Return what a push demands of each variant; without costs: of its answers alone."""
    return Demands(
        max_drop_points=spec.max_drop_points,
        requirements=tuple(one for one in spec.requirements if costs or one.name not in _COSTS),
        allowed=frozenset(spec.allowed),
        allowed_by=spec.allowed_by,
    )


def check_version(
    contract: Contract, data_checks: Sequence[DataCheckRow], spec: PipelineSpec
) -> tuple[GateResult, ...]:
    """Return how a version as a whole stands to its gates, before any recipe is tried."""
    demands = demands_of(spec)
    before = None
    if spec.replaced is not None:
        was = spec.replaced
        before = Contract(was.inputs, was.outputs, was.scores, was.labels)
    return (check_contract(before, contract, demands), check_data_rows(data_checks, demands))


def refuse_version(results: Sequence[GateResult], spec: PipelineSpec) -> PipelineRefused | None:
    """Return the refusal of a version by one of its own gates, None if all let it pass."""
    for one in refuses(results):
        if one.name == "contract":
            assert spec.replaced is not None
            return PipelineRefused(
                "pipeline.contract",
                f"Applications of version {spec.replaced.version}, which this one would replace, "
                f"would not work with it: {one.detail}.",
                "Export the model as it was, push it under another name, or override the gate with "
                "--allow contract.",
            )
        return PipelineRefused(
            "pipeline.data",
            f"The data cannot prove anything: {one.detail}",
            "Repair the data, or override the gate with --allow data.",
        )
    return None


def judge_answers(
    row: TrialRow, evidence: Evidence, spec: PipelineSpec, yardstick: Yardstick
) -> TrialRow:
    """Return the row of a variant, rejected if a gate refuses its answers."""
    demands = demands_of(spec, costs=False)
    results = check_variant(evidence.readings, demands, finite=evidence.finite)
    return _judged(row, results, yardstick, spec.max_drop_points)


def judge_costs(
    rows: Sequence[TrialRow],
    evidence: Mapping[str, Evidence],
    memory: Mapping[str, int],
    spec: PipelineSpec,
    yardstick: Yardstick | None,
) -> list[TrialRow]:
    """Return the rows, those rejected that a gate refuses now that all is measured.

    Args:
        rows: of fp32 and of all recipes, with sizes and latencies.
        evidence: by recipe.
        memory: by recipe, in bytes, where it was measured.
        spec: what is demanded.
        yardstick: what the answers were measured by.
    """
    judged = []
    for row in rows:
        found = row
        wanted = (
            row.precision in spec.precisions
        )  # fp32 is a row also where it is but compared with
        if row.status == "accepted" and wanted:
            results = variant_gates(row, evidence, memory, spec)
            found = _judged(row, results, yardstick, spec.max_drop_points)
        judged.append(found)
    return judged


def variant_gates(
    row: TrialRow, evidence: Mapping[str, Evidence], memory: Mapping[str, int], spec: PipelineSpec
) -> tuple[GateResult, ...]:
    """Return how a variant stands to all gates of its own."""
    proved = evidence.get(row.recipe, _NO_EVIDENCE)
    bytes_ = memory.get(row.recipe)
    readings = proved.readings | {
        "size": Reading(None if row.size_bytes is None else float(row.size_bytes)),
        "latency_p50": Reading(row.latency_p50_us),
        "latency_p95": Reading(row.latency_p95_us),
        "ram": Reading(None if bytes_ is None else float(bytes_)),
    }
    return check_variant(readings, demands_of(spec), finite=proved.finite)


def no_variant(
    rows: Sequence[TrialRow], gates: Callable[[TrialRow], Sequence[GateResult]]
) -> PipelineRefused | None:
    """Return the refusal of a push whose variants a gate other than the loss keeps back.

    None if it is the loss alone, or if none was rejected: `selection.check_int8` says that.
    """
    rejected = [row for row in rows if row.status == "rejected"]
    others = [row for row in rejected if {one.name for one in refuses(gates(row))} - {"drop"}]
    if not others:
        return None
    nearest = _nearest(others, gates)
    names = sorted({one.name for one in refuses(gates(nearest))} - {"finite"})
    allow = f", or override it by name: {' '.join(f'--allow {one}' for one in names)}"
    return PipelineRefused(
        "pipeline.gates",
        f"No variant passes its gates; the nearest, {nearest.recipe}: {nearest.reason}.",
        f"Push a model or data that passes, ask for less with --require{allow if names else ''}.",
    )


def nearest_rows(
    rows: Sequence[TrialRow], gates: Callable[[TrialRow], Sequence[GateResult]]
) -> list[TrialRow]:
    """Return whose gates a report shows where nothing is published: fp32, and the nearest."""
    rejected = [row for row in rows if row.status == "rejected" and row.precision != "fp32"]
    fp32 = [row for row in rows if row.precision == "fp32"]
    return [*fp32, *([_nearest(rejected, gates)] if rejected else [])]


def _nearest(
    rows: Sequence[TrialRow], gates: Callable[[TrialRow], Sequence[GateResult]]
) -> TrialRow:
    return min(rows, key=lambda row: (len(refuses(gates(row))), row.drop_points or 0.0))


def gate_rows(variant: str, results: Sequence[GateResult]) -> list[GateRow]:
    """Return results as rows of the report."""
    return [
        GateRow(variant=variant, **{name: getattr(one, name) for name in one.__struct_fields__})
        for one in results
    ]


def _judged(
    row: TrialRow,
    results: Sequence[GateResult],
    yardstick: Yardstick | None,
    max_drop_points: float,
) -> TrialRow:
    refusing = refuses(results)
    if not refusing:
        return row
    told = []
    for one in refusing:
        if one.name == "drop" and yardstick is not None and row.value is not None:
            lost = one.measured or 0.0
            told.append(
                gate_reason(yardstick.metric, yardstick.reference, row.value, lost, max_drop_points)
            )
        else:
            told.append(reason(one))
    rejected: TrialRow = msgspec.structs.replace(row, status="rejected", reason="; ".join(told))
    return rejected
