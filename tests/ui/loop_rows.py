"""Loops: one whose candidate is on its first devices, one that collects, one that waits.

The ticker of the server leaves them as they are written here: none is ever due.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec

from edgectl_datasets.documents import AnsweredBy, Dataset, SplitRule, Statistics
from edgectl_protocol.names import digest_of
from edgectl_server.job_rows import end_job, new_job
from edgectl_server.storage.tables import (
    Base,
    DatasetRow,
    LoopEventRow,
    LoopPolicyRow,
    LoopRunRow,
    RetrainingRow,
)
from ui.bundle_files import contract_of

__all__ = ["CURRENT", "DATASET", "EARLIER", "TRAINING", "loop_rows"]

CURRENT, EARLIER = "100b000000000001", "100b000000000002"
DATASET = f"loop-har-{CURRENT}"
TRAINING = "7a19000000000001"
_WORSE = "7a19000000000002"
_COLLECTS, _ASKS = "100b000000000003", "100b000000000004"
_DATASET = digest_of(b"the dataset of a loop")
_WAY = ("collecting", "dataset", "training", "gated", "canary")


def loop_rows(markup: str, rollout: str, now: datetime) -> list[Base]:
    """Return the rows; `markup` is what people and trainers may write, `rollout` of a canary."""
    return [
        _policy("har", now, approvals=["training", "rollout"], labels_min=240),
        _policy("door", now, labels_min=300),
        _policy("kws", now, approvals=["training"], paused=False),
        _dataset(now),
        *_trainings(markup, now),
        *_runs(markup, rollout, now),
    ]


def _policy(model: str, now: datetime, *, paused: bool = False, **document: Any) -> LoopPolicyRow:
    phases = [{"name": "canary", "percent": 5, "soak_s": 3600}, {"percent": 100}]
    return LoopPolicyRow(
        model=model,
        document={"rollout": {"shadow_s": 600, "phases": phases}, **document},
        revision=3,
        paused=paused,
        due_at=None,
        changed_at=now - timedelta(days=9),
        changed_by="admin",
    )


def _dataset(now: datetime) -> DatasetRow:
    inputs, _, classes = contract_of("har")
    splits: Any = {"train": 168, "validation": 24, "test": 48}
    document = Dataset(
        format=1,
        id=_DATASET,
        name=DATASET,
        created=now,
        model="har",
        inputs=tuple(inputs),
        classes=tuple(classes),
        rows=240,
        splits=splits,
        split=SplitRule(by="device", ratios=(0.7, 0.1, 0.2)),
        models=(AnsweredBy(manifest=digest_of(b"har 2"), version="2", rows=240),),
        filter={"reasons": "random, uncertain", "labelled": True},
        left_out={"conflict": 7, "unlabelled": 0},
        statistics=Statistics(
            classes={
                "train": (100, 60, 8, *[0] * (len(classes) - 3)),
                "validation": (16, 8, *[0] * (len(classes) - 2)),
                "test": (30, 18, *[0] * (len(classes) - 2)),
            },
            devices={"train": 7, "validation": 1, "test": 2},
        ),
    )
    return DatasetRow(
        id=_DATASET,
        name=document.name,
        model="har",
        parent=None,
        document=msgspec.to_builtins(document),
        rows=240,
        bytes=1_412_000,
        rows_blob=digest_of(b"rows"),
        created_at=now - timedelta(hours=3),
        created_by="loop",
    )


def _trainings(markup: str, now: datetime) -> list[Base]:
    def verdict(gate: str, said: str, detail: str, value: float) -> dict[str, Any]:
        return {"gate": gate, "verdict": said, "detail": detail, "value": value, "limit": 0.0}

    good = [
        verdict("new_rows", "passed", "48 labelled rows, at least 20", 48.0),
        verdict("gain", "passed", "33.3 points better, at least 0", 33.3),
        verdict("old_rows", "passed", "0.4 points worse, at most 3", -0.4),
    ]
    bad = [good[0], verdict("gain", "failed", "4.2 points worse", -4.2), good[2]]
    rows: list[Base] = []
    for identity, verdicts, right in ((TRAINING, good, 44), (_WORSE, bad, 26)):
        job = new_job("retrain", {"subject": {"model": "har"}}, "loop", now - timedelta(hours=3))
        job.id = identity
        end_job(job, "succeeded", now - timedelta(hours=2, minutes=40))
        rows += [
            job,
            RetrainingRow(
                id=identity, model="har", parent="1", dataset=_DATASET, trainer="head",
                request={}, metrics={"strength": 0.01, "loss": 0.28714}, verdicts=verdicts,
                accuracies={
                    "old": {"rows": 2947, "champion": 2807, "challenger": 2795},
                    "new": {"rows": 48, "champion": 28, "challenger": right},
                    "labels": 240, "same": False,
                },
                candidate=None, calibration=None, evaluation=None,
                version="3" if verdicts is good else None,
                log=f"epoch 1: loss 0.41\nepoch 2: loss 0.29 {markup}\n",
                created_at=job.created_at, created_by="loop",
            ),
        ]  # fmt: skip
    return rows


def _runs(markup: str, rollout: str, now: datetime) -> list[Base]:
    facts = {"dataset": _DATASET, "rows": 240}
    made = {**facts, "retraining": TRAINING, "version": "3", "rollout": rollout}
    drift = {"kind": "drift", "detail": "har@1, site porto: window.2.deviation, confidence"}
    hand = {"kind": "hand", "detail": f"new sensors {markup}"}
    begins = {
        CURRENT: now - timedelta(hours=9),
        EARLIER: now - timedelta(days=6),
        _COLLECTS: now - timedelta(minutes=50),
        _ASKS: now - timedelta(hours=30),
    }
    runs = [
        (CURRENT, "har", "canary", drift, made, "waits for the rollout"),
        (EARLIER, "har", "rejected", hand, {**facts, "retraining": _WORSE},
         "the retraining: training.worse: gain failed: 4.2 points worse"),
        (_COLLECTS, "door", "collecting", drift | {"detail": "door@7, device pi-porto-03: x"},
         {"sampling": "raised"}, ""),
        (_ASKS, "kws", "dataset", {"kind": "labels", "detail": "512 new labels"}, facts, ""),
    ]  # fmt: skip
    rows: list[Base] = []
    for identity, model, state, trigger, found, note in runs:
        began = begins[identity]
        way = [*_WAY[: _WAY.index(state) + 1]] if state in _WAY else [*_WAY[:3], state]
        ends = {"collecting": 5.2, "dataset": 0.1, "training": 0.4, "gated": 0.6, "canary": 0.0}
        at, since = began, began
        for number, step in enumerate(way):
            since = at
            why = ["", "240 labelled samples", "the dataset is made"][number : number + 1]
            rows.append(
                LoopEventRow(
                    run=identity, model=model, at=at,
                    actor="loop", kind="began" if number == 0 else step,
                    data={"state": step, "why": why[0] if why else f"{step} begins"},
                )
            )  # fmt: skip
            if identity == CURRENT and step == "dataset":
                rows.append(
                    LoopEventRow(
                        run=identity, model=model, at=at + timedelta(minutes=4),
                        actor="operator", kind="approve",
                        data={"reason": f"labels look right {markup}"},
                    )
                )  # fmt: skip
            at += timedelta(hours=ends.get(step, 0.0))
        ended = since if state == "rejected" else None
        rows.append(
            LoopRunRow(
                id=identity, model=model, state=state, since=since, trigger=trigger, facts=found,
                note=note, approved="", began_at=began, ended_at=ended,
            )
        )  # fmt: skip
    return rows
