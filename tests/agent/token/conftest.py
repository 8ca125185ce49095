"""A token for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pkcs11
import pytest

from agent.token.soft_token import LIBRARY, SoftToken


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftToken]:
    """A token with no key in it."""
    if not LIBRARY.exists():
        pytest.skip("softhsm2 is not installed; packaging/install_test_packages.py installs it")
    folder = tmp_path / "token"
    folder.mkdir()
    monkeypatch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
    made = SoftToken(folder)
    yield made
    pkcs11.unload(str(made.module))
