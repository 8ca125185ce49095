"""Answers of the server as tables for a person."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from edgectl import types
from edgectl.gate_tables import common_metric, findings_table, value_text
from edgectl.observed_text import observed_rows, reason_text, rollout_bytes_text
from edgectl.output import (
    Folding,
    age,
    bytes_text,
    latency_text,
    pairs,
    plain,
    share_text,
    state_text,
    table,
)
from edgectl.small_step_tables import small_steps_table
from edgectl.trust_tables import wait_text

__all__ = [
    "jobs_table",
    "models_table",
    "report_table",
    "rollout_devices_table",
    "rollout_events_table",
    "rollout_table",
    "rollouts_table",
    "telemetry_table",
    "tokens_table",
    "version_table",
    "versions_table",
]

_NUMBER = re.compile(r"-?\d[\d.]*")


# ---------------------------------------------------------------- models


def models_table(models: Sequence[types.ModelSummary]) -> Table:
    """Return one row a model."""
    columns = ["MODEL", "LATEST", "STATE", ">VERSIONS", ">RUNNING", ">DESIRED", "PUSHED"]
    rows = [
        (
            plain(model.name),
            plain(model.latest.version if model.latest else None),
            state_text(model.latest.state if model.latest else ""),
            str(model.versions),
            str(model.devices_running),
            str(model.devices_desired),
            age(model.latest.created_at) if model.latest else "-",
        )
        for model in models
    ]
    return table(columns, rows)


def versions_table(versions: Sequence[types.VersionSummary]) -> Table:
    """Return one row a version."""
    metric = common_metric(versions)
    value = ">VALUE" if metric is None else f">{plain(metric).upper()}"
    columns = ["VERSION", "STATE", ">SOURCE", "BEST", ">SIZE", value, ">RUNNING", "PUSHED", "BY"]
    rows = [
        (
            f"{plain(version.model)}@{plain(version.version)}",
            state_text(version.state),
            bytes_text(version.source_bytes),
            plain(version.best.variant if version.best else None),
            bytes_text(version.best.model_bytes if version.best else None),
            value_text(version, version.best, metric),
            str(version.devices_running),
            age(version.created_at),
            plain(version.created_by),
        )
        for version in versions
    ]
    return table(columns, rows)


def version_table(version: types.VersionDetail) -> Table:
    """Return what a version is, without its report."""
    rows: list[tuple[str, Text | str]] = [
        ("state", state_text(version.state)),
        ("source", f"{plain(version.source_name)}, {bytes_text(version.source_bytes)}"),
        ("digest", plain(version.source)),
        ("pushed", f"{age(version.created_at)} by {plain(version.created_by)}"),
        ("running on", f"{version.devices_running} devices"),
    ]
    if version.parent:
        rows.append(("parent", plain(version.parent)))
    if version.labels:
        rows.append(("labels", plain(", ".join(version.labels))))
    if version.error is not None:
        rows.append(("error", plain(f"{version.error.code}: {version.error.detail}")))
        if version.error.hint:
            rows.append(("try", plain(version.error.hint)))
    if version.waits_for is not None:
        rows.append(("signatures", wait_text(version.waits_for)))
        rows.append(("try", f"edgectl keys sign {plain(version.waits_for.role)} --key KEY"))
    for variant in version.variants:
        sizes = f"{bytes_text(variant.model_bytes)}, bundle {bytes_text(variant.bundle_bytes)}"
        if variant.encrypted:
            sizes += ", encrypted"
        rows.append((f"variant {variant.rank}", f"{plain(variant.variant)}, {sizes}"))
    return pairs(rows, f"{plain(version.model)}@{plain(version.version)}")


def report_table(version: types.VersionDetail, report: types.Report) -> Group:
    """Return the quantization report: one row a recipe that was tried, reasons beneath."""
    if report.metric is None:
        measured = "not measured: no calibration or evaluation data"
    else:
        measured = (
            f"{plain(report.metric)} of fp32 {share_text(report.reference)}"
            f" on {report.samples} samples ({plain(report.metric_source)});"
            f" may lose {report.max_drop_points:g} points"
        )
    # A recipe's name begins with its variant, and reasons are sentences: neither has a column, so
    # that the table fits into a terminal of 80.
    metric = plain(report.metric or "value").upper()
    columns = ["RECIPE", "STATUS", ">SIZE", f">{metric}", ">DROP", ">P50"]
    published = {variant.trial.recipe for variant in version.variants}
    rows = [
        (
            Folding(plain(trial.recipe)),
            state_text("published" if trial.recipe in published else trial.status),
            bytes_text(trial.size_bytes),
            share_text(trial.value),
            "-" if trial.drop_points is None else f"{trial.drop_points:+.2f}",
            latency_text(trial.latency_p50_us),
        )
        for trial in report.trials
    ]
    name = f"{plain(version.model)}@{plain(version.version)}"
    notes = [plain(line) for line in report.processing]
    notes += [f"measured on {plain(report.measured_on)}", *map(plain, report.warnings)]
    encrypted = [plain(one.variant) for one in version.variants if one.encrypted]
    if encrypted:
        notes.append(
            f"encrypted: {', '.join(encrypted)}; only devices ordered to run it can read it"
        )
    notes += _update_notes(version, report)
    lines = [*_reasons(report.trials), *notes]
    return Group(
        Text(f"{name}: {measured}", style="bold"),
        table(columns, rows, gap=1, folding=True),
        *(Text(line, style="dim italic") for line in lines),
        small_steps_table(report),
        findings_table(report),
    )


def _reasons(trials: Sequence[types.Trial]) -> list[str]:
    """Return why recipes were not taken; of reasons that differ in numbers alone the first."""
    alike: dict[str, list[types.Trial]] = {}
    for trial in trials:
        if trial.reason:
            alike.setdefault(_NUMBER.sub("0", trial.reason), []).append(trial)
    return [
        f"{plain(first.recipe)}: {plain(first.reason)}"
        + (f"; {len(others)} more alike" if others else "")
        for first, *others in alike.values()
    ]


def _update_notes(version: types.VersionDetail, report: types.Report) -> list[str]:
    """Say about how many bytes lead from the parent to each variant, and how many might have."""
    sizes = {one.recipe: one.update_bytes for one in report.trials if one.update_bytes is not None}
    notes = []
    for variant in version.variants:
        size = sizes.get(variant.trial.recipe)
        if size is None:
            continue
        anew = sizes.get(variant.trial.recipe.removesuffix("-parent"))
        more = "" if anew in {None, size} else f"; with scales of its own {bytes_text(anew)}"
        notes.append(
            f"update of {plain(variant.variant)} from {_parent(version)}: "
            f"about {bytes_text(size)} of {bytes_text(variant.model_bytes)}{more}"
        )
    return notes


def _parent(version: types.VersionDetail) -> str:
    if not version.parent:
        return "the parent"
    return f"{plain(version.model)}@{plain(version.parent)}"


# ---------------------------------------------------------------- rollouts


def _progress_text(counts: types.RolloutCounts) -> str:
    return f"{counts.committed}/{counts.total}"


def rollouts_table(rollouts: Sequence[types.RolloutInfo]) -> Table:
    """Return one row a rollout."""
    columns = ["ROLLOUT", "MODEL", "STATE", ">DONE", ">WRONG", "STARTED", "BY", "NOTE"]
    rows = [
        (
            plain(rollout.id),
            plain(f"{rollout.model}@{rollout.version}"),
            state_text(rollout.state),
            _progress_text(rollout.counts),
            str(rollout.counts.unsuccessful),
            age(rollout.created_at),
            plain(rollout.created_by),
            plain(rollout.note),
        )
        for rollout in rollouts
    ]
    return table(columns, rows)


def rollout_table(rollout: types.RolloutInfo) -> Table:
    """Return a rollout in numbers."""
    counts = rollout.counts
    parts = [
        f"{count} {name}"
        for name, count in (
            ("committed", counts.committed),
            ("in progress", counts.in_progress),
            ("pending", counts.pending),
            ("failed", counts.failed),
            ("rejected", counts.rejected),
            ("rolled back", counts.rolled_back),
            ("overdue", counts.overdue),
            ("reverted", counts.reverted),
            ("cancelled", counts.cancelled),
        )
        if count
    ]
    rows: list[tuple[str, Text | str]] = [
        ("rollout", plain(rollout.id)),
        ("state", state_text(rollout.state)),
        ("devices", f"{counts.total}: {', '.join(parts) or 'none'}"),
    ]
    if rollout.phase is not None and rollout.finished_at is None:
        rows += _phase_rows(rollout.phase)
    if rollout.bytes.whole:
        rows.append(("bytes", rollout_bytes_text(rollout.bytes)))
    if rollout.note:
        rows.append(("note", plain(rollout.note)))
    return pairs(rows, plain(f"{rollout.model}@{rollout.version}"))


def _phase_rows(phase: types.PhaseProgress) -> list[tuple[str, Text | str]]:
    name = plain(f"{phase.name}, {phase.number} of {phase.phases}")
    rows: list[tuple[str, Text | str]] = [
        ("phase", f"{name}: {phase.admitted} of {phase.target} devices, {plain(phase.step)}")
    ]
    rows += [
        (f"gate {plain(one.gate)}", plain(f"{one.verdict.replace('_', ' ')}: {one.detail}"))
        for one in phase.verdicts
    ]
    return rows


def rollout_devices_table(devices: Sequence[types.RolloutDeviceInfo]) -> Group:
    """Return one row a device of a rollout, and beneath what was measured after the trial.

    What deltas save has columns where they save something.
    """
    less = any(one.bytes and one.bytes.predicted < one.bytes.whole for one in devices)
    more = [">EXPECTED", ">SAVED"] if less else []
    columns = ["DEVICE", "", "STATE", "STEP", ">BYTES", *more, "VARIANT", "REASON"]
    rows = [
        (
            plain(device.device),
            "" if device.online else "offline",
            state_text(device.state),
            plain(device.step),
            _bytes_of(device),
            *(_saved_of(device) if less else ()),
            plain(device.variant),
            reason_text(device.reason) if device.reason else "-",
        )
        for device in devices
    ]
    lines = [
        Text(plain(f"{device.device} {name}: {text}"), style="dim italic")
        for device in devices
        for name, text in observed_rows(device)
    ]
    return Group(table(columns, rows), *lines)


def _saved_of(device: types.RolloutDeviceInfo) -> tuple[str, str]:
    """Return what it was expected to fetch, and what it has saved."""
    if device.bytes is None:
        return "-", "-"
    saved = device.bytes.saved if device.bytes.fetched else None
    return bytes_text(device.bytes.predicted), bytes_text(saved)


def _bytes_of(device: types.RolloutDeviceInfo) -> str:
    total = bytes_text(device.bytes_total)
    if not device.bytes_total:
        return "-"
    return (
        total
        if device.bytes_done >= device.bytes_total
        else (f"{bytes_text(device.bytes_done)} of {total}")
    )


def rollout_events_table(events: Sequence[types.RolloutEventInfo]) -> Table:
    """Return one row a thing that has happened to a rollout."""
    columns = [">NO", "AT (UTC)", "EVENT", "DEVICE", "BY", "DETAIL"]
    rows = [
        (
            str(event.revision),
            f"{event.at:%m-%d %H:%M:%S}",
            _event_text(event.kind),
            plain(event.data.get("device")),
            plain(event.actor),
            plain(_event_detail(event.data)),
        )
        for event in events
    ]
    return table(columns, rows)


def _event_text(kind: str) -> Text:
    """Return ``device_rolled_back`` as ``rolled_back`` in its colour; the device has a column."""
    return state_text(kind.removeprefix("device_"))


def _event_detail(data: Mapping[str, Any]) -> str:
    parts = []
    for name, value in sorted(data.items()):
        if name == "device" or value in (None, ""):
            continue
        if isinstance(value, dict) and "code" in value:
            parts.append(f"{value['code']}: {value.get('detail', '')}")
        elif name in {"note", "reason"}:
            parts.append(str(value))
        else:
            parts.append(f"{name} {value}")
    return ", ".join(parts)


# ---------------------------------------------------------------- jobs, telemetry, tokens


def jobs_table(jobs: Sequence[types.JobInfo]) -> Table:
    """Return one row a job."""
    columns = ["JOB", "KIND", "SUBJECT", "STATE", "STAGE", "STARTED", "ERROR"]
    rows = [
        (
            plain(job.id),
            plain(job.kind),
            plain("@".join(job.subject.values())),
            state_text(job.state),
            plain(job.progress.stage),
            age(job.started_at),
            plain(job.error.code if job.error else None),
        )
        for job in jobs
    ]
    return table(columns, rows)


def telemetry_table(
    summaries: Sequence[types.TelemetrySummary], labels: Sequence[str] = ()
) -> Group:
    """Return one row a device and digest, and beneath the classes that all of them have named."""
    columns = ["DEVICE", "MODEL", ">REQUESTS", ">ERRORS", ">NOT FINITE", ">P50", ">P95"]
    columns += ["LAST"]
    # Requests outside the contract are the caller's mistake, and rare: a column when there are any.
    refused = any(summary.refused for summary in summaries)
    if refused:
        columns.insert(3, ">REFUSED")
    rows = [
        (
            plain(summary.device),
            plain(f"{summary.slot}@{summary.version}"),
            str(summary.requests),
            *((str(summary.refused),) if refused else ()),
            str(summary.errors),
            str(summary.non_finite),
            latency_text(summary.latency_p50_us),
            latency_text(summary.latency_p95_us),
            age(summary.last),
        )
        for summary in summaries
    ]
    classes = _classes_text([summary.classes for summary in summaries], labels)
    lines = [Text(f"classes: {plain(classes)}", style="dim italic")] if classes else []
    return Group(table(columns, rows), *lines)


def _classes_text(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    added = [sum(row) for row in zip_longest(*counts, fillvalue=0)]
    named = [
        f"{labels[index] if index < len(labels) else index} {count}"
        for index, count in enumerate(added)
        if count
    ]
    return ", ".join(named)


def tokens_table(tokens: Sequence[types.TokenInfo]) -> Table:
    """Return one row an API token."""
    columns = ["ID", "NAME", "USER", "ROLE", "SCOPES", "CREATED", "EXPIRES", "USED"]
    rows = [
        (
            plain(token.id),
            plain(token.name),
            plain(token.user),
            plain(token.role),
            plain(" ".join(token.scopes)),
            age(token.created_at),
            age(token.expires_at),
            age(token.last_used_at),
        )
        for token in tokens
    ]
    return table(columns, rows)
