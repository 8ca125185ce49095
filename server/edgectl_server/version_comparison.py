"""Two versions of a model side by side; pure."""

from __future__ import annotations

from collections.abc import Sequence

from edgectl_server.schemas import (
    ContractDifference,
    GateDifference,
    TensorInfo,
    VariantDifference,
    VersionComparison,
    VersionDetail,
    VersionSummary,
)

__all__ = ["compare_versions"]

_Contract = dict[tuple[str, str], str]


def compare_versions(
    left: VersionDetail, right: VersionDetail, *, ancestor: str | None
) -> VersionComparison:
    """Return what differs between two versions, and what both have.

    Args:
        left: usually the older one.
        right: of the same model.
        ancestor: that both descend from.
    """
    return VersionComparison(
        left=VersionSummary.model_validate(
            left.model_dump(include=set(VersionSummary.model_fields))
        ),
        right=VersionSummary.model_validate(
            right.model_dump(include=set(VersionSummary.model_fields))
        ),
        ancestor=ancestor,
        contract=_contract_differences(left, right),
        variants=_variant_differences(left, right),
        gates=_gate_differences(left, right),
    )


def _contract_differences(left: VersionDetail, right: VersionDetail) -> list[ContractDifference]:
    if left.report is None or right.report is None:
        return []  # nothing is known of one of them, which is no difference
    before, after = _contract(left), _contract(right)
    return [
        ContractDifference.model_validate(
            {"part": part, "name": name, "left": before.get(key), "right": after.get(key)}
        )
        for key in [*before, *(key for key in after if key not in before)]
        for part, name in [key]
        if before.get(key) != after.get(key)
    ]


def _contract(version: VersionDetail) -> _Contract:
    report = version.report
    assert report is not None
    return {
        **_tensors("input", report.inputs),
        **_tensors("output", report.outputs),
        **{("labels", str(number)): text for number, text in enumerate(version.labels)},
        **{("processing", str(number)): text for number, text in enumerate(report.processing)},
    }


def _tensors(part: str, tensors: Sequence[TensorInfo]) -> _Contract:
    def shape(tensor: TensorInfo) -> str:
        return ", ".join("N" if size < 0 else str(size) for size in tensor.shape)

    return {(part, one.name): f"{one.datatype} [{shape(one)}]" for one in tensors}


def _variant_differences(left: VersionDetail, right: VersionDetail) -> list[VariantDifference]:
    before = {one.variant: one for one in left.variants}
    after = {one.variant: one for one in right.variants}
    return [
        VariantDifference(variant=name, left=before.get(name), right=after.get(name))
        for name in sorted(before.keys() | after.keys())
    ]


def _gate_differences(left: VersionDetail, right: VersionDetail) -> list[GateDifference]:
    before, after = (
        {(gate.name, gate.variant, gate.direction): gate for gate in version.report.gates}
        if version.report is not None
        else {}
        for version in (left, right)
    )
    keys = [*before, *(key for key in after if key not in before)]
    return [
        GateDifference(name=key[0], variant=key[1], left=before.get(key), right=after.get(key))
        for key in keys
    ]
