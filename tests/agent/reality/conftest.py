"""The control planes and devices of the agent's other tests."""

from __future__ import annotations

from agent.core.conftest import make_device, plane

__all__ = ["make_device", "plane"]
