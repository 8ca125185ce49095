"""A run of a loop as text: its steps with their times, and its figures."""

from __future__ import annotations

from datetime import datetime

from rich.table import Table

from edgectl.clock import now
from edgectl.output import bytes_text, duration_text, plain, table
from edgectl.types import LoopAccuracy, LoopRunDetail

__all__ = ["figures", "steps_table", "took"]


def took(began_at: datetime, ended_at: datetime | None) -> str:
    """Return how long something took, or has taken."""
    seconds = ((ended_at or now()) - began_at).total_seconds()
    return duration_text(max(0.0, seconds)) + ("" if ended_at is not None else " so far")


def steps_table(run: LoopRunDetail) -> Table:
    """Return the steps of a run, the oldest first."""
    rows = [
        (
            one.began_at.strftime("%Y-%m-%d %H:%M:%S"),
            one.state,
            took(one.began_at, one.ended_at),
            plain(one.why),
        )
        for one in run.steps
    ]
    return table(["SINCE", "STATE", ">TOOK", "WHY"], rows, title=f"run {run.id}")


def figures(run: LoopRunDetail) -> list[tuple[str, str]]:
    """Return what came of a run, as names and values."""
    found = []
    if run.noticed_at is not None:
        found.append(("noticed", run.noticed_at.strftime("%Y-%m-%d %H:%M:%S")))
    wanted = "" if run.labels_min is None else f" of {run.labels_min} asked for"
    # Samples are deleted after their time; the labels of a dataset stay.
    samples = f", {run.samples} samples" if run.samples >= run.labelled else ""
    found.append(("labels", f"{run.labelled}{wanted}{samples}"))
    found += [(f"accuracy {one.when}", _accuracy(one)) for one in run.accuracies]
    if run.transfer is not None:
        each = run.transfer.fetched_bytes // run.transfer.devices
        whole = run.transfer.whole_bytes // run.transfer.devices
        found.append(("on the wire", f"{bytes_text(each)} a device, of {bytes_text(whole)}"))
    return found


def _accuracy(one: LoopAccuracy) -> str:
    parts = []
    if one.rows:
        parts.append(f"{one.right / one.rows:.3f} of {one.rows} labelled")
    if one.estimate is not None:
        source = "measured at its push" if one.when == "before" else "estimated"
        parts.append(f"{one.estimate:.3f} {source}")
    return f"version {plain(one.version)}: {', '.join(parts)}"
