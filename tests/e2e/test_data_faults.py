"""Sensors that fail, from a device's raw inputs to what the server says is wrong with the data."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from agent.inference.models import Array, activity
from agent.inference.watched import answers, watched_bundle
from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.watch import Watch
from edgectl_protocol.names import digest_of
from edgectl_protocol.watching import WatchPolicy, decode_reference, problem_of, watched_of
from edgectl_server.domain.data_quality import Fault, examine
from edgectl_server.domain.drift import Window

ROWS = activity()[0][:400]
ALL = WatchPolicy(rows_per_s=1000, window_s=600)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The activity model with a reference."""
    return watched_bundle(tmp_path_factory.mktemp("watched"), ROWS)


def examined(bundle: Bundle, rows: Array, *, clock_set_s: float = 0.0) -> set[tuple[str, str]]:
    """Ask a device for each row, and return what the server finds in its counts."""
    content = Path(bundle.reference).read_bytes()
    reference = decode_reference(content)
    elapsed, wall = [0.0], [datetime(2026, 11, 29, 12, 0, 1, tzinfo=UTC)]
    watch = Watch(
        bundle,
        watched_of(reference),
        digest_of(content),
        now=lambda: wall[0] + timedelta(seconds=elapsed[0]),
        monotonic=lambda: elapsed[0],
    )
    watch.take(ALL)
    outputs = answers(bundle, np.nan_to_num(rows, posinf=0, neginf=0))
    for at in range(len(rows)):
        elapsed[0] += 0.01
        if watch.offer({"input": rows[at : at + 1]}, {"logits": outputs[at : at + 1]}):
            watch.settle()
    wall[0] += timedelta(seconds=clock_set_s)
    (window,) = watch.take(ALL, last=True)
    assert problem_of(window, reference) == ""
    counted = Window(
        device="pi-1",
        site="porto",
        rows=window.rows,
        histograms=window.histograms,
        classes=window.classes,
        missing=window.missing,
        outside=window.outside,
        clock_shift_s=window.clock_shift_s,
    )
    found: tuple[Fault, ...] = examine(reference, [counted])
    return {(one.kind, one.feature) for one in found}


def stuck(rows: Array) -> None:
    rows[:, 1] = 0.1


def dead(rows: Array) -> None:
    rows[:, 4] = 0.0


def not_a_number(rows: Array) -> None:
    rows[::10, 2, 5] = np.nan


def infinite(rows: Array) -> None:
    rows[::10, 3, 5] = np.inf


def saturated(rows: Array) -> None:
    np.clip(3 * rows, -1.0, 1.0, out=rows)


def far(rows: Array) -> None:
    rows[:, 0] += 50.0


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (stuck, {("constant", "input.1.mean"), ("outside", "input.1.deviation")}),
        (dead, {("constant", "input.4.mean"), ("outside", "input.4.deviation")}),
        (not_a_number, {("missing", "input.2.mean"), ("missing", "input.2.low")}),
        (infinite, {("missing", "input.3.mean"), ("missing", "input.3.high")}),
        (saturated, {("saturated", "input.clipped")}),
        (far, {("outside", "input.0.mean")}),
    ],
)
def test_a_sensor_that_fails_is_found(
    bundle: Bundle, fault: Callable[[Array], None], expected: set[tuple[str, str]]
) -> None:
    rows = ROWS.copy()
    fault(rows)
    found = examined(bundle, rows)
    assert expected <= found, found


def test_what_is_sound_has_no_fault(bundle: Bundle) -> None:
    assert examined(bundle, ROWS) == set()


@pytest.mark.parametrize("seconds", [-7200.0, 86400.0])
def test_a_clock_that_jumps_is_found(bundle: Bundle, seconds: float) -> None:
    assert examined(bundle, ROWS, clock_set_s=seconds) == {("clock", "")}
