"""What is shown of a device: from its row and its last report to the API's schemas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgectl_protocol.enrolment import format_fingerprint
from edgectl_protocol.messages import ReportedState
from edgectl_server.order_answers import reported_of
from edgectl_server.schemas import (
    DeviceDetail,
    DeviceEventInfo,
    HoldInfo,
    InstalledInfo,
    ObservationInfo,
    ReasonInfo,
    SlotInfo,
    SwapInfo,
    TransferInfo,
    UpdateInfo,
)
from edgectl_server.storage.tables import (
    DesiredSlot,
    Device,
    DeviceEventRow,
    ModelVersion,
    SystemSampleRow,
)

__all__ = ["desired_slots", "device_detail", "device_event", "device_summary", "evidence"]


_Shown = TypeVar("_Shown", bound=BaseModel)
_Desired = Mapping[str, tuple[str, str | None]]
"""Slot to the desired version and the rollout that wants it."""


def desired_slots(session: Session, names: Iterable[str]) -> dict[str, _Desired]:
    """Return what the slots of each device shall run."""
    rows = session.execute(
        select(DesiredSlot, ModelVersion.version)
        .join(ModelVersion, ModelVersion.id == DesiredSlot.version_id)
        .where(DesiredSlot.device.in_(names))
    )
    found: dict[str, _Desired] = {}
    for desired, version in rows:
        others = found.get(desired.device, {})
        found[desired.device] = {**others, desired.slot: (version, desired.rollout)}
    return found


def device_summary(row: Device, desired: _Desired, alarms: int, *, overdue: bool) -> dict[str, Any]:
    """Return the fields of a `DeviceSummary`; `alarms` is the number of security events of late."""
    reported = reported_of(row)
    capabilities = None if reported is None else reported.capabilities
    return {
        "id": row.id,
        "online": row.online,
        "last_seen_at": row.last_seen_at,
        "enrolled_at": row.enrolled_at,
        "state": row.state,
        "agent_version": row.agent_version,
        "machine": "" if capabilities is None else capabilities.machine,
        "cpu_model": "" if capabilities is None else capabilities.cpu_model,
        "device_class": row.device_class,
        "group": row.group,
        "labels": {} if capabilities is None else _labels(capabilities.labels),
        "assigned_labels": row.labels,
        "slots": _slots(reported, desired),
        "security_events": alarms,
        "overdue": overdue,
        "hold": _hold(row),
    }


def _hold(row: Device) -> HoldInfo | None:
    if row.held_at is None:
        return None
    return HoldInfo(at=row.held_at, by=row.held_by, reason=row.hold_reason)


def _labels(claimed: Mapping[str, str]) -> dict[str, str]:
    """Return what a device says of itself; which group it is in is not for it to say."""
    return {name: value for name, value in claimed.items() if name.lower() != "group"}


def _slots(reported: ReportedState | None, desired: _Desired) -> list[SlotInfo]:
    reports = {} if reported is None else reported.slots
    slots = []
    for slot in sorted({*reports, *desired}):
        document = msgspec.to_builtins(reports[slot]) if slot in reports else {}
        version, rollout = desired.get(slot, (None, None))
        slots.append(
            SlotInfo(
                slot=slot,
                desired_version=version,
                desired_rollout=rollout,
                running=_installed(document.get("running")),
                previous=_installed(document.get("previous")),
                update=_update(document.get("update")),
                fault=_reason(document.get("fault")),
            )
        )
    return slots


def _installed(document: Mapping[str, Any] | None) -> InstalledInfo | None:
    return _shown(InstalledInfo, document)


def _update(document: Mapping[str, Any] | None) -> UpdateInfo | None:
    if document is None:
        return None
    return UpdateInfo(
        order=document["order"],
        version=document["version"],
        variant=document["variant"],
        manifest=document["manifest"],
        state=document["state"],
        attempt=document.get("attempt", 0),
        bytes_done=document.get("bytes_done", 0),
        bytes_total=document.get("bytes_total", 0),
        rollout=document.get("rollout"),
        reason=_reason(document.get("reason")),
        trial=document.get("trial"),
        **evidence(document),
    )


def evidence(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a device saw of a model beyond its trial; fields of an `UpdateInfo`."""
    return {
        "shadow": _shown(ObservationInfo, document.get("shadow")),
        "observation": _shown(ObservationInfo, document.get("observation")),
        "swap": _shown(SwapInfo, document.get("swap")),
        "transfer": _transfer(document.get("transfer")),
    }


def _transfer(document: Mapping[str, Any] | None) -> TransferInfo | None:
    if document is None:
        return None
    return _shown(TransferInfo, {**document, "refusal": _reason(document.get("refusal"))})


def _reason(document: Mapping[str, Any] | None) -> ReasonInfo | None:
    return _shown(ReasonInfo, document)


def _shown(kind: type[_Shown], document: Mapping[str, Any] | None) -> _Shown | None:
    """Return what `kind` shows of a part of a report; a newer agent may say more."""
    if document is None:
        return None
    return kind.model_validate({k: v for k, v in document.items() if k in kind.model_fields})


def device_detail(
    session: Session, row: Device, alarms: int, *, why: str, overdue: bool
) -> DeviceDetail:
    """Return everything about a device; `why` is why it is of its class."""
    reported = reported_of(row)
    sample = session.scalars(
        select(SystemSampleRow)
        .where(SystemSampleRow.device == row.id)
        .order_by(SystemSampleRow.boot.desc(), SystemSampleRow.seq.desc())
        .limit(1)
    ).one_or_none()
    capabilities = None if reported is None else reported.capabilities
    return DeviceDetail(
        **device_summary(
            row, desired_slots(session, [row.id]).get(row.id, {}), alarms, overdue=overdue
        ),
        boot=row.boot,
        certificate_expires_at=row.certificate_expires_at,
        fingerprint=format_fingerprint(row.public_key_sha256),
        enrolled_by=row.enrolled_by,
        order_counter=row.order_counter,
        accepted_order_counter=0 if reported is None else reported.order_counter,
        refusal=_reason((row.reported or {}).get("refusal")),
        refused_order_counter=None if reported is None else reported.refused_counter,
        device_class_reason=why,
        endpoint="" if reported is None else reported.endpoint,
        capabilities=None if capabilities is None else msgspec.to_builtins(capabilities),
        rejected=[] if reported is None else list(reported.rejected),
        system=None if sample is None else sample.sample,
    )


def device_event(row: DeviceEventRow) -> DeviceEventInfo:
    """Return a transition as it is shown."""
    event = row.event
    return DeviceEventInfo(
        device=row.device,
        at=row.at,
        received_at=row.received_at,
        slot=row.slot,
        order=event["order"],
        version=event["version"],
        variant=event["variant"],
        before=event["before"],
        event=event["event"],
        after=event["after"],
        rollout=row.rollout,
        reason=_reason(event.get("reason")),
        trial=event.get("trial"),
        **evidence(event),
    )
