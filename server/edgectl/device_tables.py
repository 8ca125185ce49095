"""Devices as tables for a person: the fleet, one device, and what has happened on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from edgectl import types
from edgectl.observed_text import observed_rows, reason_text
from edgectl.output import (
    age,
    bytes_text,
    latency_text,
    pairs,
    plain,
    state_text,
    table,
)

__all__ = [
    "device_table",
    "devices_table",
    "events_table",
    "fleet_tables",
    "receipts_table",
    "security_table",
    "series_table",
    "sites_table",
]

_GAPS_SHOWN = 12


def _slot_text(slot: types.SlotInfo) -> str:
    running = f"{slot.slot}@{slot.running.version}" if slot.running else f"{slot.slot}: none"
    if slot.update and slot.update.state not in {"committed", "idle"}:
        running += f" ({slot.update.state} {slot.update.version})"
    return plain(running)


def receipts_table(found: types.DeviceReceipts) -> Group:
    """Return what has come of a device by start of its agent, what is missing, clock jumps."""
    columns = ["START", "FIRST", "LAST", ">CAME", ">TWICE", ">MISSING"]
    rows = [
        (
            str(one.boot),
            age(one.first_at),
            age(one.last_at),
            str(one.received),
            str(one.duplicates),
            str(sum(gap.last - gap.first + 1 for gap in one.gaps) + one.forgotten),
        )
        for one in found.boots
    ]
    kept = Text(
        f"{found.windows} windows of telemetry and {found.feature_windows} of features are kept; "
        f"{found.dropped} messages were dropped on the device for lack of room"
    )
    lines: list[Text | Table] = [kept, table(columns, rows)]
    gaps = [(one.boot, gap) for one in found.boots for gap in one.gaps]
    if gaps:
        missing = [
            (str(boot), str(gap.first), str(gap.last), plain(gap.state), age(gap.noticed_at))
            for boot, gap in gaps[:_GAPS_SHOWN]
        ]
        lines.append(table(["START", ">FROM", ">TO", "MISSING", "NOTICED"], missing))
        if len(gaps) > _GAPS_SHOWN:
            lines.append(Text(f"{len(gaps) - _GAPS_SHOWN} more gaps: --json"))
    if found.clock_jumps:
        jumps = [
            (f"{one.at:%Y-%m-%d %H:%M:%S}", plain(one.model), f"{one.seconds:+d} s")
            for one in found.clock_jumps[:_GAPS_SHOWN]
        ]
        lines.append(table(["WINDOW'S END", "MODEL", ">CLOCK SET BY"], jumps))
    return Group(*lines)


def fleet_tables(fleet: types.FleetSummary) -> Group:
    """Return the fleet in numbers, and how many devices run which version."""
    names = ("devices", "online", "offline", "overdue", "updating", "failing", "held", "security")
    numbers = pairs((name, str(getattr(fleet, name))) for name in names)
    rows = [
        (plain(f"{one.model}@{one.version}"), str(one.devices))
        for one in sorted(fleet.versions, key=lambda one: (one.model, -one.devices))
    ]
    return Group(numbers, table(["RUNS", ">DEVICES"], rows)) if rows else Group(numbers)


_HEALTH: dict[str, tuple[str, Callable[[float], str]]] = {
    "temperature_c": ("TEMPERATURE", lambda value: f"{value:.0f} °C"),
    "load_1min": ("LOAD", lambda value: f"{value:.2f}"),
    "memory_available_bytes": ("FREE MEMORY", lambda value: bytes_text(round(value))),
    "inference_rss_bytes": ("INFERENCE", lambda value: bytes_text(round(value))),
}
"""What of a device's health is shown to people; ``--json`` has all of it."""


def series_table(found: types.DeviceSeries) -> Table:
    """Return a row for each step of the time: what each slot has answered, and the health."""
    health = [name for name in _HEALTH if name in found.health]
    columns = ["UNTIL"]
    for slot in found.slots:
        columns += [f">{plain(slot.slot)}", ">ERRORS", ">P50", ">P95"]
    columns += [f">{_HEALTH[name][0]}" for name in health]
    rows = []
    for index, until in enumerate(found.times):
        row = [f"{until:%m-%d %H:%M}"]
        for slot in found.slots:
            row += [
                str(slot.requests[index]),
                str(slot.errors[index]),
                latency_text(slot.latency_p50_us[index]),
                latency_text(slot.latency_p95_us[index]),
            ]
        for name in health:
            value = found.health[name][index]
            row.append("-" if value is None else _HEALTH[name][1](value))
        rows.append(tuple(row))
    return table(columns, rows)


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
    if device.overdue:
        return state_text("overdue")
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
    if device.hold:
        told = f"by {device.hold.by} {age(device.hold.at)}"
        rows.append(
            ("held", plain(f"{told}: {device.hold.reason}" if device.hold.reason else told))
        )
    if device.refusal:
        number = device.refused_order_counter
        told = f"{device.refusal.code}: {device.refusal.detail}"
        rows.append(("refused", plain(told if number is None else f"order {number}: {told}")))
    bad = (device.system or {}).get("bad_pieces") or {}
    if bad:
        told = ", ".join(f"{count} {kind}" for kind, count in bad.items())
        rows.append(("bad pieces", plain(told)))
    samples = (device.system or {}).get("samples") or {}
    if samples:
        told = ", ".join(f"{count} {code}" for code, count in sorted(samples.items()))
        rows.append(("samples", plain(told)))
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


def sites_table(sites: Sequence[types.SiteInfo]) -> Table:
    """Return one row a site."""
    columns = ["SITE", ">DEVICES", ">ONLINE", ">OVERDUE", ">FAILING", ">SECURITY", "RUNS"]
    rows = [
        (
            plain(one.site or "(none)"),
            *(str(n) for n in (one.devices, one.online, one.overdue, one.failing, one.security)),
            plain(", ".join(f"{v.model}@{v.version} {v.devices}" for v in one.versions) or "-"),
        )
        for one in sites
    ]
    return table(columns, rows)


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
