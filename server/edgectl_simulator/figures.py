"""What a simulated device measures and is: drawn, and plausible. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from edgectl_protocol.histograms import CONFIDENCE_EDGES, LATENCY_EDGES_US, bin_of
from edgectl_protocol.messages import Capabilities, InferenceWindow, Installed, SystemSample
from edgectl_simulator.draws import Draws

__all__ = ["CAPABILITIES", "inference_windows", "system_sample"]

CAPABILITIES = Capabilities(
    machine="aarch64",
    cpu_model="simulated",
    cpu_features=("asimd", "asimddp", "asimdhp", "atomics", "fphp"),
    cores=4,
    memory_bytes=4_000_000_000,
    disk_free_bytes=8_000_000_000,
    os="simulated",
    runtimes={"litert": "2.1.0", "onnxruntime": "1.32.0"},
    labels={"simulated": "yes"},
)
"""The same for all, so that all belong to one device class, which no real board is in."""
_LATENCY_US = 400.0
_RARER_CLASSES = (0.2, 0.1)
"""Share of what is answered with the second class and the third; the first is all else."""


def inference_windows(
    running: Mapping[str, Installed],
    *,
    start: datetime,
    end: datetime,
    requests_per_s: float,
    slow: float,
    draws: Draws,
) -> tuple[InferenceWindow, ...]:
    """Return what was counted from `start` to `end`, one window a slot."""
    windows = []
    for slot, installed in running.items():
        requests = int(draws.around(requests_per_s * (end - start).total_seconds()))
        latency = [0] * (len(LATENCY_EDGES_US) + 1)
        middle = bin_of(LATENCY_EDGES_US, draws.around(_LATENCY_US) * slow)
        latency[middle] += requests - requests // 10
        latency[min(middle + 1, len(latency) - 1)] += requests // 10
        confidence = [0] * (len(CONFIDENCE_EDGES) + 1)
        confidence[-1] += requests - requests // 5
        confidence[-4] += requests // 5
        rarer = [int(draws.around(share * requests)) for share in _RARER_CLASSES]
        classes = (max(0, requests - sum(rarer)), *rarer)
        windows.append(
            InferenceWindow(
                slot=slot,
                version=installed.version,
                manifest=installed.manifest,
                start=start,
                end=end,
                requests=requests,
                latency=tuple(latency),
                confidence=tuple(confidence),
                classes=classes,
            )
        )
    return tuple(windows)


def system_sample(at: datetime, draws: Draws) -> SystemSample:
    """Return how the device fares."""
    return SystemSample(
        at=at,
        load_1min=draws.around(0.4),
        memory_available_bytes=int(draws.around(2e9)),
        disk_free_bytes=8_000_000_000,
        temperature_c=40.0 + 20.0 * draws.next(),
        agent_rss_bytes=34_000_000,
        inference_rss_bytes=90_000_000,
    )
