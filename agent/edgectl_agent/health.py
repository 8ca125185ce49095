"""What the device is and how it fares, read from /proc and /sys."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from edgectl_protocol.messages import Capabilities, SystemSample

__all__ = ["capabilities", "system_sample"]


def capabilities(labels: Mapping[str, str], state_directory: Path) -> Capabilities:
    """Return what the server picks variants by."""
    raise NotImplementedError


def system_sample(at: datetime, state_directory: Path, inference_rss_bytes: int) -> SystemSample:
    """Return the device's health at `at`."""
    raise NotImplementedError
