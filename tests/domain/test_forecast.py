"""What a rollout would do, on given facts."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from edgectl_server.domain.forecast import Expected, Forecast, Pace, forecast
from edgectl_server.domain.rollouts import (
    DeviceState,
    ObservedDevice,
    ObservedRollout,
    Phase,
    RolloutPolicy,
    RolloutState,
    Site,
    plan,
)

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
PHASES = (
    Phase("canary", devices=2, soak_s=600, approval=True),
    Phase("half", percent=50, soak_s=60),
    Phase("all", soak_s=60),
)
PACE = Pace(samples=40, median_s=20, slow_s=50)


def device(name: str, variant: str = "int8", **facts: object) -> Expected:
    load_ms = facts.pop("load_ms", 500.0)
    given = {"online": True, "candidates": (variant,) if variant else (), "site": "porto"} | facts
    observed = ObservedDevice(name, DeviceState.PENDING, **given)  # type: ignore[arg-type]
    fetches = {"int8": 100, "fp32": 400}.get(variant, 0)
    return Expected(observed, variant, fetches, load_ms if variant else None)  # type: ignore[arg-type]


def forecasted(devices: list[Expected], *, pace: Pace = PACE, **policy: object) -> Forecast:
    sites: dict[str, Site] = {}
    for one in devices:
        seen = sites.get(one.observed.site, Site(0, 0))
        sites[one.observed.site] = Site(seen.total + 1, seen.available + one.observed.online)
    chosen = RolloutPolicy(**({"phases": PHASES} | policy))  # type: ignore[arg-type]
    return forecast(chosen, devices, sites, pace=pace, each_s=10)


def test_phases_with_devices_variants_bytes_and_time() -> None:
    devices = [*(device(f"a-{number}") for number in range(8)), device("z", "fp32")]
    canary, half, rest = forecasted(devices, max_in_progress=2).phases
    assert (canary.devices, canary.variants) == (2, {"fp32": 1, "int8": 1})
    assert (canary.fetches, canary.waves, canary.approval) == (500, 1, True)
    assert (canary.least_s, canary.likely_s, canary.slow_s) == (610, 630, 660)
    assert (half.devices, half.waves, half.likely_s) == (3, 2, 120)
    assert (rest.devices, rest.waves, rest.soak_s, rest.likely_s) == (4, 2, 0, 60)


def test_the_canaries_are_those_that_the_planner_takes() -> None:
    devices = [device(f"a-{number}", online=number != 0) for number in range(8)]
    devices += [device("z", "fp32")]
    observed = ObservedRollout(RolloutState.RUNNING, [one.observed for one in devices])
    taken = plan(RolloutPolicy(phases=PHASES), observed, NOW).orders
    variants = sorted(one.variant for one in devices if one.observed.device in taken)
    assert forecasted(devices).phases[0].variants == dict.fromkeys(variants, 1)


def test_without_phases_it_is_one_of_all() -> None:
    (only,) = forecasted([device("a"), device("b")], phases=()).phases
    assert (only.name, only.devices, only.waves, only.likely_s) == ("all", 2, 1, 30)


def test_a_variant_that_no_phase_has_proved_takes_a_wave_more() -> None:
    devices = [device(f"a-{number}") for number in range(4)]
    devices += [device("y", "fp32", online=False), device("z", "fp32", online=False)]
    canary, half, rest = forecasted(devices).phases
    assert (canary.variants, half.variants) == ({"int8": 2}, {"int8": 1})
    assert (rest.variants, rest.offline, rest.waves) == ({"int8": 1, "fp32": 2}, 2, 2)


def test_nothing_is_made_up_about_time() -> None:
    canary = forecasted([device("a"), device("b")], pace=Pace(samples=1)).phases[0]
    assert (canary.least_s, canary.likely_s, canary.slow_s) == (610, None, None)


@pytest.mark.parametrize(
    ("policy", "at_once", "waves", "blind_s"),
    [
        ({}, 4, 1, 1.0),  # all at once: the slowest of them, forth and back
        ({"max_in_progress": 3}, 3, 2, 0.0),
        ({"available_min": 1}, 3, 2, 0.0),
        ({"available_percent": 50}, 2, 2, 0.0),
        ({"available_min": 4}, 0, 0, 0.0),
    ],
)
def test_what_a_site_would_lose(
    policy: dict[str, object], at_once: int, waves: int, blind_s: float
) -> None:
    devices = [device(f"a-{number}", load_ms=200.0) for number in range(3)]
    found = forecasted([*devices, device("b")], phases=(), **policy)
    (site,) = found.sites
    assert (site.site, site.total, site.at_once, site.blind_s) == ("porto", 4, at_once, blind_s)
    assert (found.phases[0].waves, found.phases[0].blocked) == (waves, 0 if waves else 4)


def test_a_load_time_that_nobody_has_measured_is_said() -> None:
    (site,) = forecasted([device("a"), device("b", load_ms=None)], phases=()).sites
    assert site.blind_s is None


def test_who_cannot_take_part_is_named() -> None:
    unknown = Expected(ObservedDevice("u", DeviceState.PENDING, online=True))
    found = forecasted([device("a"), device("n", ""), unknown], phases=())
    assert (found.unfit, found.unknown, found.phases[0].devices) == (("n",), ("u",), 1)


def test_nobody_is_left_where_nobody_fits() -> None:
    found = forecasted([device("n", "")])
    assert [one.devices for one in found.phases] == [0, 0, 0]
    assert found.sites == ()
