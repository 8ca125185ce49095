"""What can be said about a bundle that comes out the same whenever the same is made again.

Nothing here is measured by a clock: what is signed can be rebuilt, so that no latency, no memory
and no name of a machine may be in it. Those are in the report, beside the bundle.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib import metadata

from edgectl_protocol import __version__
from edgectl_protocol.manifest import BundleConfig

__all__ = ["Provenance", "Tool", "tool_versions"]

Tool = tuple[str, str]
"""Name and version."""
_LIBRARIES = ("numpy", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Provenance:
    """Where a variant comes from, and what is in it.

    Attributes:
        config: the bundle's description.
        opset: of the model that was pushed.
        nodes: of its graph.
        parameters: numbers in its weights.
        metric_source: which data it was measured on, or nothing.
        golden: how many golden cases were chosen for which reason.
        tools: that made it, by name.
        model_digest: of the model file; empty for an encrypted bundle, whose plain file is nobody
            else's business.
        model_bytes: its length.
        card: what whoever pushed it has written; hostile.
    """

    config: BundleConfig
    opset: int
    nodes: int
    parameters: int
    metric_source: str = ""
    golden: dict[str, int] = field(default_factory=dict)
    tools: tuple[Tool, ...] = ()
    model_digest: str = ""
    model_bytes: int = 0
    card: str = ""


def tool_versions() -> tuple[Tool, ...]:
    """Return what the pipeline of this installation is made of; its child runs the same."""
    found = [(name, metadata.version(name)) for name in _LIBRARIES]
    return tuple(sorted([*found, ("edgectl", __version__), ("python", platform.python_version())]))
