"""What a rollout would do, as tables."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from edgectl.output import bytes_text, plain, table
from edgectl.types import PhaseForecastInfo, RolloutForecast, SiteForecastInfo

__all__ = ["forecast_tables"]

_SITES_SHOWN = 20
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def forecast_tables(found: RolloutForecast) -> Group:
    """Return phases, sites and remarks."""
    head = Text(
        plain(
            f"{found.model}@{found.version} to {found.devices} devices:"
            f" {bytes_text(found.fetches_bytes)} to fetch{_instead(found)}."
            " Nothing has been started."
        ),
        style="bold",
    )
    lines = [Text(plain(line), style="dim italic") for line in _remarks(found)]
    return Group(head, _phases(found.phases), "", _sites(found.sites), *lines)


def _instead(found: RolloutForecast) -> str:
    """Return what it would be without deltas, where there are any."""
    if found.fetches_bytes == found.whole_bytes:
        return ""
    return f" instead of {bytes_text(found.whole_bytes)}"


def _phases(phases: list[PhaseForecastInfo]) -> Table:
    columns = ["PHASE", ">DEVICES", ">OFFLINE", "VARIANTS", ">BYTES", ">WAVES", "TIME", "THEN"]
    rows = [
        (
            plain(one.name),
            str(one.devices),
            str(one.offline),
            plain(", ".join(f"{count} {name}" for name, count in one.variants.items()) or "-"),
            bytes_text(one.fetches_bytes),
            str(one.waves),
            _time(one),
            _then(one),
        )
        for one in phases
    ]
    return table(columns, rows)


def _sites(sites: list[SiteForecastInfo]) -> Table:
    columns = ["SITE", ">DEVICES", ">AVAILABLE", ">AT ONCE", ">BLIND AT WORST"]
    worst = sorted(sites, key=lambda one: (-(one.blind_s or 0.0), one.site))
    rows = [
        (
            plain(one.site or "(no group)"),
            str(one.devices),
            f"{one.available} of {one.total}",
            str(one.at_once),
            "not measured" if one.blind_s is None else f"{one.blind_s:.1f} s",
        )
        for one in worst[:_SITES_SHOWN]
    ]
    return table(columns, rows)


def _time(one: PhaseForecastInfo) -> str:
    if one.likely_s is None or one.slow_s is None:
        return f"at least {_span(one.least_s)}"
    return f"{_span(one.likely_s)}, or {_span(one.slow_s)}"


def _then(one: PhaseForecastInfo) -> str:
    parts = [f"soaks {_span(one.soak_s)}"] if one.soak_s else []
    return ", ".join([*parts, *(["approval"] if one.approval else [])]) or "-"


def _remarks(found: RolloutForecast) -> list[str]:
    pace, said = found.pace, []
    if pace.median_s is None:
        said.append(
            f"times are the least: {pace.samples} updates of {found.model} have been timed so far"
        )
    else:
        said.append(
            f"times: median and 95 % of {pace.samples} updates of {found.model}, soaks included"
        )
    offline = sum(one.offline for one in found.phases)
    if offline:
        said.append(f"{offline} devices are offline: they are waited for, see --deadline")
    blocked = sum(one.blocked for one in found.phases)
    if blocked:
        said.append(f"{blocked} devices would never be let go by the budget of their site")
    if found.unfit:
        said.append(f"no variant fits: {_names(found.unfit, found.unfit_devices)}")
    if found.unknown:
        named = _names(found.unknown, found.unknown_devices)
        said.append(f"have never reported what they are: {named}")
    said += [
        f"rollout {one.rollout} of {found.model} is not finished and has {one.devices} of them:"
        " it must end first"
        for one in found.overlaps
    ]
    hidden = len(found.sites) - _SITES_SHOWN
    if hidden > 0:
        said.append(f"{hidden} more sites: see --json")
    return said


def _names(names: list[str], devices: int) -> str:
    """Name some; of many the server names the first only, and says how many there are."""
    shown, more = names[:5], max(len(names), devices) - 5
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _span(seconds: float) -> str:
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    if seconds < 2 * _DAY_S:
        return f"{seconds / _HOUR_S:.1f} h"
    return f"{seconds / _DAY_S:.1f} d"
