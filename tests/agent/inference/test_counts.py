"""What a model has served is counted whole, also what is put aside to be counted later."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.inference.scoring import scoring
from edgectl_agent.inference.counts import Counts, predictions_of
from edgectl_protocol.histograms import CONFIDENCE_EDGES, LATENCY_EDGES_US, bin_of
from edgectl_protocol.manifest import BundleConfig, Scores


@pytest.fixture
def config(tmp_path: Path) -> BundleConfig:
    return scoring(tmp_path, "1").config


def rows(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (count, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize("count", [1, 15, 16, 17, 100])
def test_every_request_is_in_the_window(config: BundleConfig, count: int, kind: str) -> None:
    scores = Scores(output="y", kind="logits" if kind == "logits" else "probabilities")
    counts = Counts(msgspec.structs.replace(config, scores=scores))
    latency = [0] * (len(LATENCY_EDGES_US) + 1)
    confidence = [0] * (len(CONFIDENCE_EDGES) + 1)
    classes = [0, 0, 0]
    for number, row in enumerate(rows(count)):
        output = {"y": row[np.newaxis]}
        assert counts.served(10.0 * (number + 1), output)
        latency[bin_of(LATENCY_EDGES_US, 10.0 * (number + 1))] += 1
        ((index, sure),) = predictions_of(output, scores)
        classes[index] += 1
        confidence[bin_of(CONFIDENCE_EDGES, sure)] += 1
    tally = counts.take()
    assert tally.requests == count
    assert tally.latency == tuple(latency)
    assert tally.confidence == tuple(confidence)
    assert tally.classes == tuple(classes[: max(index for index in range(3) if classes[index]) + 1])
    assert counts.take().requests == 0
    assert counts.totals("m").requests == count


def test_a_window_and_a_new_beginning_leave_nothing_behind(config: BundleConfig) -> None:
    counts = Counts(config)
    output = {"y": rows(1)}
    counts.served(1.0, output)
    counts.restart()
    assert counts.totals("m").requests == 0
    counts.served(1.0, output)
    assert counts.totals("m").requests == 1
    assert counts.take().requests == 2
    assert counts.totals("m").requests == 1


@pytest.mark.parametrize(
    ("output", "finite"),
    [
        (np.array([[1.0, np.nan, 2.0]], np.float32), False),
        (np.array([[np.inf, -np.inf, 0.0]], np.float32), False),
        (np.array([[3e38, 3e38, 3e38]], np.float32), True),  # whose sum is finite in float64
        (np.full((1, 3), 1.7e308), True),  # whose sum is not
        (np.zeros((2, 3), np.float32), True),
        (np.zeros((1, 0), np.float32), True),
        (np.zeros((1, 5), np.float32), True),  # not what the contract says: counted all the same
        (np.float32(1.0).reshape(()), True),
    ],
)
def test_what_is_no_usual_row_is_counted_at_once(
    config: BundleConfig, output: np.ndarray, finite: bool
) -> None:
    counts = Counts(config)
    usual = {"y": rows(1)}
    counts.served(1.0, usual)
    assert counts.served(1.0, {"y": output}, {"x": np.zeros(3, np.float32)}) is finite
    counts.served(1.0, usual)
    tally = counts.take()
    assert (tally.requests, tally.non_finite) == (3, int(not finite))


def test_threads_lose_nothing(config: BundleConfig) -> None:
    counts = Counts(config)
    each, output = 2000, {"y": rows(1)}
    windows = []
    with ThreadPoolExecutor(4) as pool:
        work = [
            pool.submit(lambda: [counts.served(1.0, output) for _ in range(each)]) for _ in range(4)
        ]
        while not all(one.done() for one in work):
            windows.append(counts.take())
    windows.append(counts.take())
    assert sum(one.requests for one in windows) == 4 * each
    assert sum(sum(one.classes) for one in windows) == 4 * each
