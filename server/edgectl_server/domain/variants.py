"""Which variants of a model version a device is offered, and in which order it tries them.

Rules, each a filter or a key of the sort:

1. Only variants whose runtime the device reports.
2. Encrypted variants only where the device has sent a key to seal theirs to.
3. Only variants that can fit: the model file is at most half of the device's memory, where the
   device says how much it has.
4. First those that are not slower than the reference (fp32) by the pipeline's measurement, the
   smallest file first: less to fetch, less memory, and on the device at least as fast by all that
   is known. `NOISE` is granted, because two runs of one model differ by as much. What was not
   measured counts as not slower.
5. Then those that are slower, the fastest first: a slow int8 model (dynamic quantization of
   convolutions was seen 3 to 10 times slower than fp32) is the last resort, not the first.

The pipeline measures on its own machine; the device's trial has the last word, and the next
candidate is tried when it says no.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgectl_protocol.messages import Capabilities

__all__ = ["CANDIDATES_MAX", "NOISE", "VariantFacts", "rank_variants"]

CANDIDATES_MAX = 8
"""As many as an order holds."""
NOISE = 1.1
_REFERENCE = "fp32"


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


def rank_variants(
    capabilities: Capabilities, variants: Iterable[VariantFacts], *, decrypts: bool = True
) -> tuple[VariantFacts, ...]:
    """Return the variants that the device may run, best first, at most `CANDIDATES_MAX`.

    Args:
        capabilities: as the device reports them.
        variants: of one version.
        decrypts: whether content keys can be sealed to the device.
    """
    usable = [
        one for one in variants if _fits(one, capabilities) and (decrypts or not one.encrypted)
    ]
    reference = min(
        (
            one.latency_p50_us
            for one in usable
            if one.precision == _REFERENCE and one.latency_p50_us is not None
        ),
        default=None,
    )
    return tuple(sorted(usable, key=lambda one: _key(one, reference))[:CANDIDATES_MAX])


def _fits(variant: VariantFacts, capabilities: Capabilities) -> bool:
    if variant.runtime not in capabilities.runtimes:
        return False
    return not capabilities.memory_bytes or variant.model_bytes * 2 <= capabilities.memory_bytes


def _key(variant: VariantFacts, reference: float | None) -> tuple[bool, float, float, int, str]:
    latency = variant.latency_p50_us
    slower = latency is not None and reference is not None and latency > reference * NOISE
    if slower:
        assert latency is not None
        return (True, latency, variant.model_bytes, variant.rank, variant.variant)
    return (False, variant.model_bytes, latency or 0.0, variant.rank, variant.variant)
