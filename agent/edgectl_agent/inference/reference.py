"""A bundle's signed reference, opened, and rows described as it describes its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from edgectl_agent.bundle import Bundle
from edgectl_agent.runtime import Tensor
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import BundleConfig
from edgectl_protocol.names import digest_of
from edgectl_protocol.watching import (
    REFERENCE_BYTES_MAX,
    Watched,
    decode_reference,
    decode_watched,
    watched_of,
)
from edgectl_statistics.features import Described, Plan

__all__ = ["Describer", "Opened", "open_reference", "problem_of_reference"]

_log = logging.getLogger(__name__)
Rows = Mapping[str, Tensor]


class Opened(NamedTuple):
    """What rows of a bundle are compared with."""

    watched: Watched
    digest: str
    """Of its file."""


class Describer:
    """Describes rows of one model by the features of its reference, in their order.

    Attributes:
        inputs: which inputs are needed.
        outputs: which outputs are.
    """

    def __init__(self, config: BundleConfig, watched: Watched) -> None:
        scores = config.scores if watched.classes else None
        self.inputs = tuple(one.name for one in watched.inputs)
        self.outputs = tuple(one.name for one in watched.outputs)
        if scores is not None:
            self.outputs = (*self.outputs, scores.output)
        self._plan = Plan(watched.inputs, watched.outputs, scores)
        self._features = watched.features
        self._columns: list[int] | None = None
        """Places of the reference's features among what is described; None: not yet known."""

    def describe(self, inputs: Rows, outputs: Rows) -> Described:
        """Describe rows.

        Args:
            inputs: [N, ...] by name, `inputs` at least.
            outputs: [N, ...] by name, `outputs` at least.

        Raises:
            KeyError, ValueError, IndexError: the reference is of rows of another shape.
        """
        if self._columns is None:
            names = {name: at for at, name in enumerate(self._plan.names(inputs, outputs))}
            self._columns = [names[one.name] for one in self._features]
        values, classes = self._plan.describe(inputs, outputs)
        return Described(values[:, self._columns], classes)


def open_reference(bundle: Bundle) -> Opened | None:
    """Return what is counted for a bundle; None where it does not say that of this model."""
    if not bundle.watched and not bundle.reference:
        return None
    try:
        with Path(bundle.watched or bundle.reference).open("rb") as file:
            content = file.read(REFERENCE_BYTES_MAX + 1)
        if bundle.watched:
            watched = decode_watched(content)
        else:
            watched = watched_of(decode_reference(content))
    except (OSError, ProtocolError) as error:
        _log.warning("%s is not watched for drift: %s", bundle.manifest, error)
        return None
    problem = problem_of_reference(bundle.config, watched)
    if problem:
        _log.warning("%s is not watched for drift: %s", bundle.slot, problem)
        return None
    return Opened(watched, digest_of(content))


def problem_of_reference(config: BundleConfig, watched: Watched) -> str:
    """Return why rows of a model cannot be described by a reference; empty when they can."""
    names = {one.name for one in config.inputs}
    outputs = {one.name for one in config.outputs}
    known = {one.name for one in watched.inputs} <= names and {
        one.name for one in watched.outputs
    } <= outputs
    if not known or not watched.features or (watched.classes and config.scores is None):
        return "what it watches is of another model"
    return ""
