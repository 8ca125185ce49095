"""Control planes and devices of the agent's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core.control_plane import ControlPlane
from agent.core.device import Device
from edgectl_server.distribution.mosquitto import find_mosquitto


@pytest.fixture
def plane(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane on the embedded broker, or on the one that the test's parameter names."""
    broker = getattr(request, "param", "embedded")
    if broker == "mosquitto" and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    running = ControlPlane(tmp_path / "plane", broker=broker)
    yield running
    running.close()


@pytest.fixture
def make_device(plane: ControlPlane, tmp_path: Path) -> Iterator[Callable[..., Device]]:
    """Makes agents of `plane`, which are stopped at the end."""
    made: list[Device] = []

    def make(name: str = "pi-1") -> Device:
        made.append(Device(plane.url, plane.token_text, tmp_path / name, name))
        return made[-1]

    yield make
    for device in made:
        device.kill()
