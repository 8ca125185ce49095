"""The figures that the database knows: a bounded query each, from an index where rows are many."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Executable, Integer, Select, String, cast, func, select, text
from sqlalchemy.orm import Session

from edgectl_server.device_filter import FAILING, UPDATING, overdue_since, site_column
from edgectl_server.exposition.catalogue import VALUES_MAX, capped
from edgectl_server.storage.tables import (
    AlertNotice,
    AlertRow,
    Device,
    DriftStateRow,
    Job,
    Outbox,
    ReportedSlot,
    Rollout,
    RolloutDevice,
    TelemetryWindow,
    WebhookDelivery,
)

__all__ = ["read_figures"]

Values = dict[tuple[str, ...], float]

_DAY = timedelta(days=1)
_JOBS_MAX = 1000
_WINDOWS_MAX = 500
_DRIFTING_MAX = 2000
_OPEN_ROLLOUTS = ("running", "paused")


def read_figures(
    session: Session, now: datetime, overdue_before: datetime
) -> dict[str, Mapping[tuple[str, ...], float]]:
    """Return the values of all metrics that come from the database.

    Args:
        session: open.
        now: the time.
        overdue_before: who is offline since then is overdue.
    """
    enrolled = Device.state == "enrolled"
    site = site_column()
    online = func.sum(cast(Device.online, Integer))
    sites = select(site, func.count(), online).where(enrolled).group_by(site)
    by_site: Values = {}
    for name, count, up in session.execute(sites):
        by_site[name, "online"] = float(up or 0)
        by_site[name, "offline"] = float(count - (up or 0))
    running = (
        select(ReportedSlot.slot, ReportedSlot.version, func.count())
        .join(Device, Device.id == ReportedSlot.device)
        .where(enrolled, ReportedSlot.version.is_not(None))
        .group_by(ReportedSlot.slot, ReportedSlot.version)
    )
    of_rollouts = (
        select(Rollout.model, RolloutDevice.state, func.count())
        .join(Rollout, Rollout.id == RolloutDevice.rollout)
        .where(Rollout.state.in_(_OPEN_ROLLOUTS))
        .group_by(Rollout.model, RolloutDevice.state)
    )
    level, state = DriftStateRow.level, DriftStateRow.state
    drift = select(DriftStateRow.model, level, state, func.count()).group_by(
        DriftStateRow.model, level, state
    )
    faulty = (
        select(DriftStateRow.model, func.count(DriftStateRow.group.distinct()))
        .where(level == "device", cast(DriftStateRow.faults, String) != "[]")
        .group_by(DriftStateRow.model)
    )
    alerts = (
        select(AlertRow.severity, AlertRow.state, func.count())
        .where(AlertRow.state != "resolved")
        .group_by(AlertRow.severity, AlertRow.state)
    )
    return {
        "edgectl_devices": _devices(session, overdue_before),
        "edgectl_devices_marked": _marked(session),
        "edgectl_site_devices": capped(by_site, (0,)),
        "edgectl_model_devices": capped(_counts(session, running), (0, 1)),
        "edgectl_rollouts": _counts(
            session, select(Rollout.state, func.count()).group_by(Rollout.state)
        ),
        "edgectl_rollout_devices": capped(_counts(session, of_rollouts), (0,)),
        "edgectl_queue_depth": _queues(session),
        "edgectl_jobs": _counts(
            session, select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state)
        ),
        "edgectl_job_duration_seconds": _durations(session, now),
        **_telemetry(session),
        "edgectl_drift_groups": capped(_counts(session, drift), (0,)),
        "edgectl_drift_severity": _severity(session),
        "edgectl_data_faulty_devices": capped(_counts(session, faulty), (0,)),
        "edgectl_alerts": _counts(session, alerts),
        "edgectl_alert_messages": _messages(session),
        "edgectl_database_size_bytes": {(): _size(session)},
    }


def _counts(session: Session, wanted: Executable) -> Values:
    """Return the last column by the others."""
    return {
        tuple(str(label) for label in row[:-1]): float(row[-1]) for row in session.execute(wanted)
    }


def _devices(session: Session, overdue_before: datetime) -> Values:
    columns = (Device.state, Device.online)
    counted = select(*columns, func.count()).group_by(*columns)
    found: Values = dict.fromkeys(
        (("online",), ("offline",), ("overdue",), ("revoked",), ("decommissioned",)), 0.0
    )
    for state, is_online, count in session.execute(counted):
        shown = state
        if state == "enrolled":
            shown = "online" if is_online else "offline"
        found[(shown,)] = found.get((shown,), 0.0) + count
    late = select(func.count()).where(Device.state == "enrolled", overdue_since(overdue_before))
    overdue = float(session.scalar(late) or 0)
    found["overdue",] = overdue
    found["offline",] -= overdue
    return found


def _marked(session: Session) -> Values:
    held = select(func.count()).where(Device.state == "enrolled", Device.held_at.is_not(None))
    found: Values = {("held",): float(session.scalar(held) or 0)}
    for mark, states in (("updating", UPDATING), ("failing", FAILING)):
        counted = (
            select(func.count(ReportedSlot.device.distinct()))
            .join(Device, Device.id == ReportedSlot.device)
            .where(Device.state == "enrolled", ReportedSlot.update_state.in_(states))
        )
        found[(mark,)] = float(session.scalar(counted) or 0)
    return found


def _queues(session: Session) -> Values:
    def count(wanted: Select[Any]) -> float:
        return float(session.scalar(wanted) or 0)

    queued = select(func.count()).select_from(Job).where(Job.state == "queued")
    waiting = WebhookDelivery.due_at.is_not(None)
    return {
        ("orders",): count(select(func.count()).select_from(Outbox)),
        ("jobs",): count(queued),
        ("webhooks",): count(select(func.count()).select_from(WebhookDelivery).where(waiting)),
        ("alerts",): count(
            select(func.count()).select_from(AlertNotice).where(AlertNotice.due_at.is_not(None))
        ),
    }


def _durations(session: Session, now: datetime) -> Values:
    ended = (
        select(Job.kind, Job.started_at, Job.finished_at)
        .where(Job.finished_at > now - _DAY, Job.started_at.is_not(None))
        .order_by(Job.finished_at.desc())
        .limit(_JOBS_MAX)
    )
    took: dict[str, list[float]] = {}
    for kind, started, finished in session.execute(ended):
        assert started is not None, "it was asked for"
        assert finished is not None, "it was asked for"
        took.setdefault(kind, []).append((finished - started).total_seconds())
    found: Values = {}
    for kind, seconds in took.items():
        found[kind, "0.5"] = _quantile(seconds, 0.5)
        found[kind, "1"] = max(seconds)
    return found


def _telemetry(session: Session) -> dict[str, Values]:
    newest = (
        select(TelemetryWindow.end, TelemetryWindow.received_at)
        .order_by(TelemetryWindow.received_at.desc())
        .limit(_WINDOWS_MAX)
    )
    rows = session.execute(newest).all()
    if not rows:
        return {}
    lags = [(received - end).total_seconds() for end, received in rows]
    return {
        "edgectl_telemetry_lag_seconds": {
            ("0.5",): _quantile(lags, 0.5),
            ("0.95",): _quantile(lags, 0.95),
        },
        "edgectl_telemetry_newest_timestamp_seconds": {(): rows[0][1].timestamp()},
    }


def _severity(session: Session) -> Mapping[tuple[str, ...], float]:
    wanted = (
        select(DriftStateRow.model, DriftStateRow.level, DriftStateRow.findings)
        .where(DriftStateRow.state.in_(("drifting", "recovering")))
        .order_by(DriftStateRow.until.desc())
        .limit(_DRIFTING_MAX)
    )
    found: Values = {}
    for model, level, findings in session.execute(wanted):
        largest = max((float(one["distance"]) for one in findings), default=0.0)
        found[model, level] = max(found.get((model, level), 0.0), largest)
    return {key: found[key] for key in sorted(found)[: 3 * VALUES_MAX]}


def _messages(session: Session) -> Values:
    columns = (AlertNotice.channel, AlertNotice.state)
    own = _counts(session, select(*columns, func.count()).group_by(*columns))
    state = WebhookDelivery.state
    hooks = _counts(session, select(state, func.count()).group_by(state))
    return own | {("webhook", *key): value for key, value in hooks.items()}


def _size(session: Session) -> float:
    if session.get_bind().dialect.name == "postgresql":
        return float(session.scalar(text("SELECT pg_database_size(current_database())")) or 0)
    pages = session.scalar(text("PRAGMA page_count")) or 0
    return float(pages * (session.scalar(text("PRAGMA page_size")) or 0))


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
