"""Device classes, and what devices have measured."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct, field

__all__ = ["BenchmarkStart", "MeasurementInfo", "TargetInfo", "TargetLimits", "TargetList"]


class TargetLimits(Struct, frozen=True):
    """What a variant may cost on a device of the class."""

    latency_p95_us: float | None
    rss_bytes: int | None


class TargetInfo(Struct, frozen=True):
    """A device class."""

    name: str
    description: str
    machine: list[str]
    cpu_model: list[str]
    cpu_features: list[str]
    runtimes: list[str]
    execution_providers: list[str]
    memory_bytes: int
    opset: int
    objective: str
    watts_per_core: float
    limits: TargetLimits
    saturates: bool
    devices: int


class TargetList(Struct, frozen=True):
    """``GET /targets``."""

    items: list[TargetInfo]
    unclassified: int


class BenchmarkStart(Struct, frozen=True):
    """What a device is asked to measure."""

    device: str
    variants: list[str] = field(default_factory=list)
    runs: int = 200


class MeasurementInfo(Struct, frozen=True):
    """One variant, measured on one device in its trial process."""

    variant: str
    manifest: str
    device: str
    device_class: str
    source: str
    verdict: str
    at: datetime
    reason: str = ""
    load_ms: float | None = None
    latency_p50_us: float | None = None
    latency_p95_us: float | None = None
    rss_bytes: int | None = None
    energy_uj: float | None = None
    golden_passed: int | None = None
    golden_total: int | None = None
    max_abs_diff: float | None = None
    runs: int | None = None
    threads: int | None = None
    runtime: str = ""
    cpu_model: str = ""
