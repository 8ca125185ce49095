"""Every metric of ours: its name, what it says, its labels. `docs/metrics.md` is held to it.

Labels are states, models, versions and sites, never devices: what a scrape costs must not grow
with the fleet. A label whose values people choose has a cap; what is beyond it is added up under
`OTHER`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

__all__ = ["CATALOGUE", "OTHER", "VALUES_MAX", "Family", "Reading", "capped"]

OTHER = "(other)"
VALUES_MAX = 100
"""Values of labels that people choose, of each metric."""
Reading = Mapping[str, Mapping[tuple[str, ...], float]]
"""Values by metric and by the values of its labels, in order."""


class Family(NamedTuple):
    """A metric."""

    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...] = ()


CATALOGUE: Mapping[str, Family] = {
    "edgectl_build_info": Family("gauge", "The version that runs; always 1.", ("version",)),
    "edgectl_database_up": Family("gauge", "Whether the database has answered; 0: it has not."),
    "edgectl_database_size_bytes": Family("gauge", "Size of the database."),
    "edgectl_devices": Family(
        "gauge",
        "Devices by state: online, offline, overdue (offline for long), revoked, decommissioned.",
        ("state",),
    ),
    "edgectl_devices_marked": Family(
        "gauge",
        "Enrolled devices that are held, updating, or failing (their newest update failed).",
        ("mark",),
    ),
    "edgectl_site_devices": Family(
        "gauge", "Enrolled devices by site, online and offline.", ("site", "state")
    ),
    "edgectl_model_devices": Family(
        "gauge", "Devices that run a model, by version.", ("model", "version")
    ),
    "edgectl_rollouts": Family("gauge", "Rollouts by state.", ("state",)),
    "edgectl_rollout_devices": Family(
        "gauge",
        "Devices of rollouts that have not ended, by what has become of them.",
        ("model", "state"),
    ),
    "edgectl_intake_messages_total": Family(
        "counter", "Messages of devices that this server was given."
    ),
    "edgectl_intake_dropped_total": Family(
        "counter", "Messages of devices that this server has dropped, by reason.", ("reason",)
    ),
    "edgectl_queue_depth": Family(
        "gauge",
        "What waits: intake and broker in this server, orders, jobs, deltas, webhooks and alerts "
        "in the database.",
        ("queue",),
    ),
    "edgectl_jobs": Family("gauge", "Jobs by kind and state.", ("kind", "state")),
    "edgectl_job_duration_seconds": Family(
        "gauge",
        "How long jobs took that ended in the last day: median (0.5) and longest (1).",
        ("kind", "quantile"),
    ),
    "edgectl_broker_connected": Family("gauge", "Whether this server is connected to the broker."),
    "edgectl_broker_refused_total": Family(
        "counter", "Messages of this server that the broker has refused."
    ),
    "edgectl_telemetry_lag_seconds": Family(
        "gauge",
        "From the end of a window of telemetry to its arrival, of the newest 500: median (0.5) "
        "and 0.95.",
        ("quantile",),
    ),
    "edgectl_telemetry_newest_timestamp_seconds": Family(
        "gauge", "When the newest telemetry has arrived."
    ),
    "edgectl_drift_groups": Family(
        "gauge",
        "Fleets, sites and devices by the state of their drift.",
        ("model", "level", "state"),
    ),
    "edgectl_drift_severity": Family(
        "gauge",
        "Largest distance of a feature from the reference where there is drift, 0 to 1.",
        ("model", "level"),
    ),
    "edgectl_data_faulty_devices": Family(
        "gauge", "Devices whose data is faulty, by model.", ("model",)
    ),
    "edgectl_alerts": Family("gauge", "Alerts that last.", ("severity", "state")),
    "edgectl_alert_messages": Family(
        "gauge",
        "Messages of the last days by channel (webhook: all deliveries) and state.",
        ("channel", "state"),
    ),
}


def capped(
    values: Mapping[tuple[str, ...], float], chosen: Sequence[int], most: int = VALUES_MAX
) -> Mapping[tuple[str, ...], float]:
    """Return values with at most `most` combinations of the labels that people choose.

    Args:
        values: by the values of all labels.
        chosen: places of the labels that people choose.
        most: the others are added up under `OTHER`; those with the largest sums stay.
    """
    sums: dict[tuple[str, ...], float] = {}
    for labels, value in values.items():
        key = tuple(labels[place] for place in chosen)
        sums[key] = sums.get(key, 0.0) + value
    if len(sums) <= most:
        return values
    first = sorted(sums, key=lambda key: (-sums[key], key))[:most]
    kept = frozenset(first)
    found: dict[tuple[str, ...], float] = {}
    for labels, value in values.items():
        shown = labels
        if tuple(labels[place] for place in chosen) not in kept:
            shown = tuple(OTHER if place in chosen else label for place, label in enumerate(labels))
        found[shown] = found.get(shown, 0.0) + value
    return found
