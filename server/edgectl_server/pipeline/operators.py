"""Are the operators those of the model's opset, and does the oldest runtime on a device have them?

onnxruntime says "NOT_IMPLEMENTED" only where a session is made: on this machine, which has a newer
one than some devices. So what the oldest lacks is a table here, made from its list of kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import onnx

from edgectl_server.pipeline.errors import PipelineRefused

__all__ = ["OLDEST_RUNTIME", "check_operator"]

OLDEST_RUNTIME = "onnxruntime 1.23"
"""The oldest on a device; the agent's dependencies say so."""

_STANDARD = {"": "", "ai.onnx": "", "ai.onnx.ml": "ai.onnx.ml"}
_LACKING = frozenset(
    {
        ("DeformConv", 19),
        ("DeformConv", 22),
        ("GlobalLpPool", 22),
        ("ImageDecoder", 20),
        ("LpNormalization", 22),
        ("MaxRoiPool", 22),
        ("Multinomial", 22),
        ("RandomNormal", 22),
        ("RandomNormalLike", 22),
        ("RandomUniform", 22),
        ("RandomUniformLike", 22),
        ("RoiAlign", 22),
    }
)
"""Operator and the opset since which it is meant so: onnxruntime 1.23.0 has neither a CPU kernel
(`get_all_opkernel_def`) nor a function body for it."""
_INSTEAD = {"Upsample": "Resize", "Scatter": "ScatterElements"}


def check_operator(node: Any, opsets: dict[str, int]) -> None:
    """Check one node of a graph whose operators are known by name.

    Args:
        node: an ``onnx.NodeProto``.
        opsets: version by domain, as the model declares them; the default domain is "".

    Raises:
        PipelineRefused: ``model.operator``.
    """
    domain = _STANDARD.get(node.domain)
    if domain is None:
        return
    problem = _problem(node.op_type, domain, opsets.get(domain))
    if problem is not None:
        detail, hint = problem
        where = f"Node {node.name[:80]!r}: " if node.name else ""
        detail = detail if where else detail[:1].upper() + detail[1:]
        raise PipelineRefused("model.operator", f"{where}{detail}.", f"{hint}.")


@functools.lru_cache(maxsize=1024)
def _problem(operator: str, domain: str, opset: int | None) -> tuple[str, str] | None:
    """Return what is wrong with an operator in an opset and what to do, or None."""
    if opset is None:
        detail = f"the model does not say which version of {domain or 'ai.onnx'} {operator} is of"
        return detail, "Export it again; every domain that is used needs an opset_import"
    if not onnx.defs.has(operator, opset, domain):
        since = min(_versions(operator, domain))
        detail = f"the model has opset {opset}, and {operator} exists only since opset {since}"
        return detail, f"Export it with opset_version={since} or newer"
    schema = onnx.defs.get_schema(operator, opset, domain)
    since = schema.since_version
    if schema.deprecated:
        instead = f", {_INSTEAD[operator]} has its place" if operator in _INSTEAD else ""
        detail = f"{operator} is deprecated since opset {since}{instead}; the model has {opset}"
        return detail, f"Export it with a newer exporter, or with opset_version={since - 1}"
    if domain or (operator, since) not in _LACKING:
        return None
    detail = (
        f"devices may have {OLDEST_RUNTIME}, which lacks {operator} as it is since opset {since}"
    )
    if any(one < since and (operator, one) not in _LACKING for one in _versions(operator, domain)):
        return detail, f"Export it with opset_version={since - 1}"
    return detail, "Export the model without it; no opset of it runs on a processor"


def _versions(operator: str, domain: str) -> Iterator[int]:
    return (
        schema.since_version
        for schema in onnx.defs.get_all_schemas_with_history()
        if schema.name == operator and schema.domain == domain
    )
