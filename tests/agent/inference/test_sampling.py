"""Which single requests are kept as samples: random control, the uncertain, and otherwise none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from agent.inference.models import Array, Client, activity, make_bundle
from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.choosing import UNCERTAIN_BELOW
from edgectl_agent.inference.control import Taken
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.inference.sampling import Sampler
from edgectl_protocol.manifest import Scores
from edgectl_protocol.samples import SampleHead, SamplePolicy, read_sample_head

ROWS = activity()[0][:8]
NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
ROW_BYTES = 6 * 128 * 4 + 7 * 4
PLENTY = 10**9


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The activity model, whose scores are known."""
    return make_bundle(tmp_path_factory.mktemp("sampled"), scores=True, labels=tuple("abcdefg"))


class Site:
    """A sampler in a time of its own, with draws of its own."""

    def __init__(self, bundle: Bundle, *draws: float) -> None:
        self.elapsed = 1000.0
        self.draws = list(draws)
        self.sampler = Sampler(
            bundle,
            now=lambda: NOON + timedelta(seconds=self.elapsed),
            monotonic=lambda: self.elapsed,
            draw=lambda: self.draws.pop(0) if self.draws else 0.5,
        )

    def ask(self, row: int, logits: list[float], *, after_s: float = 0.1) -> None:
        self.elapsed += after_s
        if self.sampler.on:
            outputs = {"logits": np.array([logits], np.float32)}
            self.sampler.offer({"input": ROWS[row : row + 1]}, outputs)


def logits(confidence: float) -> list[float]:
    """Scores whose softmax gives the first class this."""
    return [float(np.log(confidence / (1 - confidence) * 6)), *[0.0] * 6]


def test_the_name_of_a_request_goes_with_its_sample(bundle: Bundle) -> None:
    policy = SamplePolicy(bytes_per_day=PLENTY, reasons=("random",), random_share=1.0)
    cases = (
        ("order-7", 1, "order-7"), ("order-7", 3, "order-7:1"), ("", 3, ""), ("a b", 1, ""),
        ("\u00e9", 1, ""), ("x" * 64, 1, "x" * 64), ("x" * 65, 1, ""), ("x" * 64, 3, ""),
    )  # fmt: skip
    for named, rows, expected in cases:
        site = Site(bundle, 0.0, 0.0)
        site.sampler.take(policy)
        site.elapsed += 10
        outputs = {"logits": np.array([logits(0.9)] * rows, np.float32)}
        site.sampler.offer({"input": ROWS[:rows]}, outputs, named)
        (taken,) = site.sampler.take(policy)
        assert read_sample_head(taken.content, len(taken.content)).note.request == expected, named


def read(taken: Taken) -> tuple[SampleHead, Array, Array]:
    """Return what a sample says of itself, its input and its output."""
    head = read_sample_head(taken.content, len(taken.content))
    data = taken.content[-ROW_BYTES:]
    begin = 6 * 128 * 4
    inputs = np.frombuffer(data[:begin], "<f4").reshape(1, 6, 128)
    return head, inputs, np.frombuffer(data[begin:], "<f4").reshape(1, 7)


def test_without_a_policy_nothing_is_copied(bundle: Bundle) -> None:
    site = Site(bundle)
    assert not site.sampler.on
    for policy in (
        SamplePolicy(),
        SamplePolicy(bytes_per_day=PLENTY),
        SamplePolicy(bytes_per_day=PLENTY, reasons=("out-of-reference", "diverse")),
        SamplePolicy(bytes_per_day=ROW_BYTES - 1, reasons=("random",)),
    ):
        assert site.sampler.take(policy) == []
        assert not site.sampler.on, policy


def test_the_least_certain_of_each_interval_is_taken(bundle: Bundle) -> None:
    policy = SamplePolicy(bytes_per_day=PLENTY, reasons=("uncertain",))
    site = Site(bundle)
    site.sampler.take(policy)
    for row, confidence in enumerate((0.9, 0.7, 0.4, 0.6, 0.99)):
        site.ask(row, logits(confidence))
    assert site.sampler.take(policy) == [], "the interval is not over"
    site.elapsed += 1
    (taken,) = site.sampler.take(policy)
    head, inputs, outputs = read(taken)
    note = head.note
    assert (note.reason, note.model, note.manifest) == ("uncertain", "activity", bundle.manifest)
    assert [(one.name, one.datatype, one.shape) for one in head.tensors] == [
        ("input.input", "F32", (1, 6, 128)),
        ("output.logits", "F32", (1, 7)),
    ]
    np.testing.assert_array_equal(inputs, ROWS[2:3])
    np.testing.assert_array_equal(outputs, np.array([logits(0.4)], np.float32))
    assert note.taken_at == NOON + timedelta(seconds=1000.3)
    for row in range(4):
        site.ask(row, logits(UNCERTAIN_BELOW + 0.05))
    site.elapsed += 5
    assert site.sampler.take(policy) == [], "the model was certain of all of them"


def test_random_control_is_the_first_after_a_moment_that_is_drawn(bundle: Bundle) -> None:
    policy = SamplePolicy(bytes_per_day=PLENTY, reasons=("random", "uncertain"), random_share=0.3)
    site = Site(bundle, 0.29, 0.45)
    site.sampler.take(policy)
    for row in range(7):
        site.ask(row, logits(0.99 if row == 5 else 0.3))
    (taken,) = site.sampler.take(policy)
    head, inputs, _ = read(taken)
    assert head.note.reason == "random"
    np.testing.assert_array_equal(inputs, ROWS[4:5])


def test_a_small_budget_is_spread_over_the_day(bundle: Bundle) -> None:
    policy = SamplePolicy(bytes_per_day=24 * 4000, reasons=("random",))
    site, taken = Site(bundle), list[Taken]()
    site.sampler.take(policy)
    for minute in range(24 * 60):
        site.ask(minute % 8, logits(0.5), after_s=60)
        taken += site.sampler.take(policy)
    assert sum(len(one.content) for one in taken) <= policy.bytes_per_day + len(taken[0].content)
    times = [read(one)[0].note.taken_at for one in taken]
    assert len(taken) >= 20
    gaps = [(b - a).total_seconds() for a, b in pairwise(times)]
    assert max(gaps) < 2.5 * 3600, "not all in the morning"


def test_a_policy_that_ends_takes_with_it_what_was_taken(bundle: Bundle) -> None:
    policy = SamplePolicy(bytes_per_day=PLENTY, reasons=("uncertain",))
    site = Site(bundle)
    site.sampler.take(policy)
    for row in range(6):
        site.ask(row, logits(0.3), after_s=1.5)
    assert site.sampler.waiting_bytes > 0
    assert site.sampler.take(SamplePolicy()) == []
    site.ask(0, logits(0.3), after_s=2)
    assert site.sampler.waiting_bytes == 0


def test_of_many_rows_one_is_taken(bundle: Bundle) -> None:
    policy = SamplePolicy(bytes_per_day=PLENTY, reasons=("random",))
    site = Site(bundle)
    site.sampler.take(policy)
    site.elapsed += 0.9
    site.sampler.offer({"input": ROWS}, {"logits": np.zeros((8, 7), np.float32)})
    (taken,) = site.sampler.take(policy)
    _, inputs, _ = read(taken)
    assert any(np.array_equal(inputs[0], row) for row in ROWS)


def test_a_model_of_texts_gives_none(bundle: Bundle) -> None:
    config = bundle.config
    (first,) = config.inputs
    texts = msgspec.structs.replace(
        config, inputs=(msgspec.structs.replace(first, datatype="BYTES"),)
    )
    sampler = Sampler(msgspec.structs.replace(bundle, config=texts))
    sampler.take(SamplePolicy(bytes_per_day=PLENTY, reasons=("random",)))
    assert not sampler.on


def test_a_model_without_scores_gives_random_control(bundle: Bundle) -> None:
    plain = msgspec.structs.replace(bundle.config, scores=None)
    assert isinstance(bundle.config.scores, Scores)
    site = Site(msgspec.structs.replace(bundle, config=plain), 0.95)
    policy = SamplePolicy(bytes_per_day=PLENTY, reasons=("random", "uncertain"), random_share=0.0)
    site.sampler.take(policy)
    for row in range(6):
        site.ask(row, logits(0.3), after_s=0.2)
    assert {read(one)[0].note.reason for one in site.sampler.take(policy)} == {"random"}


def test_what_cannot_be_sampled_costs_no_request(bundle: Bundle) -> None:
    site = Site(bundle)
    site.sampler.take(SamplePolicy(bytes_per_day=PLENTY, reasons=("random",)))
    site.elapsed += 0.9
    site.sampler.offer({"other": ROWS}, {})
    assert not site.sampler.on


def test_the_process_gives_what_clients_asked(
    process: InferenceProcess, client: Client, bundle: Bundle
) -> None:
    process.load(bundle)
    policies = {"activity": SamplePolicy(bytes_per_day=PLENTY, reasons=("random",))}

    def ask(row: Array) -> None:
        tensor = {"name": "input", "shape": [1, 6, 128], "datatype": "FP32"}
        body = {"inputs": [{**tensor, "data": row.ravel().tolist()}]}
        assert client.call("POST", "/v2/models/activity/infer", body)[0] == 200

    for row in ROWS:
        ask(row)
    assert process.sampled(policies) == (), "before there was a policy nothing was kept"
    taken: tuple[Taken, ...] = ()
    while not taken:  # an interval is a second, and its moment is drawn
        ask(ROWS[3])
        taken = process.sampled(policies)
    head, inputs, _ = read(taken[0])
    assert head.note.manifest == bundle.manifest
    np.testing.assert_array_equal(inputs, ROWS[3:4])
    assert process.sampled({}) == ()
    for row in ROWS:
        ask(row)
    assert process.sampled({}) == ()
