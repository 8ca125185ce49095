"""How much each operator loses by itself when it alone is quantized.

The loss of an operator is the share of the outputs' variance that is lost, 1 - R² against the fp32
outputs, on a few samples. It needs no labels and falls with every improvement, which a share of
right answers on few samples does not. Large models are looked at in groups of neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgectl_protocol.manifest import TensorSpec
from edgectl_server.pipeline.data import Samples
from edgectl_server.pipeline.execution import Outputs, Runner
from edgectl_server.pipeline.metrics import kept_variance
from edgectl_server.pipeline.recipes import NothingToQuantize, Recipe, make
from edgectl_server.pipeline.spec import LayerRow

__all__ = ["SAMPLES_MAX", "Group", "group_nodes", "measure_group"]

SAMPLES_MAX = 64
_GROUPS_MAX = 48


@dataclass(frozen=True)
class Group:
    """Neighbours in the graph that stay in float together, or not."""

    nodes: tuple[str, ...]
    operators: tuple[str, ...]


def group_nodes(nodes: Sequence[tuple[str, str]]) -> list[Group]:
    """Return at most `_GROUPS_MAX` groups of (name, operator), in the order of the graph."""
    size = -(-len(nodes) // _GROUPS_MAX) if nodes else 1
    parts = [nodes[at : at + size] for at in range(0, len(nodes), size)]
    return [
        Group(tuple(name for name, _ in part), tuple(operator for _, operator in part))
        for part in parts
    ]


def measure_group(
    group: Group,
    recipe: Recipe,
    *,
    source: Path,
    target: Path,
    cache: Path,
    inputs: tuple[TensorSpec, ...],
    samples: Samples,
    wanted: Outputs,
) -> LayerRow:
    """Quantize one group alone and return what it loses.

    Args:
        group: which.
        recipe: how.
        source: the cleaned fp32 model.
        target: a file for the variant; it is removed again.
        cache: the ranges of the recipe.
        inputs: of the model.
        samples: on which.
        wanted: the fp32 outputs for them.
    """
    name, operator = group.nodes[0], group.operators[0]
    count = len(group.nodes)
    if count > 1:
        name, operator = f"{name} and {count - 1} more", " ".join(sorted(set(group.operators)))
    try:
        make(recipe, source, target, cache, only=group.nodes)
        loss = 1.0 - kept_variance(Runner(target, inputs).run(samples), wanted)
    except NothingToQuantize:
        loss = 0.0
    finally:
        target.unlink(missing_ok=True)
    return LayerRow(node=name[:256], operator=operator[:256], loss=round(loss, 6), nodes=count)
