"""A running inference process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.inference.models import Client
from edgectl_agent.inference.process import InferenceProcess


@pytest.fixture
def process(tmp_path: Path) -> Iterator[InferenceProcess]:
    """A started inference process on a free port and on a Unix socket."""
    running = InferenceProcess(
        host="127.0.0.1", port=0, socket=tmp_path / "inference.sock", log=tmp_path / "log"
    )
    running.start()
    yield running
    running.stop()


@pytest.fixture
def client(process: InferenceProcess) -> Iterator[Client]:
    """A client of `process`."""
    connected = Client(process.endpoint)
    yield connected
    connected.close()
