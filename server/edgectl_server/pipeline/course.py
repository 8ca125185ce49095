"""How far a search is, and the report on it: also of a push that is refused on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edgectl_protocol.manifest import GateResult, TensorSpec
from edgectl_server.pipeline.baseline import Baseline
from edgectl_server.pipeline.checks import ModelFacts
from edgectl_server.pipeline.data import Samples, random_samples
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.execution import measured_on
from edgectl_server.pipeline.spec import (
    Confusion,
    DataCheckRow,
    LayerRow,
    PipelineSpec,
    SmallSteps,
    TensorRow,
    TrialReport,
    TrialRow,
    to_document,
)
from edgectl_server.pipeline.tflite_checks import TfliteFacts
from edgectl_server.pipeline.trials import Trials
from edgectl_server.pipeline.verdicts import gate_rows, nearest_rows, variant_gates

__all__ = ["Course", "Findings", "Subject"]

_UNSTEADY = frozenset({"latency_p50", "latency_p95", "ram"})


@dataclass(frozen=True)
class Subject:
    """What is being worked on, once it has passed the checks."""

    spec: PipelineSpec
    source: str
    model: Any
    facts: ModelFacts
    processing: tuple[str, ...]
    calibration: Samples | None
    evaluation: Samples | None
    tflite: TfliteFacts | None = None
    """Of a ``.tflite`` file, which is published as it is."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs."""
        return self.facts.inputs

    @property
    def samples(self) -> Samples:
        """The best data there is: evaluation, calibration, made up."""
        return (
            self.evaluation
            or self.calibration
            or random_samples(self.inputs, self.spec.limits.golden_cases, self.spec.seed)
        )


@dataclass(frozen=True)
class Findings:
    """What is known of a version before a recipe is tried."""

    gates: tuple[GateResult, ...]
    data_checks: tuple[DataCheckRow, ...]


@dataclass
class Course:
    """How far the search is: what a report is made of, also of a push that is refused."""

    subject: Subject
    trials: Trials
    findings: Findings
    begun: float
    warnings: list[str]
    rows: list[TrialRow] = field(default_factory=list)
    layers: tuple[LayerRow, ...] = ()
    memory: dict[str, int] = field(default_factory=dict)
    published: list[TrialRow] = field(default_factory=list)
    golden: dict[str, int] = field(default_factory=dict)
    """How many golden cases were chosen for which reason."""
    small_steps: list[SmallSteps] = field(default_factory=list)

    def refuse(self, refusal: PipelineRefused | None) -> None:
        """Raise the refusal, if it is one, with the report so far."""
        if refusal is not None:
            refusal.data["report"] = to_document(self.report())
            raise refusal

    def gates(self, row: TrialRow) -> tuple[GateResult, ...]:
        """Return how a variant stands to its own gates."""
        return variant_gates(row, self.trials.evidence, self.memory, self.subject.spec)

    def signed_gates(self, row: TrialRow) -> tuple[GateResult, ...]:
        """Return what is signed into a bundle: the gates of the version, and its own.

        What a clock or the memory's state has measured is left out: the same push makes the same
        bytes again.
        """
        own = [
            msgspec.structs.replace(one, measured=None) if one.name in _UNSTEADY else one
            for one in self.gates(row)
        ]
        return (*self.findings.gates, *own)

    def report(self) -> TrialReport:
        """Return the report as far as it is known."""
        gates = gate_rows("", self.findings.gates)
        shown = self.published or nearest_rows(self.rows, self.gates)
        for row in shown:
            gates += gate_rows(row.variant if self.published else row.recipe, self.gates(row))
        chosen = next((row for row in self.published if row.precision != "fp32"), None)
        return msgspec.structs.replace(
            _report(
                self.subject,
                self.trials.baseline,
                self.rows,
                self.layers,
                warnings=self.warnings,
                seconds=time.monotonic() - self.begun,
            ),
            golden=self.golden,
            gates=tuple(gates),
            data_checks=self.findings.data_checks,
            confusion=self._confusion(shown),
            top_disagreements=()
            if chosen is None
            else self.trials.evidence[chosen.recipe].disagreements,
            small_steps=tuple(self.small_steps),
        )

    def _confusion(self, shown: Sequence[TrialRow]) -> Confusion | None:
        """Return that of the first choice, or of what came nearest where nothing is published."""
        before = self.trials.baseline.evidence.confusion
        chosen = next((row for row in shown if row.precision != "fp32"), None)
        recipe = "fp32" if chosen is None else chosen.recipe
        variant = chosen.variant if chosen is not None and self.published else recipe
        after = self.trials.evidence[recipe].confusion
        if before is None or after is None:
            return None
        return Confusion(variant=variant, before=before, after=after)


def _report(
    subject: Subject,
    baseline: Baseline,
    rows: Sequence[TrialRow],
    layers: tuple[LayerRow, ...],
    *,
    warnings: Sequence[str],
    seconds: float,
) -> TrialReport:
    yardstick = baseline.yardstick
    return TrialReport(
        metric=yardstick.metric if yardstick else None,
        metric_source=yardstick.source if yardstick else None,
        samples=yardstick.samples.count if yardstick else 0,
        reference=yardstick.reference if yardstick else None,
        max_drop_points=subject.spec.max_drop_points,
        opset=subject.facts.opset,
        nodes=subject.facts.nodes,
        parameters=subject.facts.parameters,
        inputs=_tensor_rows(subject.inputs),
        outputs=_tensor_rows(baseline.specs),
        trials=tuple(rows),
        measured_on=measured_on([baseline.runtime, *(row.runtime for row in rows)]),
        warnings=tuple(warnings),
        sensitivity=layers,
        search_s=round(seconds, 2),
        processing=subject.processing,
    )


def _tensor_rows(specs: tuple[TensorSpec, ...]) -> tuple[TensorRow, ...]:
    return tuple(
        TensorRow(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in specs
    )
