"""One time round the loop: from what sets it off to promoted, rolled back or rejected. Pure.

=============  =======================================  ==================================
state          waits for                                goes on to
=============  =======================================  ==================================
watching       a trigger, outside of the cool-down      collecting
collecting     labels, a dataset; too long in vain      dataset; rejected
dataset        the word of a person, where it is asked  training
training       the retraining: its gates have passed    gated; rejected
gated          the push; the word of a person           canary; rejected
canary         the first phase of the rollout           rollout; promoted, rolled-back
rollout        the other phases                         promoted, rolled-back
=============  =======================================  ==================================

`watching` is no run; the last three are its ends. What is to be done on the way is an `Action`,
which whoever carries it out makes harmless to do twice. `decide` never skips a state, so that each
leaves an event with its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

__all__ = [
    "ENDS",
    "Action",
    "Decision",
    "LoopPolicy",
    "LoopState",
    "Observed",
    "Trigger",
    "decide",
]

Approval = Literal["training", "rollout"]


class LoopState(StrEnum):
    """Where a run stands; names are kept in the database."""

    WATCHING = "watching"
    COLLECTING = "collecting"
    DATASET = "dataset"
    TRAINING = "training"
    GATED = "gated"
    CANARY = "canary"
    ROLLOUT = "rollout"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"
    REJECTED = "rejected"


ENDS = frozenset({LoopState.PROMOTED, LoopState.ROLLED_BACK, LoopState.REJECTED})


class Action(StrEnum):
    """What is to be done before the next state is written."""

    NOTHING = ""
    BEGIN = "begin"
    COLLECT = "collect"
    """Have devices send samples as the loop wants them."""
    MAKE_DATASET = "make-dataset"
    """And have devices send samples as before."""
    TRAIN = "train"
    START_ROLLOUT = "start-rollout"
    REVERT = "revert"
    """Abort the rollout and give devices back what they ran."""
    STOP_COLLECTING = "stop-collecting"


@dataclass(frozen=True)
class LoopPolicy:
    """What a person has said."""

    cool_down: timedelta
    """From the end of a run to the next one."""
    runs_max: int
    """In `runs_within`."""
    runs_within: timedelta
    labels_min: int
    collect_max: timedelta
    approvals: frozenset[Approval] = frozenset()


@dataclass(frozen=True)
class Trigger:
    """Something that would set a run off."""

    kind: Literal["drift", "accuracy", "schedule", "labels", "hand"]
    detail: str


@dataclass(frozen=True)
class Observed:
    """What is so now."""

    state: LoopState = LoopState.WATCHING
    since: datetime | None = None
    """In this state."""
    paused: bool = False
    triggers: Sequence[Trigger] = ()
    last_ended: datetime | None = None
    runs_lately: int = 0
    """Begun within `runs_within`."""
    collecting: bool = False
    """Devices send samples as the loop wants them."""
    labels: int = 0
    """Labelled samples for this run."""
    refused: str = ""
    """Why what this state has tried last was refused; empty where it was not."""
    approved: bool = False
    """A person has let this state pass."""
    training: str = ""
    """State of the retraining's job."""
    training_problem: str = ""
    version: str = ""
    """State of the candidate's version."""
    version_problem: str = ""
    rollout: str = ""
    """State of the rollout."""
    first_phase: bool = True
    committed: int = 0
    rollout_note: str = ""


@dataclass(frozen=True)
class Decision:
    """What follows: an action and a state, or why nothing does."""

    state: LoopState
    action: Action = Action.NOTHING
    why: str = ""
    data: dict[str, str] = field(default_factory=dict)


def decide(policy: LoopPolicy, observed: Observed, now: datetime) -> Decision:
    """Return what is to be done next; where that is nothing, `why` says what it waits for.

    Args:
        policy: of the model.
        observed: what is so.
        now: the time.
    """
    if observed.paused and observed.state not in {LoopState.CANARY, LoopState.ROLLOUT}:
        return Decision(observed.state, why="paused by a person: `edgectl loop resume`")
    return _STEPS[observed.state](policy, observed, now)


def _watch(policy: LoopPolicy, observed: Observed, now: datetime) -> Decision:
    if not observed.triggers:
        return _wait(observed, "no trigger: nothing says that the model should learn")
    first = next((one for one in observed.triggers if one.kind == "hand"), observed.triggers[0])
    if first.kind != "hand":
        ended = observed.last_ended
        if ended is not None and now < ended + policy.cool_down:
            until = (ended + policy.cool_down).isoformat(timespec="seconds")
            return _wait(observed, f"{first.kind}: {first.detail}; cools down until {until}")
        if observed.runs_lately >= policy.runs_max:
            detail = f"{observed.runs_lately} runs of {policy.runs_max} are spent"
            return _wait(observed, f"{first.kind}: {first.detail}; {detail}")
    data = {"trigger": first.kind, "detail": first.detail}
    return Decision(LoopState.COLLECTING, Action.BEGIN, f"{first.kind}: {first.detail}", data)


def _collect(policy: LoopPolicy, observed: Observed, now: datetime) -> Decision:
    assert observed.since is not None
    late = now >= observed.since + policy.collect_max
    if observed.labels >= policy.labels_min:
        if late and observed.refused:
            why = f"no dataset within the time: {observed.refused}"
            return Decision(LoopState.REJECTED, Action.STOP_COLLECTING, why)
        why = f"{observed.labels} labelled samples"
        return Decision(LoopState.DATASET, Action.MAKE_DATASET, why)
    if late:
        why = f"{observed.labels} of {policy.labels_min} labels within the time"
        return Decision(LoopState.REJECTED, Action.STOP_COLLECTING, why)
    action = Action.NOTHING if observed.collecting else Action.COLLECT
    why = f"{observed.labels} of {policy.labels_min} labels"
    return Decision(LoopState.COLLECTING, action, f"waits for labels: {why}")


def _dataset(policy: LoopPolicy, observed: Observed, now: datetime) -> Decision:  # noqa: ARG001
    if "training" in policy.approvals and not observed.approved:
        return _wait(
            observed, "the dataset is made: waits for `edgectl loop approve MODEL training`"
        )
    return Decision(LoopState.TRAINING, Action.TRAIN, "the dataset is made")


def _train(policy: LoopPolicy, observed: Observed, now: datetime) -> Decision:  # noqa: ARG001
    if observed.training == "succeeded":
        return Decision(LoopState.GATED, why="the candidate has passed its gates")
    if observed.training in {"failed", "cancelled"}:
        problem = observed.training_problem or observed.training
        return Decision(LoopState.REJECTED, why=f"the retraining: {problem}")
    return _wait(observed, f"the retraining is {observed.training or 'queued'}")


def _gated(policy: LoopPolicy, observed: Observed, now: datetime) -> Decision:  # noqa: ARG001
    if observed.version in {"refused", "failed"}:
        problem = observed.version_problem or observed.version
        return Decision(LoopState.REJECTED, why=f"the push: {problem}")
    if observed.version != "ready":
        return _wait(observed, f"the candidate's version is {observed.version or 'processing'}")
    if "rollout" in policy.approvals and not observed.approved:
        return _wait(
            observed, "the candidate is ready: waits for `edgectl loop approve MODEL rollout`"
        )
    return Decision(LoopState.CANARY, Action.START_ROLLOUT, "the candidate is ready")


def _roll(policy: LoopPolicy, observed: Observed, now: datetime) -> Decision:  # noqa: ARG001, PLR0911
    if observed.rollout == "completed" and observed.committed:
        return Decision(LoopState.PROMOTED, why=f"{observed.committed} devices have committed")
    if observed.rollout == "completed":
        return Decision(LoopState.ROLLED_BACK, why="no device has committed")
    if observed.rollout == "aborted":
        return Decision(LoopState.ROLLED_BACK, why=observed.rollout_note or "it was aborted")
    if observed.rollout == "paused":
        note = observed.rollout_note
        if note.startswith("paused by"):
            return _wait(observed, f"the rollout is {note}")
        return Decision(LoopState.ROLLED_BACK, Action.REVERT, note or "the rollout has stopped")
    if observed.state is LoopState.CANARY and not observed.first_phase:
        return Decision(LoopState.ROLLOUT, why="the first phase has passed its gates")
    return _wait(observed, f"the rollout: {observed.rollout_note or observed.rollout}")


def _ended(policy: LoopPolicy, observed: Observed, now: datetime) -> Decision:  # noqa: ARG001
    raise AssertionError(f"a run that is {observed.state} is over")


def _wait(observed: Observed, why: str) -> Decision:
    return Decision(observed.state, why=why)


_STEPS = {
    LoopState.WATCHING: _watch,
    LoopState.COLLECTING: _collect,
    LoopState.DATASET: _dataset,
    LoopState.TRAINING: _train,
    LoopState.GATED: _gated,
    LoopState.CANARY: _roll,
    LoopState.ROLLOUT: _roll,
    LoopState.PROMOTED: _ended,
    LoopState.ROLLED_BACK: _ended,
    LoopState.REJECTED: _ended,
}
