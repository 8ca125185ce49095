"""The accuracy that is estimated without labels, beside the true one, on real data."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgectl_protocol.histograms import CONFIDENCE_EDGES
from edgectl_protocol.manifest import Scores, TensorSpec
from edgectl_protocol.names import digest_of
from edgectl_protocol.watching import Feature, Reference
from edgectl_server.domain.accuracy import (
    AccuracyJudged,
    AccuracyLimits,
    calibration_of,
    judge_accuracy,
    next_accuracy_state,
)
from edgectl_server.domain.drift import Window
from edgectl_server.pipeline.data import Samples
from edgectl_server.pipeline.reference import make_reference
from edgectl_statistics.features import plan_of

ACTIVITY = Path(__file__).resolve().parents[2] / "server" / "edgectl" / "demo" / "activity"
BINS = len(CONFIDENCE_EDGES) + 1
CLASSES = 7
PARTS = 6
LIMITS = AccuracyLimits()
Rows = np.ndarray


def histogram(confidences: Rows) -> tuple[int, ...]:
    places = np.searchsorted(np.array(CONFIDENCE_EDGES), confidences, "right")
    return tuple(np.bincount(places, minlength=BINS).tolist())


@dataclass
class Activity:
    """A model of the demo, the rows that its reference is of, and those of the devices."""

    run: Callable[[Rows], tuple[Rows, Rows]]
    reference: Reference
    rows: Rows
    labels: Rows

    def judge(
        self, rows: Rows, device: str = "device", limits: AccuracyLimits = LIMITS
    ) -> dict[str, AccuracyJudged]:
        """Judge rows that one device was asked, by level."""
        confidences, classes = self.run(rows)
        windows = [
            Window(
                device=device,
                site="site",
                rows=len(part),
                histograms=(histogram(confidences[part]),),
                classes=np.bincount(classes[part], minlength=CLASSES).tolist(),
            )
            for part in np.array_split(np.arange(len(rows)), PARTS)
        ]
        return {one.level: one for one in judge_accuracy(self.reference, windows, limits)}

    def true(self, rows: Rows) -> float:
        return float((self.run(rows)[1] == self.labels).mean())


@pytest.fixture(scope="module")
def activity() -> Activity:
    content = np.load(ACTIVITY / "eval.npz")
    rows, labels = content["input"], content["label"]
    session = onnxruntime.InferenceSession(
        str(ACTIVITY / "har_v1.onnx"), providers=["CPUExecutionProvider"]
    )
    given, answer = session.get_inputs()[0].name, session.get_outputs()[-1].name
    scores = Scores(output=answer, kind="logits")
    plan = plan_of(
        (TensorSpec(name=given, datatype="FP32", shape=(-1, *rows.shape[1:])),),
        (TensorSpec(name=answer, datatype="FP32", shape=(-1, CLASSES)),),
        scores,
    )
    assert plan is not None

    def run(values: Rows) -> tuple[Rows, Rows]:
        logits = session.run([answer], {given: values.astype(np.float32)})[0]
        described = plan.describe({given: values}, {answer: logits})
        return described.values[:, 0], described.classes

    even = np.arange(len(rows)) % 2 == 0
    old, logits = rows[even], session.run([answer], {given: rows[even]})[0]
    described = plan.describe({given: old}, {answer: logits})
    samples = Samples(role="evaluation", inputs={given: old}, labels=labels[even])
    names = plan.names({given: old}, {answer: logits})
    right = described.classes == labels[even]
    reference = Reference(
        definition=1,
        source="evaluation",
        dataset=digest_of(b"data"),
        rows=len(old),
        inputs=(),
        features=make_reference(names, described, samples),
        classes=tuple(np.bincount(described.classes, minlength=CLASSES).tolist()),
        confidence=histogram(described.values[:, 0]),
        right=histogram(described.values[right, 0]),
    )
    # Devices of a site are not all at the same place of the day.
    others = np.random.default_rng(5).permutation(np.flatnonzero(~even))
    return Activity(run, reference, rows[others], labels[others])


def turned(rows: Rows, degrees: float) -> Rows:
    """The phone is mounted askew, about z."""
    angle, found = np.deg2rad(degrees), rows.copy()
    for first in (0, 3):
        x, y = rows[:, first], rows[:, first + 1]
        found[:, first] = np.cos(angle) * x - np.sin(angle) * y
        found[:, first + 1] = np.sin(angle) * x + np.cos(angle) * y
    return found


def test_without_a_shift_both_estimates_are_near_the_true_accuracy(activity: Activity) -> None:
    true = activity.true(activity.rows)
    for one in activity.judge(activity.rows).values():
        assert one.fallen is False
        assert one.estimate is not None
        assert one.estimate.low <= true <= one.estimate.high
        assert one.estimate.by_classes == pytest.approx(true, abs=0.03)


def test_the_reference_itself_is_estimated_as_it_is(activity: Activity) -> None:
    calibration = calibration_of(activity.reference)
    assert calibration is not None
    expected = (calibration.seen * calibration.shares).sum() / calibration.seen.sum()
    assert expected == pytest.approx(calibration.accuracy)
    assert (np.diff(calibration.shares) >= 0).all()


def test_remounted_sensors_lower_the_estimates_as_far_as_they_can_tell(
    activity: Activity, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sureness hardly falls, which is why it is not the only estimate."""
    by_confidence, by_classes = [], []
    for degrees in (10, 20, 30, 45, 60, 90):
        rows = turned(activity.rows, degrees)
        true, found = activity.true(rows), activity.judge(rows)["fleet"]
        assert found.estimate is not None
        with capsys.disabled():
            print(
                f"\nturned by {degrees:2}°: true {true:.3f}, by confidence "
                f"{found.estimate.accuracy:.3f} ({found.estimate.low:.3f} to "
                f"{found.estimate.high:.3f}), by classes {found.estimate.by_classes:.3f}",
                end="",
            )
        assert found.fallen is True
        by_confidence.append(abs(found.estimate.accuracy - true))
        by_classes.append(abs(found.estimate.by_classes - true))
    assert np.mean(by_classes) < 0.1
    assert np.mean(by_classes) < np.mean(by_confidence) / 2.5


def test_noise_lowers_sureness_and_with_it_the_estimate(activity: Activity) -> None:
    rows = activity.rows
    noise = np.random.default_rng(1).normal(scale=rows.std(), size=rows.shape)
    found = activity.judge(rows + noise, limits=AccuracyLimits(unseen=0.5))["device"]
    assert found.estimate is not None
    assert (found.fallen, found.cause) == (True, "confidence")
    assert activity.true(rows + noise) < found.estimate.accuracy < 0.9


def test_a_mix_of_its_own_is_no_fall_of_a_single_device(activity: Activity) -> None:
    """A phone that lies on a table all day."""
    lying = activity.labels == np.bincount(activity.labels[:700]).argmax()
    rows = activity.rows[lying]
    found = activity.judge(np.concatenate([rows] * 4))
    assert found["device"].fallen is False
    assert found["fleet"].cause == "classes"  # a site is expected to see all that there is


def windows(
    counts: dict[int, int], classes: tuple[int, ...] = (500, 500), parts: int = 1
) -> list[Window]:
    confidence = [0] * BINS
    for place, count in counts.items():
        confidence[place] = count
    rows = sum(confidence)
    one = Window("pi", "site", rows, (tuple(confidence),), classes)
    return [one] * parts


def reference_of(seen: dict[int, int], right: dict[int, int]) -> Reference:
    rows = sum(seen.values())
    return Reference(
        definition=1,
        source="evaluation",
        dataset=digest_of(b"data"),
        rows=max(1, rows),
        inputs=(),
        features=(Feature(name="x", edges=(0.0,), counts=(1, 1), low=0, high=1),),
        classes=(rows // 2, rows - rows // 2),
        confidence=tuple(seen.get(place, 0) for place in range(BINS)) if seen else (),
        right=tuple(right.get(place, 0) for place in range(BINS)) if seen else (),
    )


SURE = reference_of({10: 1000, 19: 1000}, {10: 500, 19: 1000})


@pytest.mark.parametrize(
    ("reference", "counts", "unknown"),
    [
        (reference_of({}, {}), {19: 1000}, "labels"),
        (reference_of({19: 99}, {19: 99}), {19: 1000}, "labels"),
        (SURE, {19: 99}, "rows"),
        (SURE, {5: 101, 19: 899}, "unseen"),
    ],
)
def test_what_cannot_be_known_is_said(
    reference: Reference, counts: dict[int, int], unknown: str
) -> None:
    for one in judge_accuracy(reference, windows(counts), LIMITS):
        assert (one.estimate, one.fallen, one.unknown) == (None, None, unknown)


def test_bins_that_were_never_seen_widen_the_interval_to_both_sides() -> None:
    (narrow, wide) = (
        judge_accuracy(SURE, windows(counts), LIMITS)[0].estimate
        for counts in ({10: 500, 19: 500}, {10: 460, 15: 80, 19: 460})
    )
    assert narrow is not None
    assert wide is not None
    assert narrow.accuracy == pytest.approx(0.75)
    assert wide.unseen == pytest.approx(0.08)
    assert wide.high - wide.low >= narrow.high - narrow.low + 0.07


@pytest.mark.parametrize("right", [{10: 1001}, {3: 1}])
def test_a_reference_that_cannot_be_calibrates_nothing(right: dict[int, int]) -> None:
    assert calibration_of(reference_of({10: 1000, 19: 1000}, right)) is None


def test_steady_data_rarely_falls() -> None:
    random = np.random.default_rng(3)
    fallen = 0
    for _ in range(300):
        unsure = int(random.binomial(1000, 0.5))
        ones = int(random.binomial(1000, 0.5))
        counts = windows({10: unsure, 19: 1000 - unsure}, (ones, 1000 - ones))
        fallen += any(one.fallen for one in judge_accuracy(SURE, counts, LIMITS))
    assert fallen <= 3


def test_two_evaluations_in_a_row_decide() -> None:
    state = next_accuracy_state("unknown", fallen=True)
    assert state == "suspected"
    assert next_accuracy_state(state, fallen=None) == "suspected"
    assert next_accuracy_state(state, fallen=True) == "low"
    assert next_accuracy_state("low", fallen=False) == "recovering"
    assert next_accuracy_state("recovering", fallen=False) == "good"
