"""An inference process whose hub listens, and models of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.inference.models import make_bundle
from edgectl_agent import Model
from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.process import InferenceProcess

Follow = Callable[..., Model]
LABELS = tuple(f"class {number}" for number in range(7))


def activity_bundle(directory: Path, version: str = "1") -> Bundle:
    return make_bundle(directory, version=version, scores=True, labels=LABELS)


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """Path of the hub's socket, deeper than the kernel takes it."""
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    return folder / "models.sock"


@pytest.fixture
def process(tmp_path: Path, hub: Path) -> Iterator[InferenceProcess]:
    """A started inference process."""
    running = InferenceProcess(
        host="127.0.0.1",
        port=0,
        socket=tmp_path / "inference.sock",
        hub=hub,
        log=tmp_path / "log",
    )
    running.start()
    yield running
    running.stop()


@pytest.fixture
def follow(hub: Path) -> Iterator[Follow]:
    """Make models that follow `hub`; they are closed in the end."""
    models: list[Model] = []

    def make(name: str = "activity", **options: Any) -> Model:
        models.append(Model(name, socket=hub, **options))
        return models[-1]

    yield make
    for model in models:
        model.close()
