"""Addresses that say "all of this machine": listened on, but connected to by another."""

from __future__ import annotations

__all__ = ["is_any_address", "local_address"]

_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared only


def is_any_address(host: str) -> bool:
    """Say whether `host` can be listened on, and not be connected to."""
    return host in _LOOPBACK


def local_address(host: str) -> str:
    """Return the address by which this machine reaches what listens on `host`."""
    return _LOOPBACK.get(host, host)
