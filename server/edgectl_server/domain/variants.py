"""Which variants of a model version a device is offered, and in which order it tries them.

Rules, each a filter or a key of the sort:

1. Only variants whose runtime the device reports.
2. Encrypted variants only where the device has sent a key to seal theirs to. Variants that are not
   portable (``docs/pipeline.md``) only where sums of 8-bit products do not saturate.
3. Only variants that can fit: the model file is at most half of the device's memory, where the
   device says how much it has, and what was measured on devices of its class (`domain.targets`) is
   within that memory and within the class's limit.
4. Variants that most devices of the class have refused come last; before them, those that were
   measured above the class's latency limit.
5. When two variants or more were measured on the class, the class's objective decides. ``latency``
   and ``energy``: the cheapest first, where those within `NOISE` of it count as equal and the
   smallest file of them wins. ``size``: as rule 6, with the latencies of the class. What was not
   measured on the class is estimated: the pipeline's latency, times how much more the class needed
   for what was measured on both.
6. With less there is nothing to compare, and the pipeline's own measurement decides: first those
   that are not slower than the reference (fp32), in the order of the pipeline's preference, which
   knows what the push has asked for; of equals the smallest file. `NOISE` is granted, because two
   runs of one model differ by as much. What was not measured counts as not slower. Then those that
   are slower, the fastest first: a slow int8 model (dynamic quantization of convolutions was seen 3
   to 10 times slower than fp32) is the last resort, not the first.

The device's trial has the last word, and the next candidate is tried when it says no.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from edgectl_protocol.messages import Capabilities
from edgectl_server.domain.targets import Target, energy_uj, saturates

__all__ = [
    "CANDIDATES_MAX",
    "NOISE",
    "ClassFigures",
    "Measured",
    "VariantFacts",
    "class_figures",
    "fits",
    "rank_variants",
]

CANDIDATES_MAX = 8
"""As many as an order holds."""
NOISE = 1.1
_REFERENCE = "fp32"
_COMPARABLE = 2
_Key = tuple[float | int | bool | str, ...]


@dataclass(frozen=True)
class VariantFacts:
    """What is known of a published variant."""

    variant: str
    precision: str
    target: str
    manifest: str
    model_bytes: int
    latency_p50_us: float | None = None
    """As the pipeline measured it."""
    rank: int = 0
    """The pipeline's own preference, 0 first; decides between equals."""
    runtime: str = "onnxruntime"
    encrypted: bool = False
    portable: bool = True
    """Whether it is right where sums of 8-bit products saturate."""


@dataclass(frozen=True)
class Measured:
    """One measurement of a variant on a device, by a benchmark or the trial of an update."""

    device_class: str
    device: str
    manifest: str
    latency_p50_us: float | None = None
    latency_p95_us: float | None = None
    load_ms: float | None = None
    rss_bytes: int | None = None
    threads: int = 1
    refused: bool = False
    """The trial said no: the variant is wrong there, too large or too slow."""


@dataclass(frozen=True)
class ClassFigures:
    """A variant on a class: the median over its devices, of the median of each device."""

    devices: int
    latency_p50_us: float | None
    latency_p95_us: float | None
    load_ms: float | None
    rss_bytes: float | None
    threads: int
    refused: bool
    """More than half of the devices say no."""


def class_figures(measurements: Iterable[Measured], device_class: str) -> dict[str, ClassFigures]:
    """Return what a class says of each manifest; measurements of other classes do not matter.

    A device counts once, however often it has measured.
    """
    by_device: dict[str, dict[str, list[Measured]]] = {}
    for one in measurements:
        if one.device_class == device_class:
            by_device.setdefault(one.manifest, {}).setdefault(one.device, []).append(one)
    return {manifest: _summary(list(devices.values())) for manifest, devices in by_device.items()}


def _summary(devices: Sequence[Sequence[Measured]]) -> ClassFigures:
    def middle(value: Callable[[Measured], float | None]) -> float | None:
        each = [[value(one) for one in some] for some in devices]
        found = [[value for value in some if value is not None] for some in each]
        return median([median(some) for some in found if some]) if any(found) else None

    saying_no = sum(2 * sum(one.refused for one in some) > len(some) for some in devices)
    return ClassFigures(
        devices=len(devices),
        latency_p50_us=middle(lambda one: one.latency_p50_us),
        latency_p95_us=middle(lambda one: one.latency_p95_us),
        load_ms=middle(lambda one: one.load_ms),
        rss_bytes=middle(lambda one: one.rss_bytes),
        threads=round(middle(lambda one: one.threads) or 1),
        refused=2 * saying_no > len(devices),
    )


def rank_variants(
    capabilities: Capabilities,
    variants: Iterable[VariantFacts],
    *,
    decrypts: bool = True,
    target: Target | None = None,
    figures: Mapping[str, ClassFigures] | None = None,
) -> tuple[VariantFacts, ...]:
    """Return the variants that the device may run, best first, at most `CANDIDATES_MAX`.

    Args:
        capabilities: as the device reports them.
        variants: of one version.
        decrypts: whether content keys can be sealed to the device.
        target: the device's class; None where it belongs to none.
        figures: what devices of that class have measured (`class_figures`), by manifest.
    """
    figures = {} if target is None or figures is None else figures
    usable = [
        one
        for one in variants
        if fits(one, capabilities, decrypts=decrypts)
        and _is_within(figures.get(one.manifest), capabilities, target)
    ]
    rule = _Rule(usable, figures, target)
    return tuple(sorted(usable, key=rule.key)[:CANDIDATES_MAX])


def fits(variant: VariantFacts, capabilities: Capabilities, *, decrypts: bool) -> bool:
    """Say whether the device could run the variant, by all that is known without measuring."""
    if variant.runtime not in capabilities.runtimes or (variant.encrypted and not decrypts):
        return False
    if not variant.portable and saturates(capabilities.machine, capabilities.cpu_features):
        return False
    return not capabilities.memory_bytes or variant.model_bytes * 2 <= capabilities.memory_bytes


def _is_within(
    figures: ClassFigures | None, capabilities: Capabilities, target: Target | None
) -> bool:
    """Say whether what was measured is within the device's memory and its class's limit."""
    if figures is None or figures.rss_bytes is None or target is None:
        return True
    limits = (capabilities.memory_bytes or None, target.limits.rss_bytes)
    return all(limit is None or figures.rss_bytes <= limit for limit in limits)


class _Rule:
    """The keys by which the variants of one device are sorted."""

    def __init__(
        self,
        usable: Sequence[VariantFacts],
        figures: Mapping[str, ClassFigures],
        target: Target | None,
    ) -> None:
        self._figures = figures
        self._limit_us = None if target is None else target.limits.latency_p95_us
        self._objective = ""
        cost: Callable[[ClassFigures], float | None] = _latency
        timed = [one for one in usable if one.manifest in figures and self._p50(one) is not None]
        comparable = target is not None and len(timed) >= _COMPARABLE
        if target is not None and comparable:
            self._objective = target.objective
            if target.objective == "energy":
                cost = _energy(target.watts_per_core)
        self._costs = _costs(usable, figures if comparable else {}, cost)
        self._reference = min(
            (
                self._costs[one]
                for one in usable
                if one.precision == _REFERENCE and one in self._costs
            ),
            default=None,
        )
        offered = [one for one in usable if not self._is_refused(one) and not self._is_late(one)]
        self._best = min((self._costs[one] for one in offered if one in self._costs), default=None)

    def key(self, one: VariantFacts) -> _Key:
        """Return what `one` is sorted by."""
        rules = {"": self._by_rank, "size": self._by_size}
        decide = rules.get(self._objective, self._by_cost)
        return (self._is_refused(one), self._is_late(one), *decide(one), one.rank, one.variant)

    def _by_rank(self, one: VariantFacts) -> _Key:
        if self._is_slower(one):
            return (True, self._costs[one], one.model_bytes)
        return (False, one.rank, one.model_bytes)

    def _by_size(self, one: VariantFacts) -> _Key:
        if self._is_slower(one):
            return (True, self._costs[one], one.model_bytes)
        return (False, one.model_bytes, self._costs.get(one, 0.0))

    def _is_slower(self, one: VariantFacts) -> bool:
        cost = self._costs.get(one)
        return cost is not None and self._reference is not None and cost > self._reference * NOISE

    def _by_cost(self, one: VariantFacts) -> _Key:
        cost = self._costs.get(one)
        if cost is None:
            return (2, one.model_bytes, 0.0)
        if self._best is None or cost <= self._best * NOISE:
            return (0, one.model_bytes, cost)
        return (1, cost, one.model_bytes)

    def _p50(self, one: VariantFacts) -> float | None:
        return self._figures[one.manifest].latency_p50_us

    def _is_refused(self, one: VariantFacts) -> bool:
        figures = self._figures.get(one.manifest)
        return figures is not None and figures.refused

    def _is_late(self, one: VariantFacts) -> bool:
        figures = self._figures.get(one.manifest)
        if figures is None or figures.latency_p95_us is None or self._limit_us is None:
            return False
        return figures.latency_p95_us > self._limit_us


def _latency(figures: ClassFigures) -> float | None:
    return figures.latency_p50_us


def _energy(watts_per_core: float) -> Callable[[ClassFigures], float | None]:
    def cost(figures: ClassFigures) -> float | None:
        if figures.latency_p50_us is None:
            return None
        return energy_uj(
            figures.latency_p50_us, cores=figures.threads, watts_per_core=watts_per_core
        )

    return cost


def _costs(
    usable: Sequence[VariantFacts],
    figures: Mapping[str, ClassFigures],
    cost: Callable[[ClassFigures], float | None],
) -> dict[VariantFacts, float]:
    """Return the cost of each variant on the class, measured or estimated.

    Without measurements of the class it is the pipeline's latency. Where neither has measured,
    there is no cost.
    """
    measured = {
        one: found
        for one in usable
        if one.manifest in figures and (found := cost(figures[one.manifest])) is not None
    }
    ratios = [
        measured[one] / one.latency_p50_us
        for one in usable
        if one in measured and one.latency_p50_us
    ]
    scale = median(ratios) if ratios else (None if measured else 1.0)
    estimated = {
        one: one.latency_p50_us * scale
        for one in usable
        if one.latency_p50_us is not None and scale is not None
    }
    return {**estimated, **measured}
