"""A rollout in its second phase, and the family of versions that it is of."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from edgectl_server.storage.tables import (
    Base,
    BundleVariant,
    Model,
    ModelVersion,
    Rollout,
    RolloutDevice,
    RolloutEvent,
    TelemetryWindow,
)
from ui.bundle_files import manifest_of

PHASED = "0a11ce5000000003"
MODEL, VERSION = "door", "7"
CANARIES = 3
STATES = [
    *["committed"] * 10, "rolled_back", "rolled_back", "rejected", "failed", "committed",
]  # fmt: skip
"""Of the devices that have had their turn; the others are pending."""
REASONS = {
    "rolled_back": {"code": "observe.latency", "detail": "p95 of 5.2 ms, the model before 1.0 ms"},
    "rejected": {"code": "trial.golden", "detail": "output differs by 0.41, at most 0.05"},
    "failed": {"code": "download.disk", "detail": "no space left on the device"},
}
VERDICTS = [
    {"gate": "committed", "verdict": "passed", "detail": "11 of at least 3"},
    {"gate": "error_rate", "verdict": "not_enough_data", "detail": "61 of at least 100 requests"},
    {"gate": "class_mix", "verdict": "failed", "detail": "0.31, at most 0.2"},
]
INT8 = {"recipe": "static-minmax", "variant": "onnx-int8", "precision": "int8"}
NEW, OLD = manifest_of(MODEL, VERSION, INT8), manifest_of(MODEL, "6", INT8)
_IDS = {"5": 50, "6": 60, "6-lab": 61, "7": 70}
_PARENTS = {"6": "5", "6-lab": "6", "7": "6"}
_POLICY = {
    "max_in_progress": 20,
    "failures_max": 9,
    "observe_s": 60.0,
    "phases": [
        {"name": "canary", "devices": CANARIES, "soak_s": 600.0},
        {"name": "2", "percent": 50.0, "soak_s": 600.0, "approval": True},
        {"name": "3"},
    ],
    "gates": {"committed_min": 3, "error_rate_max": 0.01},
    "deadline_s": 7200.0,
    "available_percent": 50.0,
}


def phased_rows(devices: list[str], report: dict[str, Any], now: datetime) -> list[Base]:
    """Return a model with its versions, the rollout, and what is heard of it.

    Args:
        devices: names of those that it is for.
        report: of a version.
        now: the clock.
    """
    began = now - timedelta(hours=2)
    return [
        Model(name=MODEL, created_at=now - timedelta(days=60), created_by="admin"),
        *(row for version in _IDS for row in _version(version, report, now)),
        Rollout(
            id=PHASED,
            model=MODEL,
            version_id=_IDS[VERSION],
            state="running",
            selector={"all": False, "where": "site=porto or site=lyon", "devices": []},
            policy=_POLICY,
            revision=3 + len(STATES),
            failures_acknowledged=0,
            note="phase 2 has not enough data: error_rate: 61 of at least 100 requests",
            due_at=now + timedelta(days=365),  # until then the planner leaves it as it is here
            created_at=began,
            created_by="operator",
            finished_at=None,
            phase=1,
            phase_since=began + timedelta(minutes=40),
            settled_at=now - timedelta(minutes=20),
            verdicts=VERDICTS,
        ),
        *_devices(devices, now),
        *_events(devices, began),
        *_windows(devices, began),
    ]


def _version(version: str, report: dict[str, Any], now: datetime) -> list[Base]:
    identity = _IDS[version]
    trials = [
        {**trial, "size_bytes": trial["size_bytes"] + 1_000 * identity}
        for trial in report["trials"][:2]
    ]
    changed = {
        **report,
        "trials": trials,
        "inputs": [{"name": "frame", "datatype": "FP32", "shape": [-1, 3, 64, 64]}],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [-1, 3 if version == VERSION else 2]}
        ],
    }
    labels = ["open", "closed", "ajar"] if version == VERSION else ["open", "closed"]
    return [
        ModelVersion(
            id=identity,
            model=MODEL,
            version=version,
            state="ready",
            content=f"sha256:{identity:064x}",
            source=f"sha256:{identity:064x}",
            source_size=1_284_220,
            source_name=f"door-{version}.onnx",
            calibration=None,
            evaluation=None,
            options={"labels": labels},
            report=changed,
            parent=_PARENTS.get(version),
            job=None,
            created_at=now - timedelta(days=80 - identity),
            created_by="operator",
        ),
        *(
            BundleVariant(
                version_id=identity,
                variant=trial["variant"],
                precision=trial["precision"],
                target=f"bundles/{identity}/{trial['variant']}",
                manifest=manifest_of(MODEL, version, trial),
                manifest_size=2_000,
                bundle_bytes=trial["size_bytes"] + 21_400,
                model_bytes=trial["size_bytes"],
                rank=rank,
                trial=trial,
            )
            for rank, trial in enumerate(reversed(trials))
        ),
    ]


def _devices(devices: list[str], now: datetime) -> list[Base]:
    ordered = len(STATES)
    return [
        RolloutDevice(
            rollout=PHASED,
            device=name,
            state=STATES[number] if number < ordered else "pending",
            previous_version_id=_IDS["6"],
            order_counter=8 if number < ordered else None,
            reason=REASONS.get(STATES[number]) if number < ordered else None,
            whole_bytes=428_000 if number < ordered else None,
            predicted_bytes=150_000 if number < ordered else None,
            fetched_bytes=146_000 if number < ordered else None,
            updated_at=now - timedelta(minutes=number),
        )
        for number, name in enumerate(devices)
    ]


def _events(devices: list[str], began: datetime) -> list[Base]:
    ordered = [("device_ordered", {"device": name, "order": 8}) for name in devices]
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("started", {"devices": len(devices)}),
        *ordered[:CANARIES],
        ("gates", {"committed": "passed: 3 of at least 3"}),
        ("phase_began", {"phase": "2"}),
        *ordered[CANARIES : len(STATES)],
    ]
    return [
        RolloutEvent(
            rollout=PHASED,
            revision=revision,
            at=began + timedelta(minutes=2 * revision),
            actor="server" if revision > 1 else "operator",
            kind=kind,
            data=data,
        )
        for revision, (kind, data) in enumerate(kinds, 1)
    ]


def _windows(devices: list[str], began: datetime) -> list[Base]:
    """Every ten minutes what a new and an old device have answered."""
    rows: list[Base] = []
    for step in range(12):
        for device, manifest, first in ((devices[0], NEW, 11), (devices[-1], OLD, 9)):
            latency = [0] * 42
            latency[first : first + 6] = [12, 140, 320, 90 + 15 * step, 30, 4]
            at = began + timedelta(minutes=10 * step, seconds=30)
            rows.append(
                TelemetryWindow(
                    device=device,
                    boot=4,
                    seq=200 + step,
                    number=0,
                    slot=MODEL,
                    version=VERSION if manifest == NEW else "6",
                    manifest=manifest,
                    start=at,
                    end=at,
                    received_at=at,
                    requests=sum(latency),
                    errors=step if manifest == NEW else 1,
                    non_finite=0,
                    refused=0,
                    latency=latency,
                    confidence=[],
                    classes=[],
                )
            )
    return rows
