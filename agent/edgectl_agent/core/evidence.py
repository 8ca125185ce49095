"""Counts by which a model is judged while it is observed, or while it answers copies.

Plain values that add up; who counts them is `edgectl_agent.inference`, who judges them is
`edgectl_agent.core.observation`. Histograms have the edges of `edgectl_protocol.histograms`.
"""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Copies", "Evidence"]


class Evidence(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one model did with live requests, since it began to serve."""

    manifest: str
    requests: int = 0
    errors: int = 0
    non_finite: int = 0
    """Requests with a NaN or an infinity among the outputs."""
    latency: tuple[int, ...] = ()
    """Answered requests by the time of the model's run."""
    classes: tuple[int, ...] = ()
    """Predictions by class index."""


class Copies(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the companion of the serving model did with copies of live requests."""

    runs: int = 0
    """Copies that it was given; `errors` of them failed."""
    errors: int = 0
    non_finite: int = 0
    """Those with a NaN or an infinity where the live answer had none."""
    agreed: int = 0
    """Those to which both gave the same answer; failed ones are not among them."""
    skipped: int = 0
    """Requests that were chosen and not copied: over the budget, too large, or of other inputs."""
    hung: bool = False
    """It did not let itself be stopped, and gets no more copies."""
    latency: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()
