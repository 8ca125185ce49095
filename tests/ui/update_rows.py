"""What devices say of updates beyond their trial: shadows, switches, observations, waiting."""

from __future__ import annotations

from typing import Any

from edgectl_protocol.messages import (
    ObservationReport,
    ProviderTried,
    Reason,
    SwapReport,
    TrialReport,
)
from edgectl_protocol.transfers import TransferReport
from edgectl_protocol.update import UpdateState

__all__ = ["BREACH", "POLICY", "PROVED_BY", "SPECIAL", "evidence"]

POLICY = {
    "max_in_progress": 10,
    "failures_max": 8,
    "observe_s": 3600.0,
    "shadow_s": 600.0,
    "windows": "mon-fri 02:00-04:00",
    "latency_ratio_max": None,
    "goes_with": ["kws@1.0"],
}
"""Of a rollout; what it does not name is as usual."""

TRIAL = TrialReport(
    golden_passed=16,
    golden_total=16,
    load_ms=41.2,
    latency_p50_us=1210.5,
    latency_p95_us=1624.0,
    rss_bytes=74_300_000,
    max_abs_diff=0.00021,
    runs=216,
    threads=2,
    provider="CPUExecutionProvider",
    others=(
        ProviderTried(
            provider="XnnpackExecutionProvider",
            reason=Reason(code="trial.slower", detail="1.9 ms by the median"),
        ),
    ),
    throttled=True,
    temperature_c=81.4,
)
SHADOWED = ObservationReport(
    errors=1,
    latency_p95_us=1600.0,
    reference_p95_us=1250.0,
    class_shift=0.031,
    mirrored=412,
    agreed=404,
    skipped=12,
)
OBSERVED = ObservationReport(
    requests=213,
    errors=66,
    non_finite=0,
    latency_p95_us=1610.0,
    reference_p95_us=1250.0,
    class_shift=0.04,
    mirrored=21,
    agreed=20,
)
TRANSFER = TransferReport(whole_bytes=460_000, fetched_bytes=155_000, delta="sha256:" + "de" * 32)
SWAP = SwapReport(load_ms=52.0, gap_ms=0.0, resident=True)
HELD = Reason(
    code="update.held",
    detail="held by person: the line is being calibrated, until 2026-11-29 07:30 UTC",
)
WINDOW = Reason(
    code="update.window",
    detail="the next maintenance window opens at 2026-11-30T02:00+00:00",
)
PARTNERS = Reason(code="update.partners", detail="switches together with kws, not ready yet")
SPECIAL = {
    8: (UpdateState.WAITING, HELD),
    9: (UpdateState.WAITING, WINDOW),
    10: (UpdateState.WAITING, PARTNERS),
    11: (UpdateState.SHADOWING, None),
}
"""Devices by number, their state, and what they wait for."""
BREACH = "too many errors: 66 of 213 requests failed, at most 5.0% may"


def evidence(end: UpdateState) -> dict[str, Any]:
    """Return what an update that stands in `end` carries."""
    return {
        UpdateState.COMMITTED: {"transfer": TRANSFER, "trial": TRIAL},
        UpdateState.SHADOWING: {"transfer": TRANSFER, "trial": TRIAL, "shadow": SHADOWED},
        UpdateState.WAITING: {"transfer": TRANSFER, "trial": TRIAL},
        UpdateState.OBSERVING: {
            "transfer": TRANSFER,
            "trial": TRIAL,
            "shadow": SHADOWED,
            "swap": SWAP,
        },
        UpdateState.ROLLED_BACK: {
            "transfer": TRANSFER,
            "trial": TRIAL,
            "shadow": SHADOWED,
            "swap": SWAP,
            "observation": OBSERVED,
        },
    }.get(end, {})


PROVED_BY = {
    "transfer": UpdateState.DOWNLOADING,
    "trial": UpdateState.TRIAL,
    "shadow": UpdateState.SHADOWING,
    "swap": UpdateState.ACTIVATING,
    "observation": UpdateState.OBSERVING,
}
"""With the end of which state an update begins to carry what."""
