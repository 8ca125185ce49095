"""What the device is and how it fares, read from /proc and /sys.

Every file may be missing or odd on some board: then the value is left out, and nothing fails.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from edgectl_protocol.messages import Capabilities, SystemSample

__all__ = ["CapabilitySampler", "capabilities", "runtimes", "system_sample"]

SAMPLE_S = 30.0
"""Capabilities are read anew at most so often."""

_FEATURES = frozenset(
    {
        # x86: vector width, dot products, half precision
        "sse4_1", "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw",
        "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
        # ARM: the same, as /proc/cpuinfo of a 64-bit or 32-bit kernel names it
        "neon", "asimd", "asimdhp", "fphp", "asimddp", "i8mm", "bf16", "sve", "sve2", "atomics",
        "vfpv4",
    }
)  # fmt: skip
_RUNTIMES = (
    ("onnxruntime", "onnxruntime", "onnxruntime"),
    ("litert", "ai-edge-litert", "ai_edge_litert"),
    ("litert", "tflite-runtime", "tflite_runtime"),
)
"""Name that bundles ask for, distribution and module of each runtime, the better one first."""
_TEMPERATURE_C = (-40.0, 150.0)
"""What a processor can plausibly have; sensors without a reading answer with wild values."""


def capabilities(labels: Mapping[str, str], state_directory: Path) -> Capabilities:
    """Return what the server picks variants by.

    Args:
        labels: free labels from the configuration.
        state_directory: where models are stored.
    """
    processor = _processor()
    machine = os.uname()
    return Capabilities(
        machine=machine.machine[:32],
        cpu_model=_cpu_model(processor)[:128],
        cpu_features=tuple(sorted(_FEATURES & _features(processor))),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=_memory_bytes("MemTotal"),
        disk_free_bytes=_disk_free_bytes(state_directory),
        os=f"{_distribution()} {machine.release}".strip()[:128],
        runtimes=runtimes(),
        labels=dict(labels),
    )


class CapabilitySampler:
    """Capabilities that are not much older than they look: free disk changes with every bundle."""

    def __init__(self, labels: Mapping[str, str], state_directory: Path) -> None:
        self._labels = labels
        self._state_directory = state_directory
        self._taken_s = float("-inf")
        self._taken = Capabilities(machine="")

    def take(self, elapsed_s: float) -> Capabilities:
        """Return them as they were at most `SAMPLE_S` ago.

        Args:
            elapsed_s: seconds on a clock that only grows.
        """
        if elapsed_s - self._taken_s >= SAMPLE_S:
            self._taken = capabilities(self._labels, self._state_directory)
            self._taken_s = elapsed_s
        return self._taken


def system_sample(
    at: datetime,
    state_directory: Path,
    inference_rss_bytes: int,
    *,
    deltas: Mapping[str, int] | None = None,
    bad_pieces: Mapping[str, int] | None = None,
    samples: Mapping[str, int] | None = None,
) -> SystemSample:
    """Return the device's health.

    Args:
        at: now, with its zone.
        state_directory: where models are stored.
        inference_rss_bytes: resident memory of the inference process.
        deltas: what became of them since the start, by code.
        bad_pieces: pieces of blobs that came and were not wanted, by kind.
        samples: what became of those that were to be redacted or sealed, by code.
    """
    return SystemSample(
        at=at,
        load_1min=os.getloadavg()[0],
        memory_available_bytes=_memory_bytes("MemAvailable"),
        disk_free_bytes=_disk_free_bytes(state_directory),
        temperature_c=_temperature_c(),
        agent_rss_bytes=_own_rss_bytes(),
        inference_rss_bytes=inference_rss_bytes,
        deltas=dict(deltas or {}),
        bad_pieces=dict(bad_pieces or {}),
        samples=dict(samples or {}),
    )


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")[: 256 * 1024]
    except OSError:
        return ""


def _processor() -> dict[str, str]:
    """Return the fields of /proc/cpuinfo: the first processor's, and the board's at its end."""
    fields: dict[str, str] = {}
    for row in _read("/proc/cpuinfo").splitlines():
        name, separator, value = row.partition(":")
        if separator:
            fields.setdefault(name.strip().lower(), value.strip())
    return fields


def _cpu_model(processor: Mapping[str, str]) -> str:
    # ARM kernels name no processor; the device tree names the board, which says as much.
    board = _read("/proc/device-tree/model").rstrip("\0\n")
    return processor.get("model name") or board or processor.get("hardware", "")


def _features(processor: Mapping[str, str]) -> set[str]:
    return set((processor.get("flags") or processor.get("features", "")).split())


def _memory_bytes(field: str) -> int:
    for row in _read("/proc/meminfo").splitlines():
        name, _, value = row.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return 0


def _disk_free_bytes(directory: Path) -> int:
    """Return what an unprivileged process may still write there."""
    for place in (directory, *directory.parents):
        try:
            found = os.statvfs(place)
        except OSError:
            continue  # not made yet
        return found.f_bavail * found.f_frsize
    return 0


def _distribution() -> str:
    for row in _read("/etc/os-release").splitlines():
        name, _, value = row.partition("=")
        if name == "PRETTY_NAME":
            return value.strip().strip('"')
    return ""


def runtimes() -> dict[str, str]:
    """Return the versions of the runtimes that are installed here, by name."""
    found: dict[str, str] = {}
    for name, distribution, module in _RUNTIMES:
        spec = find_spec(module)  # found, not imported: that costs 40 MB
        version = "" if spec is None or spec.origin is None else _version(spec.origin, distribution)
        if version:
            found.setdefault(name, version)
    return found


def _version(origin: str, distribution: str) -> str:
    """Return the version of a package, or nothing where it is not known.

    Its folder of metadata beside it has the version in its name, and saves `importlib.metadata` and
    what that imports, 1 MB. Where it is not so, that is asked.

    Args:
        origin: its file ``__init__.py``.
        distribution: its name in the package index.
    """
    escaped = distribution.replace("-", "_")
    for folder in Path(origin).parents[1].glob(f"{escaped}-*.dist-info"):
        return folder.name.removeprefix(f"{escaped}-").removesuffix(".dist-info")
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _temperature_c() -> float | None:
    """Return the hottest plausible zone in degrees Celsius; None where there is no sensor."""
    readings = []
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*/temp"))[:64]:
        text = _read(zone).strip()
        if text.lstrip("-").isdigit():
            readings.append(int(text) / 1000)
    low, high = _TEMPERATURE_C
    return max((reading for reading in readings if low < reading < high), default=None)


def _own_rss_bytes() -> int:
    fields = _read("/proc/self/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0
