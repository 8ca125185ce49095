"""Whether a sample is of the inputs and outputs that the signed bundle of its model declares."""

from __future__ import annotations

from edgectl_protocol.manifest import BundleConfig, TensorSpec
from edgectl_protocol.samples import SampleHead, SampleTensor, sample_datatype

__all__ = ["misfit"]


def misfit(head: SampleHead, config: BundleConfig) -> str:
    """Return where a sample is another thing than a bundle declares; empty: nowhere."""
    declared = {f"input.{spec.name}": spec for spec in config.inputs}
    declared |= {f"output.{spec.name}": spec for spec in config.outputs}
    found = {one.name: one for one in head.tensors}
    if set(declared) != set(found):
        return f"it has {sorted(found)}, the model {sorted(declared)}"[:600]
    for name, spec in declared.items():
        if not _fits(found[name], spec):
            one = found[name]
            return f"{name} is {one.datatype} {list(one.shape)}, not {spec.datatype} {spec.shape}"
    return ""


def _fits(tensor: SampleTensor, spec: TensorSpec) -> bool:
    return (
        tensor.datatype == sample_datatype(spec.datatype)
        and len(tensor.shape) == len(spec.shape)
        and all(size in {-1, got} for size, got in zip(spec.shape, tensor.shape, strict=True))
    )
