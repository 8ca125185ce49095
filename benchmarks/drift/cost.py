"""What watching and sampling cost a device: processor time an inference, bytes a day."""

from __future__ import annotations

import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.drift.populations import Population
from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.sampling import Sampler
from edgectl_agent.inference.watch import Watch
from edgectl_protocol.compression import compress
from edgectl_protocol.manifest import (
    BundleConfig,
    Golden,
    Lineage,
    Quantization,
)
from edgectl_protocol.messages import TelemetryBatch, encode
from edgectl_protocol.names import digest_of
from edgectl_protocol.samples import SamplePolicy, SampleReason
from edgectl_protocol.watching import Reference, WatchPolicy, watched_of
from edgectl_server.pipeline.data import Samples
from edgectl_server.pipeline.reference import make_reference
from edgectl_statistics.features import Described, plan_of

__all__ = ["Cost", "cost_of"]

_REQUESTS = 6000
_PER_S = 20.0
_WINDOW_S = 600
_DAY_S = 86_400
_SAMPLE_BYTES = 5_000_000
"""Of samples a day."""
_REASONS: tuple[SampleReason, ...] = ("random", "uncertain", "out-of-reference", "diverse")
_ENVELOPE_BYTES = 300
"""Of a signed envelope beside its payload in base64: type, key and signature."""


class Cost(NamedTuple):
    """Of one data set."""

    watched_us: float
    """Processor time of a request that is described."""
    skipped_us: float
    """The same of one that comes too soon after another."""
    bytes_a_day: int
    """At 20 rows a second without a pause, windows of ten minutes, compressed and signed."""
    plain_bytes_a_day: int
    """The same where the server does not take compressed ones."""
    features: int
    looked_at_us: dict[str, float]
    """Processor time of a request that is looked at for a sample, by reason; of all together."""
    not_looked_at_us: float
    """The same of one that comes too soon after another."""


def cost_of(population: Population) -> Cost:
    """Offer rows to a device's counts, one a request."""
    inputs, outputs, scores = population.specs
    digest = digest_of(b"")
    config = BundleConfig(
        model="bench",
        version="1",
        variant="fp32",
        runtime="onnxruntime",
        format="onnx",
        precision="fp32",
        inputs=inputs,
        outputs=outputs,
        golden=Golden(cases=1, tolerances={}),
        quantization=Quantization(recipe="fp32"),
        lineage=Lineage(source=digest),
        scores=scores,
    )
    plan = plan_of(inputs, outputs, scores)
    assert plan is not None
    rows = len(population.plain)
    nobody = np.zeros(0, np.int64)
    samples = Samples(role="evaluation", inputs=population.inputs)
    described = Described(population.plain, nobody)
    reference = Reference(
        definition=1,
        source="evaluation",
        dataset=digest,
        rows=rows,
        inputs=plan.inputs,
        features=make_reference(population.names, described, samples),
        classes=(0,) * outputs[0].shape[-1],
    )
    with tempfile.TemporaryDirectory() as name:
        bundle = Bundle(
            slot="bench",
            version="1",
            variant="fp32",
            manifest=digest,
            model=str(Path(name)),
            golden=name,
            config=config,
        )
    requests = [
        (
            {key: array[at : at + 1] for key, array in population.inputs.items()},
            {key: array[at : at + 1] for key, array in population.outputs.items()},
        )
        for at in range(rows)
    ]
    elapsed = [0.0]
    begin = datetime(2026, 1, 1, tzinfo=UTC)

    def now() -> datetime:
        return begin + timedelta(seconds=elapsed[0])

    def monotonic() -> float:
        return elapsed[0]

    watched = watched_of(reference)
    watch = Watch(bundle, watched, digest, now=now, monotonic=monotonic)
    policy = WatchPolicy(rows_per_s=_PER_S, window_s=_WINDOW_S)
    watch.take(policy)

    def run(step_s: float) -> float:
        started = time.process_time()
        for number in range(_REQUESTS):
            elapsed[0] += step_s
            if watch.offer(*requests[number % rows]):
                watch.settle()
        return (time.process_time() - started) / _REQUESTS * 1e6

    watched_us = run(1.0001 / _PER_S)
    skipped_us = run(1e-6)
    windows = []
    while len(windows) < 3:
        run(1.0001 / _PER_S)
        windows += watch.take(policy)
    batches = [
        encode(TelemetryBatch(device="pi-0001", boot=7, seq=number, features=one))
        for number, one in enumerate(windows)
        if one.end - one.start == timedelta(seconds=_WINDOW_S)
    ]
    payload, packed = (max(map(len, one)) for one in (batches, map(compress, batches)))
    message, small = (-(-size // 3) * 4 + _ENVELOPE_BYTES for size in (payload, packed))

    def sample(reasons: tuple[SampleReason, ...], step_s: float) -> float:
        sampler = Sampler(bundle, watched, now=now, monotonic=monotonic)
        sampler.take(SamplePolicy(bytes_per_day=_SAMPLE_BYTES, reasons=reasons))
        started = time.process_time()
        for number in range(_REQUESTS):
            elapsed[0] += step_s
            sampler.offer(*requests[number % rows])
        return (time.process_time() - started) / _REQUESTS * 1e6

    alone: dict[str, float] = {one: sample((one,), 1.0001 / _PER_S) for one in _REASONS}
    return Cost(
        watched_us,
        skipped_us,
        small * _DAY_S // _WINDOW_S,
        message * _DAY_S // _WINDOW_S,
        len(reference.features),
        {**alone, "all": sample(_REASONS, 1.0001 / _PER_S)},
        sample(_REASONS, 1e-6),
    )
