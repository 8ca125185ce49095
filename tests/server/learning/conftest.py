"""Samples on both databases."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgectl_server.storage.database import Database
from server.learning.store import Store


@pytest.fixture
def store(database: Database, tmp_path: Path) -> Store:
    return Store(database, tmp_path)


@pytest.fixture
def small(sqlite: Database, tmp_path: Path) -> Store:
    """Where the database decides nothing."""
    return Store(sqlite, tmp_path)


@pytest.fixture
def decode_png() -> Callable[[str], npt.NDArray[np.uint8]]:
    """By Pillow, which did not write it."""
    from PIL import Image

    def decode(encoded: str) -> npt.NDArray[np.uint8]:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))

    return decode
