"""The update machine: two tables, and nothing that acts.

`TRANSITIONS` says what follows from a state and an event; an event without a row is a bug of ours
and raises `AssertionError`. `RESUME` says where a device goes on after a power loss. Both are
names, never numbers, because they are persisted and sent: a name once used keeps its meaning.

::

    idle → refreshing → downloading → verifying → trial ──────► activating → observing → committed
              │             │             │         │ └► shadowing ┐ │           │
              │             │             │         │ └──► waiting ┴─┤           │
              └─────────────┴─────────────┴─────────┴─► failed (will try again)  │
                            └─────────────┴─────────┴─► rejected (never again)   │
                                                             rolling-back ◄──────┘ → rolled-back
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

__all__ = [
    "ENDED",
    "PARKED",
    "RESUME",
    "RESUMES_MAX",
    "TRANSITIONS",
    "UpdateEvent",
    "UpdateState",
    "next_state",
    "resume_state",
]


class UpdateState(StrEnum):
    """Where a device stands with the update of one model slot."""

    IDLE = "idle"
    REFRESHING = (
        "refreshing"  # TUF metadata is fetched and checked; the order's target is looked up
    )
    DOWNLOADING = "downloading"  # chunks arrive, each checked, into the blob store
    VERIFYING = "verifying"  # whole blobs are checked against the signed manifest
    TRIAL = "trial"  # a throw-away process proves the golden inputs on this device
    SHADOWING = "shadowing"  # it answers copies of live requests, and nobody sees its answers
    WAITING = "waiting"  # proved; a hold, a window or a partner keeps it from being activated
    ACTIVATING = "activating"  # the slot's pointer is switched and the new model loaded
    OBSERVING = "observing"  # it serves; a breach rolls back
    COMMITTED = "committed"
    FAILED = "failed"  # the world's fault, may be tried again
    REJECTED = "rejected"  # the model's fault, its digest is remembered
    ROLLING_BACK = "rolling-back"  # the pointer is switched back
    ROLLED_BACK = "rolled-back"


class UpdateEvent(StrEnum):
    """What can happen to an update. Few and general: the reason travels beside the event."""

    ORDERED = "ordered"  # a valid order names another digest than the one that runs
    OK = "ok"  # the state's work is done
    SHADOW = "shadow"  # it is, and copies of live requests are wanted before it is activated
    WAIT = "wait"  # it is, and the next state may not begin yet
    FAILED = "failed"  # it could not be done now
    REJECTED = "rejected"  # it must not be done with this digest
    BREACHED = "breached"  # it was activated and misbehaves
    ABORTED = "aborted"  # a newer order, or a person at the device, takes the update back
    RETRY = "retry"  # the back-off after a failure has passed, or a failed switch is undone


_S, _E = UpdateState, UpdateEvent

TRANSITIONS: Mapping[tuple[UpdateState, UpdateEvent], UpdateState] = {
    (_S.IDLE,         _E.ORDERED):  _S.REFRESHING,
    (_S.COMMITTED,    _E.ORDERED):  _S.REFRESHING,
    (_S.COMMITTED,    _E.ABORTED):  _S.ROLLING_BACK,  # withdrawn by the order
    (_S.COMMITTED,    _E.BREACHED): _S.ROLLING_BACK,  # a person at the device wants it gone
    (_S.FAILED,       _E.ORDERED):  _S.REFRESHING,
    (_S.REJECTED,     _E.ORDERED):  _S.REFRESHING,
    (_S.ROLLED_BACK,  _E.ORDERED):  _S.REFRESHING,

    (_S.REFRESHING,   _E.OK):       _S.DOWNLOADING,
    (_S.REFRESHING,   _E.FAILED):   _S.FAILED,
    (_S.REFRESHING,   _E.REJECTED): _S.REJECTED,      # order and signed metadata disagree
    (_S.REFRESHING,   _E.ABORTED):  _S.IDLE,

    (_S.DOWNLOADING,  _E.OK):       _S.VERIFYING,
    (_S.DOWNLOADING,  _E.FAILED):   _S.FAILED,        # what has arrived is kept
    (_S.DOWNLOADING,  _E.REJECTED): _S.REJECTED,      # the signed manifest is outside the contract
    (_S.DOWNLOADING,  _E.ABORTED):  _S.IDLE,

    (_S.VERIFYING,    _E.OK):       _S.TRIAL,
    (_S.VERIFYING,    _E.FAILED):   _S.FAILED,        # a stored blob is damaged: fetched again
    (_S.VERIFYING,    _E.REJECTED): _S.REJECTED,
    (_S.VERIFYING,    _E.ABORTED):  _S.IDLE,

    (_S.TRIAL,        _E.OK):       _S.ACTIVATING,
    (_S.TRIAL,        _E.SHADOW):   _S.SHADOWING,
    (_S.TRIAL,        _E.WAIT):     _S.WAITING,
    (_S.TRIAL,        _E.FAILED):   _S.FAILED,        # no process or memory to try it with, now
    (_S.TRIAL,        _E.REJECTED): _S.REJECTED,      # crashed, hung, disagreed or over budget
    (_S.TRIAL,        _E.ABORTED):  _S.IDLE,

    (_S.SHADOWING,    _E.OK):       _S.ACTIVATING,
    (_S.SHADOWING,    _E.WAIT):     _S.WAITING,
    (_S.SHADOWING,    _E.FAILED):   _S.FAILED,        # its files are damaged, or nothing serves now
    (_S.SHADOWING,    _E.REJECTED): _S.REJECTED,      # it disagreed, was slow, or broke
    (_S.SHADOWING,    _E.ABORTED):  _S.IDLE,

    (_S.WAITING,      _E.OK):       _S.ACTIVATING,
    (_S.WAITING,      _E.FAILED):   _S.FAILED,        # the order has expired, or a partner failed
    (_S.WAITING,      _E.REJECTED): _S.REJECTED,      # a partner was; this one is not blamed
    (_S.WAITING,      _E.ABORTED):  _S.IDLE,

    (_S.ACTIVATING,   _E.OK):       _S.OBSERVING,
    (_S.ACTIVATING,   _E.FAILED):   _S.ROLLING_BACK,  # the world's fault: back, and again later
    (_S.ACTIVATING,   _E.BREACHED): _S.ROLLING_BACK,  # the inference process would not load it
    (_S.ACTIVATING,   _E.ABORTED):  _S.ROLLING_BACK,

    (_S.OBSERVING,    _E.OK):       _S.COMMITTED,
    (_S.OBSERVING,    _E.FAILED):   _S.ROLLING_BACK,  # its files are damaged: back, and again
    (_S.OBSERVING,    _E.BREACHED): _S.ROLLING_BACK,
    (_S.OBSERVING,    _E.ABORTED):  _S.ROLLING_BACK,

    (_S.ROLLING_BACK, _E.OK):       _S.ROLLED_BACK,
    (_S.ROLLING_BACK, _E.RETRY):    _S.FAILED,        # back, and the model was not to blame
    (_S.ROLLING_BACK, _E.FAILED):   _S.ROLLING_BACK,  # there is nowhere else to go: again
    (_S.ROLLING_BACK, _E.ABORTED):  _S.ROLLING_BACK,  # it goes back already, for good now

    (_S.FAILED,       _E.RETRY):    _S.REFRESHING,
    (_S.FAILED,       _E.ABORTED):  _S.IDLE,
}  # fmt: skip

ENDED: frozenset[UpdateState] = frozenset(
    {_S.IDLE, _S.COMMITTED, _S.FAILED, _S.REJECTED, _S.ROLLED_BACK}
)
"""States in which nothing is being done and a new order is taken."""

PARKED: frozenset[UpdateState] = frozenset({_S.WAITING})
"""States in which nothing is being done, though the update has not ended: other slots have their
turn meanwhile."""

RESUME: Mapping[UpdateState, UpdateState] = {
    _S.IDLE:         _S.IDLE,
    _S.REFRESHING:   _S.REFRESHING,
    _S.DOWNLOADING:  _S.DOWNLOADING,   # the bitmap says what is there
    _S.VERIFYING:    _S.VERIFYING,
    _S.TRIAL:        _S.TRIAL,
    _S.SHADOWING:    _S.SHADOWING,     # from its beginning: the counts died with the process
    _S.WAITING:      _S.WAITING,
    _S.ACTIVATING:   _S.ACTIVATING,    # switching the pointer twice is switching it once
    _S.OBSERVING:    _S.OBSERVING,     # a power loss is no evidence against the model
    _S.COMMITTED:    _S.COMMITTED,
    _S.FAILED:       _S.FAILED,
    _S.REJECTED:     _S.REJECTED,
    _S.ROLLING_BACK: _S.ROLLING_BACK,
    _S.ROLLED_BACK:  _S.ROLLED_BACK,
}  # fmt: skip

RESUMES_MAX = 5
"""How often one update may be resumed after the agent died before it is given up."""

_GIVEN_UP: Mapping[UpdateState, UpdateState] = {
    _S.REFRESHING:   _S.FAILED,
    _S.DOWNLOADING:  _S.FAILED,
    _S.VERIFYING:    _S.FAILED,
    _S.TRIAL:        _S.REJECTED,      # trying it takes the device down
    _S.SHADOWING:    _S.REJECTED,
    _S.ACTIVATING:   _S.ROLLING_BACK,
    _S.OBSERVING:    _S.ROLLING_BACK,
}  # fmt: skip


def next_state(state: UpdateState, event: UpdateEvent) -> UpdateState:
    """Return what follows; raise `AssertionError` for an event that `state` cannot have."""
    following = TRANSITIONS.get((state, event))
    if following is None:
        raise AssertionError(f"no transition from {state} on {event}")
    return following


def resume_state(state: UpdateState, resumes: int) -> UpdateState:
    """Return where to go on after the agent or the device has died.

    Args:
        state: the last state that was persisted.
        resumes: how often this update has been resumed before.
    """
    if resumes >= RESUMES_MAX and state in _GIVEN_UP:
        return _GIVEN_UP[state]
    return RESUME[state]
