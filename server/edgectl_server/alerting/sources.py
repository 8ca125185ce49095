"""Where alerts come from: each source reads what is wrong now.

====================  ============================================================================
``drift.<level>``     a device, a site or the fleet has left the reference of its model; the state
                      machine of drift has its own hysteresis
``accuracy.<level>``  a model is estimated to be right less often than at its push, at a site or in
                      the fleet; with hysteresis of its own
``data.<fault>``      a device's data is faulty (`domain.data_quality`), by device, model and fault
``telemetry.gap``     devices are online and send no telemetry, by site
``devices.overdue``   devices have been offline for long, by site
``rollout.…``         a rollout has paused by itself (``stopped``), or was paused (``paused``)
``training.waiting``  no worker has the trainer of a training (`edgectl_server.training_waits`)
others                what `edgectl_server.alerts` lists: keys, certificates, the audit log
====================  ============================================================================

What concerns many devices is one condition of their site, so that a site without power is one
alert and not a thousand.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, String, cast, func, select
from sqlalchemy.orm import Session

from edgectl_server.device_filter import overdue_since, site_column
from edgectl_server.domain.alerts import Condition, Severity
from edgectl_server.rollout_sites import site_of
from edgectl_server.signing.status import Alert
from edgectl_server.storage.tables import (
    AccuracyStateRow,
    Device,
    DriftStateRow,
    ModelVersion,
    ReportedSlot,
    Rollout,
)

__all__ = ["Limits", "Source", "database_sources", "installation_source"]

_DRIFTING = ("drifting", "recovering")
_LOW = ("low", "recovering")
_STATES_MAX = 5000
_SITES_MAX = 500
_NAMES_MAX = 5
_INSTALLATION_CLEAR = timedelta(minutes=15)
"""Servers that share a database see different files: one that is content ends no alert at once."""
_FAULTS: dict[str, tuple[Severity, str, str]] = {
    "missing": ("critical", "values are missing", "is the sensor connected and switched on?"),
    "constant": ("warning", "values do not change", "is the sensor stuck?"),
    "saturated": ("warning", "values are at the sensor's end", "check its range and mounting"),
    "outside": ("warning", "values are beyond the reference", "check unit, range and mounting"),
    "clock": ("warning", "the clock was set", "does the device reach a time server?"),
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When something is a condition.

    Attributes:
        overdue_after: offline for longer is overdue.
        gap_after: online for so long without any telemetry is a gap.
        period: of the judgement of drift: a fault of data ends after so long without it.
    """

    overdue_after: timedelta
    gap_after: timedelta
    period: timedelta


@dataclass(frozen=True)
class Source:
    """What can be asked.

    Attributes:
        name: for the log.
        kinds: all that it may state, or their beginnings up to a dot; empty: what no other does.
        read: takes the time and returns what is wrong now.
    """

    name: str
    kinds: tuple[str, ...]
    read: Callable[[Session, datetime], Iterable[Condition]]


def database_sources(limits: Limits) -> list[Source]:
    """Return the sources that read the database."""

    def overdue(session: Session, now: datetime) -> Iterable[Condition]:
        late = overdue_since(now - limits.overdue_after)
        for site, count, names in _by_site(session, late):
            yield Condition(
                kind="devices.overdue",
                subject=site,
                severity="warning",
                summary=f"{_devices(count)}{_at(site)} offline for long: {names}",
                hint="edgectl devices list --overdue",
                site=site,
                clear_after=timedelta(minutes=2),
            )

    def gaps(session: Session, now: datetime) -> Iterable[Condition]:
        for site, count, names in _by_site(session, *_silent(now - limits.gap_after)):
            yield Condition(
                kind="telemetry.gap",
                subject=site,
                severity="warning",
                summary=f"{_devices(count)}{_at(site)} online without telemetry: {names}",
                hint="edgectl devices show NAME; their logs say why nothing is sent",
                site=site,
                clear_after=timedelta(minutes=2),
            )

    def data(session: Session, _now: datetime) -> Iterable[Condition]:
        return _faults(session, limits.period)

    return [
        Source("drift", ("drift",), _drift),
        Source("estimated accuracy", ("accuracy",), _accuracy),
        Source("the quality of data", ("data",), data),
        Source("overdue devices", ("devices.overdue",), overdue),
        Source("gaps in telemetry", ("telemetry",), gaps),
        Source("rollouts", ("rollout",), _rollouts),
    ]


def installation_source(alerts: Callable[[], Iterable[Alert]]) -> Source:
    """Return the source of what concerns this installation: its keys, certificates, audit log.

    Args:
        alerts: the list, as `edgectl_server.alerts.Alerts.current` has it.
    """

    def read(_session: Session, _now: datetime) -> Iterable[Condition]:
        for one in alerts():
            yield Condition(
                kind=one.code,
                subject=one.subject,
                severity=one.severity,
                summary=one.detail,
                hint=one.hint,
                clear_after=_INSTALLATION_CLEAR,
            )

    return Source("the installation", (), read)


def _option(level: str, group: str) -> str:
    """Return the options by which the command line is asked of a group."""
    return "" if level == "fleet" else f" --{level} {shlex.quote(group)}"


def _drift(session: Session, _now: datetime) -> Iterable[Condition]:
    wanted = (
        select(DriftStateRow, Device)
        .outerjoin(Device, (DriftStateRow.level == "device") & (Device.id == DriftStateRow.group))
        .where(
            DriftStateRow.state.in_(_DRIFTING),
            (DriftStateRow.level != "device") | (Device.state == "enrolled"),
        )
        .order_by(DriftStateRow.until.desc(), DriftStateRow.manifest, DriftStateRow.group)
        .limit(_STATES_MAX)
    )
    for state, device in session.execute(wanted):
        on_device = state.level == "device"
        site = site_of(device) if on_device else state.group
        moved = ", ".join(str(one["feature"]) for one in state.findings[:_NAMES_MAX])
        where = (
            "the fleet" if state.level == "fleet" else f"{state.level} {state.group or '(none)'}"
        )
        yield Condition(
            kind=f"drift.{state.level}",
            subject=f"{state.model}@{state.version} {state.group}".strip(),
            severity="warning" if on_device else "critical",
            summary=f"{state.model}@{state.version} sees other data on {where}: {moved}",
            hint=f"edgectl drift show {state.model}{_option(state.level, state.group)}",
            model=state.model,
            site=site,
            device=state.group if on_device else "",
        )


def _accuracy(session: Session, _now: datetime) -> Iterable[Condition]:
    wanted = (
        select(AccuracyStateRow)
        .where(AccuracyStateRow.level.in_(("fleet", "site")), AccuracyStateRow.state.in_(_LOW))
        .order_by(AccuracyStateRow.until.desc(), AccuracyStateRow.manifest, AccuracyStateRow.group)
        .limit(_STATES_MAX)
    )
    for state in session.scalars(wanted):
        where = "the fleet" if state.level == "fleet" else f"site {state.group or '(none)'}"
        yield Condition(
            kind=f"accuracy.{state.level}",
            subject=f"{state.model}@{state.version} {state.group}".strip(),
            severity="critical",
            summary=f"{state.model}@{state.version} seems to be right less often on {where}",
            hint=f"edgectl accuracy show {state.model}{_option(state.level, state.group)}; "
            "labels of random samples tell for sure",
            model=state.model,
            site=state.group,
        )


def _faults(session: Session, period: timedelta) -> Iterable[Condition]:
    wanted = (
        select(DriftStateRow, Device)
        .join(Device, Device.id == DriftStateRow.group)
        .where(
            DriftStateRow.level == "device",
            Device.state == "enrolled",
            cast(DriftStateRow.faults, String) != "[]",
        )
        .order_by(DriftStateRow.until.desc(), DriftStateRow.manifest, DriftStateRow.group)
        .limit(_STATES_MAX)
    )
    for state, device in session.execute(wanted):
        by_kind: dict[str, list[str]] = {}
        for one in state.faults:
            by_kind.setdefault(str(one["kind"]), []).append(str(one["feature"]))
        for kind, features in by_kind.items():
            severity, what, hint = _FAULTS[kind]
            named = ", ".join(name for name in features[:_NAMES_MAX] if name)
            yield Condition(
                kind=f"data.{kind}",
                subject=f"{state.model} {device.id}",
                severity=severity,
                summary=f"{device.id}: {what}" + (f": {named}" if named else ""),
                hint=hint,
                model=state.model,
                site=site_of(device),
                device=device.id,
                clear_after=period,
            )


def _rollouts(session: Session, _now: datetime) -> Iterable[Condition]:
    wanted = (
        select(Rollout, ModelVersion.version)
        .join(ModelVersion, ModelVersion.id == Rollout.version_id)
        .where(Rollout.state == "paused")
        .order_by(Rollout.created_at.desc())
        .limit(_STATES_MAX)
    )
    for rollout, version in session.execute(wanted):
        by_itself = rollout.note.startswith("paused by itself")
        yield Condition(
            kind="rollout.stopped" if by_itself else "rollout.paused",
            subject=rollout.id,
            severity="critical" if by_itself else "info",
            summary=f"rollout of {rollout.model}@{version}: {rollout.note or 'paused'}",
            hint=f"edgectl rollout status {rollout.id}",
            model=rollout.model,
        )


def _silent(before: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of a device that runs something and was not heard since then.

    Telemetry counts as being heard, and comes whether or not anything is asked of the device; to
    look for its rows would be a walk through those of weeks, every time.
    """
    runs = select(ReportedSlot.device).where(
        ReportedSlot.device == Device.id, ReportedSlot.version.is_not(None)
    )
    return (Device.online.is_(True), Device.last_seen_at < before, runs.exists())


def _by_site(session: Session, *wanted: ColumnElement[bool]) -> Iterable[tuple[str, int, str]]:
    """Yield each site where something holds for devices: its name, how many, and one of them."""
    site = site_column().label("site")
    counted = (
        select(site, func.count(), func.min(Device.id))
        .where(Device.state == "enrolled", *wanted)
        .group_by(site)
        .order_by(func.count().desc(), site)
        .limit(_SITES_MAX)
    )
    for name, count, first in session.execute(counted).all():
        more = f" and {count - 1} more" if count > 1 else ""
        yield name, count, f"{first}{more}"


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _at(site: str) -> str:
    return f" at {site}" if site else ""
