"""Random worlds, and that they find what is broken: a protection is taken away in each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from agent.core import worlds
from agent.core.worlds import FAULTS, run_world
from edgectl_agent.core import step_watch, waiting
from edgectl_agent.core.bookkeeping import Bookkeeping
from edgectl_agent.core.coupling import Standing
from edgectl_agent.core.record import Record
from edgectl_protocol.update import ENDED, TRANSITIONS, UpdateEvent, UpdateState

WORLDS = int(os.environ.get("EDGECTL_SIMULATED_WORLDS", "600"))
BLOCKS = 6
GUARD_WORLDS = 1500
"""Enough to meet what a missing protection lets through."""
_S, _E = UpdateState, UpdateEvent
RARE = {
    (_S.SHADOWING, _E.FAILED),
    (_S.SHADOWING, _E.ABORTED),
    (_S.OBSERVING, _E.FAILED),
    (_S.ROLLING_BACK, _E.ABORTED),
    (_S.COMMITTED, _E.BREACHED),
}
"""Rows that few worlds come by; the tests of updates, shadows and wishes come by each."""


@pytest.mark.parametrize("block", range(BLOCKS))
def test_worlds(block: int) -> None:
    for seed in range(block * WORLDS // BLOCKS, (block + 1) * WORLDS // BLOCKS):
        run_world(seed)


def test_worlds_come_by_every_row_fault_and_operation() -> None:
    traces = [run_world(seed) for seed in range(1000)]
    rows = {(before, event) for one in traces for before, event, _ in one.transitions}
    assert set(TRANSITIONS) - rows <= RARE
    met = {name for one in traces for name in one.met}
    assert set(FAULTS) - met <= {"windows", "coupled", "no memory"}, "these are no events"
    assert "gave up" in met
    deltas = {name for one in traces for name in one.deltas}
    assert deltas >= {"used", "delta.base_missing", "delta.malformed", "transfer.stalled"}
    cut_in = {state for one in traces for state, _ in one.cuts}
    assert {str(state) for state in UpdateState if state not in ENDED} <= cut_in
    operations = {operation for one in traces for _, operation in one.cuts}
    assert operations >= {"write", "append", "sync", "sync_directory", "rename", "unlink"}


def test_a_seed_says_everything() -> None:
    assert run_world(7) == run_world(7)


# ---------------------------------------------------------------- guarding the guards


def finds(shares: Mapping[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Demand that one of the worlds breaks, where some faults come in more of them."""
    monkeypatch.setattr(worlds, "_SHARES", {**worlds._SHARES, **shares})

    def run_worlds() -> None:
        for seed in range(GUARD_WORLDS):
            run_world(seed)

    with pytest.raises((AssertionError, LookupError)):
        run_worlds()


def blind(result: Any) -> Callable[..., Any]:
    return lambda *_, **__: result


def never_held(self: waiting.Gate, held: object) -> None:
    self._held = None


def forget(record: Record, _digest: str) -> tuple[str, ...]:
    return record.rejected


@pytest.mark.parametrize(
    ("owner", "name", "broken", "shares"),
    [
        (waiting.Gate, "hold", never_held, {"holds": 1.0}),
        (waiting, "closed", blind(None), {"windows": 1.0}),
        ("edgectl_agent.core.bookkeeping", "remember", forget, {}),
        ("edgectl_agent.core.coupling", "standing", blind(Standing.RUNS), {"coupled": 1.0}),
        (step_watch.StepWatch, "check", blind(None), {"hangs": 1.0}),
        (Bookkeeping, "unsettled", frozenset(), {"cuts": 1.0, "errors": 1.0}),
        ("edgectl_agent.core.bookkeeping", "needed", blind(()), {}),
    ],
    ids=[
        "a hold is not heard",
        "windows are always open",
        "bad digests are not remembered",
        "partners are not waited for",
        "steps have no limit",
        "a pointer is served while it is switched",
        "everything is garbage",
    ],
)
def test_the_worlds_find_a_removed_protection(
    owner: Any,
    name: str,
    broken: Any,
    shares: Mapping[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if isinstance(owner, str):
        monkeypatch.setattr(f"{owner}.{name}", broken)
    else:
        monkeypatch.setattr(owner, name, broken)
    finds(shares, monkeypatch)
