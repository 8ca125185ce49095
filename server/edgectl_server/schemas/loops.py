"""Loops: when a model learns anew by itself, and how far it may go alone."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from edgectl_protocol.samples import BYTES_PER_DAY_MAX, SAMPLE_REASONS
from edgectl_server.schemas.base import Schema
from edgectl_server.schemas.retraining import TrainerNameStr
from edgectl_server.schemas.rollouts import RolloutPolicy, Selector
from edgectl_server.schemas.samples import SampleReasonStr

__all__ = [
    "LoopAccuracy",
    "LoopAction",
    "LoopEventInfo",
    "LoopInfo",
    "LoopNews",
    "LoopPolicySpec",
    "LoopRunDetail",
    "LoopRunInfo",
    "LoopSampling",
    "LoopStep",
    "LoopTransfer",
    "LoopTriggers",
]

_DAY_S = 86400
Share = Annotated[float, Field(ge=0, le=1)]
LoopApprovalStr = Literal["training", "rollout"]
LoopStateStr = Literal[
    "watching",
    "collecting",
    "dataset",
    "training",
    "gated",
    "canary",
    "rollout",
    "promoted",
    "rolled-back",
    "rejected",
]


class LoopTriggers(Schema):
    """What sets a run off; by hand is always possible."""

    drift: list[Literal["fleet", "site", "device"]] = Field(default=["fleet", "site", "device"])
    """Drift at one of these levels; none: drift sets nothing off."""
    estimate: bool = False
    """The estimated accuracy of the fleet or of a site has fallen below what its push measured."""
    accuracy_below: Share | None = None
    """Share of the newest labelled samples that the model has answered rightly."""
    accuracy_rows_min: int = Field(default=50, ge=10, le=10_000)
    """Labelled samples without which nothing is said of the accuracy."""
    every_s: float | None = Field(default=None, ge=60, le=366 * _DAY_S)
    """Since the end of the last run."""
    labels_new: int | None = Field(default=None, ge=1, le=100_000)
    """Samples that were labelled since the last run began."""


class LoopSampling(Schema):
    """What devices send while a run collects; the model's policy on samples is as before after."""

    bytes_per_day: int = Field(default=20_000_000, ge=0, le=BYTES_PER_DAY_MAX)
    """0: the model's policy stays as it is."""
    reasons: list[SampleReasonStr] = Field(
        default=["uncertain", "random"], max_length=len(SAMPLE_REASONS)
    )
    random_share: float = Field(default=0.5, ge=0, le=1)


class LoopPolicySpec(Schema):
    """``PUT /models/{name}/loop``."""

    triggers: LoopTriggers = LoopTriggers()
    cool_down_s: float = Field(default=_DAY_S, ge=0, le=366 * _DAY_S)
    """From the end of a run to the next one that nobody asks for."""
    runs_max: int = Field(default=4, ge=1, le=1000)
    """In `runs_within_s`; those by hand count, and are not refused."""
    runs_within_s: float = Field(default=30 * _DAY_S, ge=60, le=366 * _DAY_S)
    sampling: LoopSampling = LoopSampling()
    labels_min: int = Field(default=200, ge=20, le=20_000)
    """Labelled samples of the run from which on it trains."""
    collect_max_s: float = Field(default=14 * _DAY_S, ge=60, le=366 * _DAY_S)
    """For so long it waits for them."""
    look_back_s: float = Field(default=0.0, ge=0, le=366 * _DAY_S)
    """Samples from so long before the run count too."""
    ratios: tuple[Share, Share, Share] = (0.7, 0.1, 0.2)
    """Of the dataset: train, validation and test."""
    trainer: TrainerNameStr = "head"
    gain_points_min: float = Field(default=0.0, ge=0, le=100)
    old_drop_points_max: float = Field(default=3.0, ge=0, le=100)
    rows_min: int = Field(default=20, ge=1, le=20_000)
    update_budget_points: float | None = Field(default=None, ge=0, le=100)
    selector: Selector = Selector(all=True)
    """Who gets the candidate."""
    rollout: RolloutPolicy = RolloutPolicy()
    """Its phases, gates and shadow."""
    approvals: list[LoopApprovalStr] = Field(default=[])
    """Before which a person must say so; none: fully automatic."""
    revision: int | None = Field(default=None, ge=0)
    """Of the policy that this one is made from: if another is in force by now, it is refused."""


class LoopRunInfo(Schema):
    """One time round the loop."""

    id: str
    model: str
    state: LoopStateStr
    since: datetime
    trigger: dict[str, str]
    note: str
    """What it waits for, or how it has ended."""
    dataset: str | None
    retraining: str | None
    version: str | None
    rollout: str | None
    labels: int
    began_at: datetime
    ended_at: datetime | None


class LoopEventInfo(Schema):
    """A step."""

    id: int
    run: str | None
    at: datetime
    actor: str
    kind: str
    data: dict[str, Any]


class LoopStep(Schema):
    """A run in one of its states."""

    state: LoopStateStr
    began_at: datetime
    ended_at: datetime | None
    """None: it is in this state."""
    why: str
    """It has come to be in it."""
    actor: str
    notes: list[LoopEventInfo]
    """What else has happened in it, the oldest first."""


class LoopAccuracy(Schema):
    """How often a model was right at one time of a run, as far as labels and counts tell."""

    when: Literal["before", "during", "after"]
    """What set the run off; until the candidate took over; since then."""
    version: str
    right: int
    rows: int
    """Labelled samples that were taken at random."""
    estimate: float | None
    """Before: measured at the push. Otherwise estimated of the fleet's answers, without labels."""


class LoopTransfer(Schema):
    """What a run's rollout has cost on the wire."""

    devices: int
    """That have told."""
    fetched_bytes: int
    """By all of them."""
    whole_bytes: int
    """Of their bundles."""


class LoopRunDetail(LoopRunInfo):
    """One time round the loop, with its clock and its figures."""

    noticed_at: datetime | None
    """When the drift was judged that set it off; None: it was none, or is forgotten."""
    steps: list[LoopStep]
    """The oldest first."""
    parent: str | None
    """The version that the candidate is to take over from."""
    samples: int
    """Of the run, labelled or not, by now or until its dataset was made."""
    labelled: int
    labels_min: int | None
    """That its policy asks for; None: it has none any more."""
    collect_until: datetime | None
    """When it gives up; None: it collects no more."""
    accuracies: list[LoopAccuracy]
    """Where something is known."""
    transfer: LoopTransfer | None


class LoopNews(Schema):
    """Of the topic ``loops``: changes when a loop has taken a step, or a label was given."""

    event: int
    """The newest; 0: none yet."""
    annotation: int
    """The newest; 0: none yet."""


class LoopInfo(Schema):
    """The loop of a model."""

    model: str
    policy: LoopPolicySpec | None
    """None: there is none, and nothing is looked at."""
    paused: bool
    state: LoopStateStr
    why: str
    """What it waits for, at the last look."""
    trouble: str
    """Why what it last tried has failed, until it tries again; empty: nothing has."""
    approval: LoopApprovalStr | None
    """Before which it waits for a person now."""
    run: LoopRunInfo | None
    """That is under way, or the last one."""
    revision: int
    changed_at: datetime | None
    changed_by: str


class LoopAction(Schema):
    """``POST /models/{name}/loop/actions/{action}``."""

    reason: str = Field(default="", max_length=512)
    run: str | None = Field(default=None, max_length=64)
    """That is approved; ``approve`` is refused without it."""
    approval: LoopApprovalStr | None = None
    """That is given, as the loop tells it; ``approve`` is refused without it."""
