"""What is to be simulated: a value, read once from standard input, frozen, passed in."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from edgectl_simulator.errors import Misused

__all__ = ["DEVICES_MAX", "PLAN_BYTES_MAX", "Plan", "read_plan"]

DEVICES_MAX = 10_000
"""Devices of one process; more are several processes, each with a prefix of its own."""
PLAN_BYTES_MAX = 64 * 1024


class Plan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that may be asked for."""

    server: Annotated[str, Meta(pattern=r"^https?://", max_length=2048)]
    """Address of the server's API."""
    folder: Annotated[str, Meta(min_length=1, max_length=4096)]
    """Where the identities are kept."""
    devices: Annotated[int, Meta(ge=1, le=DEVICES_MAX)]
    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")] = "sim"
    """Names are ``<prefix>-00001`` and so on."""
    token: Annotated[str, Meta(max_length=256)] = ""
    """With which those enrol that are new; empty: there are none."""
    profile: Annotated[str, Meta(min_length=1, max_length=64)] = "steady"
    profiles_file: Annotated[str, Meta(max_length=4096)] = ""
    """TOML file with profiles of one's own, beside those that are shipped."""
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 1
    """Who has which fault, and all that is drawn, follows from it."""
    download: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Share of the devices that fetch what they are ordered to run, byte for byte."""
    connect_rate: Annotated[float, Meta(gt=0, le=10_000)] = 100.0
    """Connections that are begun in a second, at most."""
    duration_s: Annotated[float, Meta(ge=0, le=30 * 86400)] = 0.0
    """0: until it is stopped."""
    as_json: bool = False


def read_plan(content: bytes) -> Plan:
    """Decode a plan.

    Raises:
        Misused: ``simulate.plan``.
    """
    if len(content) > PLAN_BYTES_MAX:
        raise Misused("simulate.plan", f"a plan of {len(content)} bytes, at most {PLAN_BYTES_MAX}")
    try:
        return msgspec.json.decode(content, type=Plan)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Misused(
            "simulate.plan",
            f"this is no plan of a simulation: {error}",
            hint="start it by `edgectl simulate`, whose --help has examples",
        ) from error
