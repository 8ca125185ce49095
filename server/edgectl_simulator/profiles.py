"""Profiles: which share of a fleet has which fault, declared in TOML; and what a device gets.

A profile file is from outside: it is read with bounds, and unknown keys are refused.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from edgectl_simulator.draws import Draws
from edgectl_simulator.errors import Misused

__all__ = [
    "PROFILES_BYTES_MAX",
    "Failing",
    "Flapping",
    "Offline",
    "Profile",
    "Slow",
    "Traits",
    "WrongClock",
    "load_profiles",
    "pick_profile",
    "read_profiles",
]

PROFILES_BYTES_MAX = 256 * 1024
_PROFILES_MAX = 256
_CLOCK_OFF_S_MAX = 300 * 86400

_Share = Annotated[float, Meta(ge=0, le=1)]
_Seconds = Annotated[float, Meta(ge=0.1, le=86400)]


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all tables of a profile."""


class Offline(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Devices whose connection breaks in the middle of a word now and then, and comes back."""

    share: _Share
    every_s: _Seconds = 120.0
    """From one absence to the next, about."""
    for_s: _Seconds = 45.0
    """How long an absence is, about."""


class Slow(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Devices that need longer, for updates and for requests."""

    share: _Share
    factor: Annotated[float, Meta(ge=1, le=1000)] = 5.0


class Failing(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Devices on which no update ends well."""

    share: _Share
    at: Literal["downloading", "trial", "observing"] = "trial"
    """Where: ``downloading`` is tried again, ``trial`` is rejected, ``observing`` rolled back."""


class Flapping(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Devices that lose their power and start again at once, over and over."""

    share: _Share
    every_s: _Seconds = 20.0


class WrongClock(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Devices whose clock is off: they refuse orders from their future, and expired ones."""

    share: _Share
    offset_s: Annotated[float, Meta(ge=-_CLOCK_OFF_S_MAX, le=_CLOCK_OFF_S_MAX)] = -259200.0
    """Less than a day is within what a device tolerates."""


class Profile(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a fleet behaves."""

    about: Annotated[str, Meta(max_length=512)] = ""
    telemetry_s: Annotated[float, Meta(ge=1, le=86400)] = 60.0
    """From one telemetry batch of a device to the next."""
    step_s: Annotated[float, Meta(ge=0, le=3600)] = 1.0
    """How long a step of an update takes, about; observing takes what the order says."""
    requests_per_s: Annotated[float, Meta(ge=0, le=10_000)] = 1.0
    """Inferences that a device counts, about, once it runs a model."""
    offline: Offline | None = None
    slow: Slow | None = None
    failing: Failing | None = None
    flapping: Flapping | None = None
    wrong_clock: WrongClock | None = None


class Traits(Struct, frozen=True, kw_only=True):
    """The faults of one device; None: it does not have that one."""

    offline: Offline | None = None
    slow: Slow | None = None
    failing: Failing | None = None
    flapping: Flapping | None = None
    wrong_clock: WrongClock | None = None

    @classmethod
    def of(cls, profile: Profile, draws: Draws) -> Traits:
        """Draw what a device gets; always the same for one device and seed."""
        return cls(
            offline=_drawn(profile.offline, draws),
            slow=_drawn(profile.slow, draws),
            failing=_drawn(profile.failing, draws),
            flapping=_drawn(profile.flapping, draws),
            wrong_clock=_drawn(profile.wrong_clock, draws),
        )

    def names(self) -> tuple[str, ...]:
        """Return the faults that it has, as they are called in profiles."""
        return tuple(name for name in self.__struct_fields__ if getattr(self, name) is not None)


_Fault = TypeVar("_Fault", Offline, Slow, Failing, Flapping, WrongClock)


def _drawn(fault: _Fault | None, draws: Draws) -> _Fault | None:
    if fault is None or draws.fixed(type(fault).__name__) >= fault.share:
        return None
    return fault


def read_profiles(content: bytes, name: str) -> dict[str, Profile]:
    """Read profiles from the text of a TOML file.

    Args:
        content: of the file.
        name: of it, for the error.

    Raises:
        Misused: ``simulate.profile``.
    """
    try:
        if len(content) > PROFILES_BYTES_MAX:
            raise ValueError(f"{len(content)} bytes, at most {PROFILES_BYTES_MAX}")  # noqa: TRY301
        kind = dict[Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")], Profile]
        found = msgspec.convert(tomllib.loads(content.decode()), kind)
        if len(found) > _PROFILES_MAX:
            raise ValueError(f"{len(found)} profiles, at most {_PROFILES_MAX}")  # noqa: TRY301
    except (ValueError, RecursionError) as error:  # msgspec's, tomllib's and UTF-8's are such
        raise Misused(
            "simulate.profile",
            f"the profiles in {name} cannot be used: {error}",
            hint="docs/simulation.md says what a profile may hold",
        ) from error
    return found


def load_profiles(file: str = "") -> dict[str, Profile]:
    """Return the profiles that are shipped, and those of `file`, which go before.

    Raises:
        Misused: ``simulate.profile``.
    """
    shipped = resources.files("edgectl_simulator").joinpath("profiles.toml").read_bytes()
    found = read_profiles(shipped, "profiles.toml")
    if not file:
        return found
    try:
        with Path(file).open("rb") as opened:
            content = opened.read(PROFILES_BYTES_MAX + 1)
    except OSError as error:
        raise Misused(
            "simulate.profile",
            f"the profiles in {file} cannot be read: {error.strerror}",
            hint="check --profiles",
        ) from error
    return found | read_profiles(content, file)


def pick_profile(name: str, file: str = "") -> Profile:
    """Return the profile with that name.

    Raises:
        Misused: ``simulate.profile``: there is none, or the file cannot be used.
    """
    found = load_profiles(file)
    if name not in found:
        raise Misused(
            "simulate.profile",
            f"there is no profile {name[:80]!r}",
            hint=f"there are: {', '.join(sorted(found))}",
        )
    return found[name]
