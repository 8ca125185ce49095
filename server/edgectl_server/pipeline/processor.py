"""What is known of this machine's processor, without loading a runtime."""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["processor_name", "saturates"]


def processor_name() -> str:
    """Return the processor's name and architecture."""
    machine, model = platform.machine(), _cpuinfo("model name", "Model")
    return f"{model} ({machine})" if model else machine


def saturates() -> bool:
    """Say whether sums of 8-bit products saturate on this processor: x86-64 without VNNI."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return False
    return not any("vnni" in flag for flag in _cpuinfo("flags").split())


def _cpuinfo(*keys: str) -> str:
    """Return the first value of one of the keys in /proc/cpuinfo; empty where there is none."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith(keys):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux, or /proc is hidden
    return ""
