"""The trace of a version: its push, and every rollout of it, as spans made from what has happened.

All of a version is one trace, with ids that follow from names: whichever server tells it, and
however often, a backend sees the same spans. A rollout is a child of the push; its phases, and the
times for which it was paused, are children of the rollout.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

__all__ = ["Happening", "PushFacts", "RolloutFacts", "Span", "push_spans", "rollout_spans"]

EVENTS_MAX = 64
_TEXT_CHARACTERS_MAX = 512
Value = str | int


@dataclass(frozen=True)
class Span:
    """Something that took time.

    Attributes:
        trace: id of the version's trace, 128 bits.
        id: 64 bits.
        parent: id of the span that it belongs to; None: of none.
        name: what.
        start: when it began.
        end: when it ended.
        failed: why it has failed; empty: it has not.
        attributes: more about it.
        events: what happened meanwhile.
    """

    trace: int
    id: int
    parent: int | None
    name: str
    start: datetime
    end: datetime
    failed: str = ""
    attributes: Mapping[str, Value] = field(default_factory=dict)
    events: Sequence[tuple[datetime, str]] = ()


@dataclass(frozen=True)
class PushFacts:
    """A push that has ended: its job and version, when it was created, begun and ended."""

    job: str
    model: str
    version: str
    created: datetime
    started: datetime | None
    finished: datetime
    attempts: int
    failed: str


@dataclass(frozen=True)
class Happening:
    """One row of a rollout's history."""

    at: datetime
    kind: str
    phase: str = ""
    """Name of the phase that begins, if one does."""


@dataclass(frozen=True)
class RolloutFacts:
    """A rollout that has ended."""

    rollout: str
    model: str
    version: str
    state: str
    devices: Mapping[str, int]
    """Devices by what has become of them."""
    created: datetime
    finished: datetime
    first_phase: str = ""
    """Empty: it has no phases."""


def push_spans(push: PushFacts) -> list[Span]:
    """Return the spans of a push: itself, its wait in the queue, its work."""
    trace = _trace(push.model, push.version)
    root = _push_span(push.model, push.version)
    about: dict[str, Value] = {
        "edgectl.model": push.model,
        "edgectl.version": push.version,
        "edgectl.job": push.job,
        "edgectl.attempts": push.attempts,
    }
    name = f"push {push.model}@{push.version}"
    failed = push.failed[:_TEXT_CHARACTERS_MAX]
    spans = [Span(trace, root, None, name, push.created, push.finished, failed, about)]
    begun = push.started or push.finished
    spans.append(Span(trace, _id(push.job, "queued"), root, "queued", push.created, begun))
    if push.started is not None:
        work = _id(push.job, "work")
        spans.append(Span(trace, work, root, "pipeline", push.started, push.finished, failed))
    return spans


def rollout_spans(rollout: RolloutFacts, history: Sequence[Happening]) -> list[Span]:
    """Return the spans of a rollout: itself, its phases, its pauses.

    Args:
        rollout: which.
        history: of it, the oldest first.
    """
    trace, root = _trace(rollout.model, rollout.version), _id("rollout", rollout.rollout)
    about: dict[str, Value] = {
        "edgectl.model": rollout.model,
        "edgectl.version": rollout.version,
        "edgectl.rollout": rollout.rollout,
        "edgectl.state": rollout.state,
        **{f"edgectl.devices.{state}": count for state, count in sorted(rollout.devices.items())},
    }
    spans = [
        Span(
            trace,
            root,
            _push_span(rollout.model, rollout.version),
            f"rollout {rollout.model}@{rollout.version}",
            rollout.created,
            rollout.finished,
            "aborted" if rollout.state == "aborted" else "",
            about,
            [(one.at, one.kind) for one in history[:EVENTS_MAX]],
        )
    ]
    begun: dict[str, tuple[datetime, str]] = {}
    if rollout.first_phase:
        begun["phase"] = (rollout.created, f"phase {rollout.first_phase}")
    pauses = 0
    for one in history:
        if one.kind == "phase_began" and "phase" in begun:
            since, name = begun["phase"]
            spans.append(_child(spans[0], name, since, one.at))
            begun["phase"] = (one.at, f"phase {one.phase}")
        elif one.kind == "paused":
            pauses += 1
            begun["paused"] = (one.at, f"paused {pauses}")
        elif one.kind == "resumed" and "paused" in begun:
            since, name = begun.pop("paused")
            spans.append(_child(spans[0], name, since, one.at))
    for since, name in begun.values():
        spans.append(_child(spans[0], name, since, rollout.finished))
    return spans


def _child(rollout: Span, name: str, start: datetime, end: datetime) -> Span:
    identity = _id(f"{rollout.id:x}", name)
    return Span(rollout.trace, identity, rollout.id, name, start, max(start, end))


def _trace(model: str, version: str) -> int:
    return int.from_bytes(sha256(f"trace\0{model}@{version}".encode()).digest()[:16]) or 1


def _push_span(model: str, version: str) -> int:
    return _id("push", f"{model}@{version}")


def _id(kind: str, name: str) -> int:
    return int.from_bytes(sha256(f"{kind}\0{name}".encode()).digest()[:8]) or 1
