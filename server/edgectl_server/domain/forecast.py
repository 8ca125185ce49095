"""What a rollout would do, before anything starts: phases, bytes, time, and what sites would lose.

Pure, and by the same rules as the planner: the same targets, the same order of devices, the same
budgets. Rules:

1. Times are of devices that are online now; who is offline is counted and waited for.
2. A phase goes in waves: as many devices at once as ``max_in_progress`` and the budgets of their
   sites allow, each for as long as an update takes. A variant that no earlier phase has would be
   proved by one device first: a wave more.
3. How long an update takes beyond what the policy itself asks for (shadow, observation) is read
   from rollouts that have ended. Without any, only the least is said: nothing is made up.
4. A device is blind while its model is loaded in the place of the old one, at worst twice: in the
   switch and in a rollback. A site is blind when all its devices may be at work at once; then it is
   as long as its slowest device. A budget that leaves one serving leaves none blind.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgectl_server.domain.phases import count_selected, targets
from edgectl_server.domain.rollout_facts import ObservedDevice, Phase, RolloutPolicy, Site
from edgectl_server.domain.rollouts import in_line
from edgectl_server.domain.sites import must_stay

__all__ = ["Expected", "Forecast", "Pace", "PhaseForecast", "SiteForecast", "forecast"]

_SWITCHES_MAX = 2
"""Times that a device loads a model while it serves none: forth, and back."""


@dataclass(frozen=True)
class Expected:
    """What one device would do."""

    observed: ObservedDevice
    variant: str = ""
    """That it would be offered first; empty: none, or it has not said what it is."""
    fetches: int = 0
    """Bytes that it would fetch."""
    load_ms: float | None = None
    """As measured on its class or by the pipeline; None: never measured."""


@dataclass(frozen=True)
class Pace:
    """How long updates have taken beyond shadow and observation, in rollouts that have ended."""

    samples: int = 0
    median_s: float | None = None
    slow_s: float | None = None
    """Nineteen of twenty were faster."""


@dataclass(frozen=True)
class PhaseForecast:
    """One phase."""

    name: str
    devices: int
    offline: int
    blocked: int
    """Devices that the budget of their site never lets go."""
    variants: Mapping[str, int]
    fetches: int
    waves: int
    soak_s: float
    approval: bool
    least_s: float
    likely_s: float | None
    slow_s: float | None


@dataclass(frozen=True)
class SiteForecast:
    """One site."""

    site: str
    devices: int
    """Of the rollout."""
    total: int
    available: int
    at_once: int
    """How many of them would be at work at the same time."""
    blind_s: float | None
    """At worst; None: the load time of a variant was never measured."""


@dataclass(frozen=True)
class Forecast:
    """All of it."""

    phases: tuple[PhaseForecast, ...]
    sites: tuple[SiteForecast, ...]
    unfit: tuple[str, ...]
    """Devices that can run no variant: they would fail."""
    unknown: tuple[str, ...]
    """Devices that have never said what they are: they are waited for."""


def forecast(
    policy: RolloutPolicy,
    devices: Sequence[Expected],
    sites: Mapping[str, Site],
    *,
    pace: Pace,
    each_s: float,
) -> Forecast:
    """Return what the rollout would do.

    Args:
        policy: as it would be started with.
        devices: all that it is for, none of them begun.
        sites: of these devices, counted over the whole fleet.
        pace: what has been seen.
        each_s: shadow and observation of one device.
    """
    by_name = {one.observed.device: one for one in devices}
    fit = [one for one in devices if one.variant]
    line = [by_name[one.device] for one in in_line(policy, [one.observed for one in fit])]
    phases: list[PhaseForecast] = []
    done, known = 0, set[str]()
    selected = count_selected(policy.phases, [one.observed.from_phase for one in line])
    ends = targets(policy.phases, len(line), selected)
    for phase, target in zip(policy.phases or (Phase("all"),), ends, strict=True):
        some = line[done:target]
        new = {one.variant for one in some} - known if phases else set[str]()
        phases.append(_phase(policy, phase, some, sites, pace=pace, each_s=each_s, proofs=len(new)))
        known |= {one.variant for one in some}
        done = target
    phases[-1] = _without_soak(phases[-1])
    return Forecast(
        phases=tuple(phases),
        sites=tuple(_sites(policy, fit, sites)),
        unfit=tuple(one.observed.device for one in devices if one.observed.candidates == ()),
        unknown=tuple(one.observed.device for one in devices if one.observed.candidates is None),
    )


def _phase(
    policy: RolloutPolicy,
    phase: Phase,
    devices: Sequence[Expected],
    sites: Mapping[str, Site],
    *,
    pace: Pace,
    each_s: float,
    proofs: int,
) -> PhaseForecast:
    online = Counter(one.observed.site for one in devices if one.observed.online)
    blocked, waves = 0, 0
    for site, count in online.items():
        most = _at_once(policy, sites.get(site), count)
        if most == 0:
            blocked += count
        else:
            waves = max(waves, math.ceil(count / most))
    free = online.total() - blocked
    waves = max(waves, math.ceil(free / policy.max_in_progress)) + (proofs if free else 0)

    def lasts(more_s: float | None) -> float | None:
        return None if more_s is None else waves * (each_s + more_s) + phase.soak_s

    return PhaseForecast(
        name=phase.name,
        devices=len(devices),
        offline=len(devices) - online.total(),
        blocked=blocked,
        variants=dict(sorted(Counter(one.variant for one in devices).items())),
        fetches=sum(one.fetches for one in devices),
        waves=waves,
        soak_s=phase.soak_s,
        approval=phase.approval,
        least_s=waves * each_s + phase.soak_s,
        likely_s=lasts(pace.median_s),
        slow_s=lasts(pace.slow_s),
    )


def _without_soak(last: PhaseForecast) -> PhaseForecast:
    """Nothing comes after the last phase: it neither soaks nor waits for a person."""
    soak_s = last.soak_s
    return replace(
        last,
        soak_s=0.0,
        approval=False,
        least_s=last.least_s - soak_s,
        likely_s=None if last.likely_s is None else last.likely_s - soak_s,
        slow_s=None if last.slow_s is None else last.slow_s - soak_s,
    )


def _at_once(policy: RolloutPolicy, site: Site | None, count: int) -> int:
    """Return how many of `count` available devices of a site may be at work at once."""
    most = min(policy.max_in_progress, count)
    if site is None:
        return most
    return min(most, max(0, site.available - must_stay(policy, site.total)))


def _sites(
    policy: RolloutPolicy, devices: Sequence[Expected], sites: Mapping[str, Site]
) -> list[SiteForecast]:
    members: dict[str, list[Expected]] = {}
    for one in devices:
        members.setdefault(one.observed.site, []).append(one)
    found = []
    for name, some in sorted(members.items()):
        site = sites.get(name, Site(len(some), sum(one.observed.online for one in some)))
        at_once = _at_once(policy, site, len(some))
        blind_s: float | None = 0.0
        if at_once >= site.available:  # nobody else would serve
            loads = [one.load_ms for one in some if one.load_ms is not None]
            blind_s = None if len(loads) < len(some) else _SWITCHES_MAX * max(loads) / 1000
        found.append(SiteForecast(name, len(some), site.total, site.available, at_once, blind_s))
    return found
