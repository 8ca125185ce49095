"""Devices as tables for a person: the fleet, one device, and what has happened on it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from edgectl import types
from edgectl.observed_text import observed_rows, reason_text
from edgectl.output import age, pairs, plain, state_text, table

__all__ = ["device_table", "devices_table", "events_table", "security_table"]


def _slot_text(slot: types.SlotInfo) -> str:
    running = f"{slot.slot}@{slot.running.version}" if slot.running else f"{slot.slot}: none"
    if slot.update and slot.update.state not in {"committed", "idle"}:
        running += f" ({slot.update.state} {slot.update.version})"
    return plain(running)


def devices_table(devices: Sequence[types.DeviceSummary]) -> Table:
    """Return one row a device."""
    columns = ["DEVICE", "STATE", "SEEN", "RUNS", "MACHINE", "AGENT", "GROUP", "LABELS"]
    rows = [
        (
            plain(device.id),
            _device_state(device),
            age(device.last_seen_at),
            ", ".join(map(_slot_text, device.slots)) or "-",
            plain(device.machine),
            plain(device.agent_version),
            plain(device.group),
            _labels(device),
        )
        for device in devices
    ]
    return table(columns, rows)


def _labels(device: types.DeviceSummary) -> str:
    """Return people's labels, then what the device says of itself, as selectors name it."""
    given = [f"{name}={value}" for name, value in sorted(device.assigned_labels.items())]
    said = [f"reported.{name}={value}" for name, value in sorted(device.labels.items())]
    return plain(" ".join([*given, *said]))


def _device_state(device: types.DeviceSummary) -> Text:
    if device.state != "enrolled":
        return state_text(device.state)
    return state_text("online" if device.online else "offline")


def device_table(device: types.DeviceDetail) -> Table:
    """Return everything of a device that a person asks for first."""
    rows: list[tuple[str, Text | str]] = [
        ("state", _device_state(device)),
        ("seen", age(device.last_seen_at)),
        ("enrolled", f"{age(device.enrolled_at)}, by {plain(device.enrolled_by)}"),
        ("group", plain(device.group)),
        ("key", plain(device.fingerprint)),
        ("certificate", f"expires {age(device.certificate_expires_at)}"),
        ("machine", f"{plain(device.machine)}, {plain(device.cpu_model)}"),
        ("class", plain(device.device_class or f"none: {device.device_class_reason}")),
        ("agent", f"{plain(device.agent_version)}, boot {device.boot}"),
        ("endpoint", plain(device.endpoint)),
        ("order", f"{device.order_counter}, accepted {device.accepted_order_counter}"),
    ]
    if device.refusal:
        number = device.refused_order_counter
        told = f"{device.refusal.code}: {device.refusal.detail}"
        rows.append(("refused", plain(told if number is None else f"order {number}: {told}")))
    for slot in device.slots:
        rows.append((f"slot {plain(slot.slot)}", _slot_text(slot)))
        rows.append(("  desired", plain(slot.desired_version)))
        if slot.running:
            rows.append(("  variant", plain(slot.running.variant)))
        if slot.update:
            rows += [(f"  {name}", plain(text)) for name, text in observed_rows(slot.update)]
        if slot.update and slot.update.reason:
            waits = slot.update.state == "waiting"
            rows.append(("  waits" if waits else "  reason", reason_text(slot.update.reason)))
        if slot.fault:
            rows.append(("  fault", reason_text(slot.fault)))
    deltas = (device.system or {}).get("deltas")
    if deltas:
        counts = ", ".join(f"{count} {code}" for code, count in sorted(deltas.items()))
        rows.append(("deltas", plain(f"{counts}, since the agent was started")))
    rows += [("rejected", plain(digest)) for digest in device.rejected]
    return pairs(rows, plain(device.id))


def events_table(events: Sequence[types.DeviceEventInfo]) -> Table:
    """Return one row a transition that a device has reported."""
    columns = ["AT (UTC)", "MODEL", "VARIANT", "FROM", "EVENT", "TO", "REASON"]
    rows = [
        (
            f"{event.at:%m-%d %H:%M:%S}",
            plain(f"{event.slot}@{event.version}"),
            plain(event.variant),
            plain(event.before),
            plain(event.event),
            state_text(event.after),
            _event_words(event),
        )
        for event in events
    ]
    return table(columns, rows)


_MEASURED_IN = {
    "downloading": "fetched",
    "shadowing": "shadow",
    "activating": "swap",
    "observing": "observed",
}


def _event_words(event: types.DeviceEventInfo) -> str:
    """Return the reason, or what was measured in the state that has ended."""
    if event.reason:
        return reason_text(event.reason)
    ended = _MEASURED_IN.get(event.before)
    return plain(dict(observed_rows(event)).get(ended or ""))


def security_table(events: Sequence[types.SecurityEventInfo]) -> Table:
    """Return one row a security event."""
    columns = ["CAME (UTC)", "DEVICE", "SEEN BY", "CODE", ">TIMES", "NEWEST"]
    rows = [
        (
            f"{event.received_at:%m-%d %H:%M:%S}",
            plain(event.device),
            plain(event.source),
            plain(event.code),
            str(event.count),
            plain(event.detail),
        )
        for event in events
    ]
    return table(columns, rows)
