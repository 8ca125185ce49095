"""What a model is given and answers, counted on the device: windows, policy, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.inference.models import Array, Client, activity
from agent.inference.watched import answers, watched_bundle
from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.inference.reference import open_reference
from edgectl_agent.inference.watch import Watch
from edgectl_protocol.names import digest_of
from edgectl_protocol.watching import (
    FeatureWindow,
    WatchPolicy,
    decode_reference,
    problem_of,
    watched_of,
)

ALL = WatchPolicy(rows_per_s=1000, window_s=60)
ROWS = activity()[0][:200]


class Clock:
    """A wall clock that can be set, and one that only runs."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 11, 29, 11, 59, 30, tzinfo=UTC)
        self.elapsed = 1000.0

    def run(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.elapsed += seconds


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The activity model with a reference."""
    return watched_bundle(tmp_path_factory.mktemp("watched"), ROWS)


@pytest.fixture
def clock() -> Clock:
    """Half a minute before noon."""
    return Clock()


def watch_of(bundle: Bundle, clock: Clock, policy: WatchPolicy = ALL) -> Watch:
    content = Path(bundle.reference).read_bytes()
    watch = Watch(
        bundle,
        watched_of(decode_reference(content)),
        digest_of(content),
        now=lambda: clock.wall,
        monotonic=lambda: clock.elapsed,
    )
    watch.take(policy)
    return watch


def ask(watch: Watch, clock: Clock, rows: Array, outputs: Array, *, every_s: float = 0.01) -> None:
    """One row a request."""
    for at in range(len(rows)):
        clock.run(every_s)
        if watch.offer({"input": rows[at : at + 1]}, {"logits": outputs[at : at + 1]}):
            watch.settle()


def test_counts_of_the_reference_data_are_the_reference(bundle: Bundle, clock: Clock) -> None:
    watch = watch_of(bundle, clock)
    ask(watch, clock, ROWS, answers(bundle, ROWS))
    clock.run(60)
    (window,) = watch.take(ALL)
    reference = decode_reference(Path(bundle.reference).read_bytes())
    assert problem_of(window, reference) == ""
    assert window.rows == 200
    for feature, histogram in zip(reference.features, window.histograms, strict=True):
        moved = np.abs(np.subtract(histogram, feature.counts)).sum()
        assert moved <= 6, f"{feature.name}: a batch of another size may round otherwise"
    assert window.classes == reference.classes
    assert sum(window.outside) <= 6
    assert window.reference == digest_of(Path(bundle.reference).read_bytes())


def test_windows_end_at_the_full_minute(bundle: Bundle, clock: Clock) -> None:
    watch, outputs = watch_of(bundle, clock), answers(bundle, ROWS)
    begin = clock.wall
    ask(watch, clock, ROWS[:40], outputs[:40])
    assert watch.take(ALL) == (), "not yet ended"
    clock.run(30)
    ask(watch, clock, ROWS[:40], outputs[:40])
    clock.run(60)
    first, second = watch.take(ALL)
    noon = datetime(2026, 11, 29, 12, tzinfo=UTC)
    assert (first.start, first.end) == (begin, noon)
    assert second.start == pytest.approx(noon, abs=timedelta(seconds=1))
    assert second.end == noon + timedelta(minutes=1)
    assert first.rows + second.rows == 80
    assert watch.take(ALL) == ()
    clock.run(600)
    assert watch.take(ALL) == (), "nothing came: there is nothing to tell"


def test_what_comes_faster_than_the_policy_is_skipped_and_said(
    bundle: Bundle, clock: Clock
) -> None:
    slow = WatchPolicy(rows_per_s=4, window_s=60)
    watch = watch_of(bundle, clock, slow)
    ask(watch, clock, ROWS, answers(bundle, ROWS), every_s=0.0625)
    clock.run(60)
    (window,) = watch.take(slow)
    assert window.rows == 50
    assert window.rows + window.skipped == 200


def test_of_many_rows_of_one_request_one_is_looked_at(bundle: Bundle, clock: Clock) -> None:
    watch, outputs = watch_of(bundle, clock), answers(bundle, ROWS)
    for _ in range(40):
        clock.run(1 / 64)
        watch.offer({"input": ROWS[:10]}, {"logits": outputs[:10]})
    (window,) = watch.take(ALL, last=True)
    assert (window.rows, window.skipped) == (40, 360)
    assert sum(window.classes) == 40


def test_a_policy_of_nothing_watches_nothing(bundle: Bundle, clock: Clock) -> None:
    nothing = WatchPolicy(rows_per_s=0)
    watch = watch_of(bundle, clock, nothing)
    ask(watch, clock, ROWS, answers(bundle, ROWS))
    assert watch.take(nothing, last=True) == ()


def test_a_clock_that_is_set_is_told(bundle: Bundle, clock: Clock) -> None:
    watch, outputs = watch_of(bundle, clock), answers(bundle, ROWS)
    ask(watch, clock, ROWS[:40], outputs[:40])
    clock.wall -= timedelta(hours=2)
    (window,) = watch.take(ALL, last=True)
    assert window.clock_shift_s == -7200
    assert window.start <= window.end


def test_a_row_is_copied_before_the_application_writes_into_it(
    bundle: Bundle, clock: Clock
) -> None:
    watch, outputs = watch_of(bundle, clock), answers(bundle, ROWS)
    given = ROWS[:1].copy()
    clock.run(1)
    watch.offer({"input": given}, {"logits": outputs[:1]})
    given[:] = np.nan
    (window,) = watch.take(ALL, last=True)
    assert window.missing == ()


def test_inputs_that_are_no_numbers_are_missing(bundle: Bundle, clock: Clock) -> None:
    watch, outputs = watch_of(bundle, clock), answers(bundle, ROWS)
    broken = ROWS[:40].copy()
    broken[:, 2] = np.nan
    ask(watch, clock, broken, outputs[:40])
    (window,) = watch.take(ALL, last=True)
    names = [one.name for one in decode_reference(Path(bundle.reference).read_bytes()).features]
    lost = {name for name, count in zip(names, window.missing, strict=True) if count}
    assert lost == {
        f"input.2.{part}" for part in ("mean", "deviation", "low", "middle", "high")
    } | {"input.clipped"}
    assert set(window.missing) == {0, 40}


def test_shapes_that_the_reference_does_not_know_end_the_watching(
    bundle: Bundle, clock: Clock
) -> None:
    watch, outputs = watch_of(bundle, clock), answers(bundle, ROWS)
    clock.run(1)
    watch.offer({"input": ROWS[:1, :3]}, {"logits": outputs[:1]})
    watch.settle()
    ask(watch, clock, ROWS, outputs)
    windows = watch.take(ALL, last=True)
    assert all(window.rows == 0 for window in windows)


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 10_000, b" " * 300_000])
def test_a_damaged_reference_stops_no_model(bundle: Bundle, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "reference.json"
    path.write_bytes(content)
    assert open_reference(msgspec.structs.replace(bundle, reference=str(path))) is None
    assert open_reference(msgspec.structs.replace(bundle, reference="")) is None


def test_a_reference_of_another_model_is_not_believed(bundle: Bundle, tmp_path: Path) -> None:
    whole = decode_reference(Path(bundle.reference).read_bytes())
    (tensor,) = whole.inputs
    other = msgspec.structs.replace(
        whole, inputs=(msgspec.structs.replace(tensor, name="elsewhere"),)
    )
    path = tmp_path / "reference.json"
    path.write_bytes(msgspec.json.encode(other))
    assert open_reference(msgspec.structs.replace(bundle, reference=str(path))) is None


def test_the_process_counts_what_clients_ask(
    process: InferenceProcess, client: Client, bundle: Bundle
) -> None:
    process.load(bundle)
    policy = WatchPolicy(rows_per_s=1000, window_s=86400)
    assert process.watched(policy) == ()
    asked = 60
    for row in ROWS[:asked]:
        tensor = {"name": "input", "shape": [1, 6, 128], "datatype": "FP32"}
        body = {"inputs": [{**tensor, "data": row.ravel().tolist()}]}
        assert client.call("POST", "/v2/models/activity/infer", body)[0] == 200
    windows: list[FeatureWindow] = list(process.watched(policy))  # it may be midnight
    process.unload("activity")
    windows += process.watched(policy)
    assert sum(one.rows + one.skipped for one in windows) == asked
    reference = decode_reference(Path(bundle.reference).read_bytes())
    for window in windows:
        assert window.manifest == bundle.manifest
        assert problem_of(window, reference) == ""


def test_what_is_counted_is_enough(bundle: Bundle, tmp_path: Path) -> None:
    """Without the counts of the reference the same is counted, under the name of that file."""
    reference = decode_reference(Path(bundle.reference).read_bytes())
    content = msgspec.json.encode(watched_of(reference))
    path = tmp_path / "watched.json"
    path.write_bytes(content)
    both = [
        open_reference(bundle),
        open_reference(msgspec.structs.replace(bundle, watched=str(path), reference="")),
    ]
    windows = []
    for opened in both:
        assert opened is not None
        watch = Watch(bundle, *opened)
        watch.take(ALL)
        for row in ROWS[:50]:
            watch._describing._next_s = 0.0
            inputs = {bundle.config.inputs[0].name: row[np.newaxis]}
            watch.offer(inputs, {bundle.config.outputs[0].name: np.zeros((1, 7), np.float32)})
        (window,) = watch.take(ALL, last=True)
        assert window.rows == 50
        windows.append(window)
    assert windows[0].histograms == windows[1].histograms
    assert windows[0].classes == windows[1].classes
    assert windows[1].reference == digest_of(content)
    path.write_bytes(b"{}")
    assert open_reference(msgspec.structs.replace(bundle, watched=str(path), reference="")) is None
