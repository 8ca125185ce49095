"""The control planes and devices of the agent's other tests, on a real disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.conftest import make_device, plane

__all__ = ["make_device", "plane", "tmp_path"]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder where waiting for the disk means something; other tests' may be in memory."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)
