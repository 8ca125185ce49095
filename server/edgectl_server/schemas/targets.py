"""Device classes, and what devices have measured."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from edgectl_server.schemas.base import DeviceIdStr, Schema

__all__ = ["BenchmarkStart", "MeasurementInfo", "TargetInfo", "TargetLimits", "TargetList"]

VariantStr = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class TargetLimits(Schema):
    """What a variant may cost on a device of the class; null: no limit."""

    latency_p95_us: float | None
    rss_bytes: int | None


class TargetInfo(Schema):
    """A device class."""

    name: str
    description: str
    machine: list[str]
    cpu_model: list[str]
    cpu_features: list[str]
    """All of them; ``a|b`` is one of both."""
    runtimes: list[str]
    """In order of preference."""
    execution_providers: list[str]
    memory_bytes: int
    """The least that a device of the class has."""
    opset: int
    objective: Literal["latency", "size", "energy"]
    watts_per_core: float
    limits: TargetLimits
    saturates: bool
    """int8 with unsigned activations may saturate there (x86 without VNNI)."""
    devices: int
    """Of the fleet, now."""


class TargetList(Schema):
    """``GET /targets``."""

    items: list[TargetInfo]
    unclassified: int
    """Devices of the fleet that belong to no class, or have not said what they are."""


class BenchmarkStart(Schema):
    """``POST /models/{name}/versions/{version}/benchmarks``."""

    device: DeviceIdStr
    variants: list[VariantStr] = Field(default=[], max_length=8)
    """Empty: all that the device can run."""
    runs: int = Field(default=200, ge=1, le=10_000)
    """Timed runs of each variant, beside one for each golden input."""


class MeasurementInfo(Schema):
    """One variant, measured on one device in its trial process."""

    variant: str
    manifest: str
    device: str
    device_class: str
    source: Literal["trial", "benchmark"]
    """Of an update, or because somebody asked."""
    verdict: Literal["ok", "rejected", "failed"]
    reason: str = ""
    """Why it was not accepted, or not measured."""
    at: datetime
    load_ms: float | None = None
    latency_p50_us: float | None = None
    latency_p95_us: float | None = None
    rss_bytes: int | None = None
    energy_uj: float | None = None
    """A proxy: p50 times threads times the watts of the class."""
    golden_passed: int | None = None
    golden_total: int | None = None
    max_abs_diff: float | None = None
    runs: int | None = None
    threads: int | None = None
    runtime: str = ""
    cpu_model: str = ""
