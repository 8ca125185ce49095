"""Loops: when models learn anew by themselves."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct, field

from edgectl.types.rollouts import RolloutPolicy, Selector

__all__ = [
    "LoopAccuracy",
    "LoopAction",
    "LoopEventInfo",
    "LoopInfo",
    "LoopPolicySpec",
    "LoopRunDetail",
    "LoopRunInfo",
    "LoopSampling",
    "LoopStep",
    "LoopTransfer",
    "LoopTriggers",
]

_DAY_S = 86400.0


class LoopTriggers(Struct, frozen=True, kw_only=True):
    """What sets a run off."""

    drift: list[str] = field(default_factory=lambda: ["fleet", "site", "device"])
    estimate: bool = False
    accuracy_below: float | None = None
    accuracy_rows_min: int = 50
    every_s: float | None = None
    labels_new: int | None = None


class LoopSampling(Struct, frozen=True, kw_only=True):
    """What devices send while a run collects."""

    bytes_per_day: int = 20_000_000
    reasons: list[str] = field(default_factory=lambda: ["uncertain", "random"])
    random_share: float = 0.5


class LoopPolicySpec(Struct, frozen=True, kw_only=True):
    """The policy of a model's loop."""

    triggers: LoopTriggers = LoopTriggers()
    cool_down_s: float = _DAY_S
    runs_max: int = 4
    runs_within_s: float = 30 * _DAY_S
    sampling: LoopSampling = LoopSampling()
    labels_min: int = 200
    collect_max_s: float = 14 * _DAY_S
    look_back_s: float = 0.0
    ratios: tuple[float, float, float] = (0.7, 0.1, 0.2)
    trainer: str = "head"
    gain_points_min: float = 0.0
    old_drop_points_max: float = 3.0
    rows_min: int = 20
    update_budget_points: float | None = None
    selector: Selector = Selector(all=True)
    rollout: RolloutPolicy = RolloutPolicy()
    approvals: list[str] = []
    revision: int | None = None


class LoopRunInfo(Struct, frozen=True, kw_only=True):
    """One time round the loop."""

    id: str
    model: str
    state: str
    since: datetime
    trigger: dict[str, str]
    note: str
    dataset: str | None
    retraining: str | None
    version: str | None
    rollout: str | None
    labels: int
    began_at: datetime
    ended_at: datetime | None


class LoopInfo(Struct, frozen=True, kw_only=True):
    """The loop of a model."""

    model: str
    policy: LoopPolicySpec | None
    paused: bool
    state: str
    why: str
    trouble: str
    approval: str | None
    run: LoopRunInfo | None
    revision: int
    changed_at: datetime | None
    changed_by: str


class LoopEventInfo(Struct, frozen=True, kw_only=True):
    """A step."""

    id: int
    run: str | None
    at: datetime
    actor: str
    kind: str
    data: dict[str, Any]


class LoopStep(Struct, frozen=True, kw_only=True):
    """A run in one of its states."""

    state: str
    began_at: datetime
    ended_at: datetime | None
    why: str
    actor: str
    notes: list[LoopEventInfo]


class LoopAccuracy(Struct, frozen=True, kw_only=True):
    """How often a model was right at one time of a run."""

    when: str
    version: str
    right: int
    rows: int
    estimate: float | None


class LoopTransfer(Struct, frozen=True, kw_only=True):
    """What a run's rollout has cost on the wire."""

    devices: int
    fetched_bytes: int
    whole_bytes: int


class LoopRunDetail(LoopRunInfo, frozen=True, kw_only=True):
    """One time round the loop, with its clock and its figures."""

    noticed_at: datetime | None
    steps: list[LoopStep]
    parent: str | None
    samples: int
    labelled: int
    labels_min: int | None
    collect_until: datetime | None
    accuracies: list[LoopAccuracy]
    transfer: LoopTransfer | None


class LoopAction(Struct, frozen=True, kw_only=True):
    """Why somebody acts, and what an approval is of."""

    reason: str = ""
    run: str | None = None
    approval: str | None = None
