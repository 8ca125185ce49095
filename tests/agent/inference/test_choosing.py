"""Why a row is taken: outside of the reference, unlike others, answered otherwise, asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from agent.inference.binary import body_of, tensor_of
from agent.inference.models import Array, Client, activity
from agent.inference.scoring import X, scoring
from agent.inference.watched import answers, watched_bundle
from edgectl_agent import Model
from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.choosing import Asked
from edgectl_agent.inference.differences import (
    Difference,
    difference_of_classes,
    difference_of_finite,
    difference_of_numbers,
)
from edgectl_agent.inference.options import Options
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.inference.reference import open_reference
from edgectl_agent.inference.sampling import Sampler
from edgectl_protocol.manifest import Tolerance
from edgectl_protocol.samples import SamplePolicy, SampleReason, read_sample_head
from edgectl_protocol.watching import WatchPolicy
from waiting import wait_for

ROWS = activity()[0][:200]
PLENTY = 10**9
SURE = np.array([[20.0, *[0.0] * 6]], np.float32)
UNSURE = np.zeros((1, 7), np.float32)
Found = list[tuple[str, Array]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The activity model with a reference of its first windows."""
    return watched_bundle(tmp_path_factory.mktemp("chosen"), ROWS[:100])


class Site:
    """A sampler in a time of its own; intervals last a second."""

    def __init__(self, bundle: Bundle, *reasons: SampleReason, share: float = 0.0) -> None:
        self.elapsed = 1000.0
        self.cost_s = 0.0
        opened = open_reference(bundle)
        assert opened is not None
        self.policy = SamplePolicy(bytes_per_day=PLENTY, reasons=reasons, random_share=share)
        self.sampler = Sampler(
            bundle,
            opened.watched,
            now=lambda: datetime(2026, 11, 30, tzinfo=UTC) + timedelta(seconds=self.elapsed),
            monotonic=self.monotonic,
            draw=lambda: 0.5,
        )
        assert self.sampler.take(self.policy) == []

    def monotonic(self) -> float:
        self.elapsed += self.cost_s
        return self.elapsed

    def ask(self, row: Array, scores: Array = SURE, *, wanted: bool = False) -> None:
        self.elapsed += 0.1
        if self.sampler.on:
            self.sampler.offer({"input": row[None]}, {"logits": scores}, wanted=wanted)

    def differ(self, row: Array, far: float) -> None:
        asked = Asked({"input": row[None]}, {"logits": SURE})
        self.sampler.disagreed(Difference(0, far), asked)

    def take(self, after_s: float = 1.0) -> Found:
        """Return reason and input of what was taken when the interval has ended."""
        self.elapsed += after_s
        found = []
        for one in self.sampler.take(self.policy):
            head = read_sample_head(one.content, len(one.content))
            begin = len(one.content) - 4 * (6 * 128 + 7)
            data = np.frombuffer(one.content[begin:], "<f4")
            found.append((head.note.reason, data[: 6 * 128].reshape(6, 128)))
        return found


def expect(found: Found, reason: str, row: Array) -> None:
    assert [one for one, _ in found] == [reason]
    np.testing.assert_array_equal(found[0][1], row)


def test_the_furthest_outside_of_the_reference_is_taken(bundle: Bundle) -> None:
    site = Site(bundle, "out-of-reference")
    assert site.sampler.on
    own = answers(bundle, ROWS[:100])
    for row, scores in zip(ROWS[:5], own, strict=False):
        site.ask(row, scores[None])
    assert site.take() == [], "the reference is of these rows: none is outside"
    for factor in (1.0, 3.0, 30.0, 10.0):
        site.ask(ROWS[0] * np.float32(factor))
    expect(site.take(), "out-of-reference", ROWS[0] * np.float32(30))


def test_what_is_no_number_is_not_outside(bundle: Bundle) -> None:
    site = Site(bundle, "out-of-reference")
    site.ask(np.full((6, 128), np.nan, np.float32), answers(bundle, ROWS[:1]))
    assert site.take() == []


def test_diverse_is_what_is_unlike_those_taken_lately(bundle: Bundle) -> None:
    site = Site(bundle, "diverse")
    site.ask(ROWS[0])
    expect(site.take(), "diverse", ROWS[0])
    for _ in range(5):
        site.ask(ROWS[0])
    assert site.take() == [], "the same again is nothing new"
    site.ask(ROWS[0])
    site.ask(ROWS[60])
    expect(site.take(), "diverse", ROWS[60])
    site.ask(ROWS[0])
    site.ask(ROWS[60])
    assert site.take() == [], "both are there"
    site.policy = SamplePolicy(bytes_per_day=PLENTY - 1, reasons=("diverse",))
    assert site.take() == []
    site.ask(ROWS[0])
    assert site.take() == [("diverse", pytest.approx(ROWS[0]))], "another policy begins anew"


def test_diverse_samples_cover_more_than_random_ones(bundle: Bundle) -> None:
    """Of 40 windows of one activity and one of each other, the diverse six have more classes."""
    site, labels = Site(bundle, "diverse"), activity()[1]
    common = [row for row, label in zip(activity()[0], labels, strict=True) if label == labels[0]]
    rare = {int(label): row for row, label in zip(*activity(), strict=True)}
    stream = [*common[:40], *rare.values()]
    own = {row.tobytes(): int(label) for row, label in zip(*activity(), strict=True)}
    found = set()
    for _ in range(6):
        for row in stream:
            site.elapsed -= 0.0999  # all within the interval, and 20 a second are looked at
            site.elapsed += 0.06
            site.ask(row)
        found |= {own[row.tobytes()] for _, row in site.take()}
    assert len(found) >= 4, found


def test_reasons_take_turns_and_give_way_where_they_find_nothing(bundle: Bundle) -> None:
    site = Site(bundle, "uncertain", "out-of-reference")
    taken = []
    for _ in range(4):
        site.ask(ROWS[0] * np.float32(30))
        site.ask(ROWS[1], UNSURE)
        taken += [reason for reason, _ in site.take()]
    assert sorted(taken) == ["out-of-reference"] * 2 + ["uncertain"] * 2
    assert taken[0] != taken[1]
    own = answers(bundle, ROWS[:100])
    for _ in range(2):
        site.ask(ROWS[1], UNSURE)  # its confidence is outside as well
        site.ask(ROWS[2], own[2:3])
        assert len(site.take()) == 1, "whoever's turn it is"


def test_what_a_candidate_answers_otherwise(bundle: Bundle) -> None:
    site = Site(bundle, "disagreeing")
    site.ask(ROWS[0])
    assert site.take() == []
    for number, far in enumerate((0.3, 0.9, 0.5)):
        site.differ(ROWS[number], far)
    expect(site.take(), "disagreeing", ROWS[1])
    site = Site(bundle, "uncertain")
    site.differ(ROWS[0], 1.0)
    assert site.take() == [], "nobody asks for it"


def test_what_is_asked_for_goes_before_all_else(bundle: Bundle) -> None:
    site = Site(bundle, "uncertain", "asked")
    site.ask(ROWS[0], UNSURE)
    site.elapsed -= 0.0999  # too soon for a look, but for one that is asked for
    site.ask(ROWS[1], wanted=True)
    site.ask(ROWS[2], wanted=True)
    site.ask(ROWS[3], UNSURE)
    expect(site.take(), "asked", ROWS[1])
    site.ask(ROWS[4], UNSURE)
    expect(site.take(), "uncertain", ROWS[4])
    site = Site(bundle, "uncertain")
    site.ask(ROWS[1], wanted=True)
    assert site.take() == [], "an application alone decides nothing"


def test_who_asks_for_everything_leaves_the_others_their_turn(bundle: Bundle) -> None:
    site, taken = Site(bundle, "uncertain", "asked"), []
    for _ in range(4):
        site.ask(ROWS[0], UNSURE, wanted=True)
        site.ask(ROWS[0], UNSURE, wanted=True)
        taken += [reason for reason, _ in site.take()]
    assert taken == ["asked", "uncertain", "asked", "uncertain"]
    site, taken = Site(bundle, "asked"), []
    for _ in range(3):
        site.ask(ROWS[0], wanted=True)
        taken += [reason for reason, _ in site.take()]
    assert taken == ["asked"] * 3


@pytest.mark.parametrize("event", ["asked", "disagreeing"])
def test_what_cannot_be_looked_for_waits_where_control_has_its_turn(
    bundle: Bundle, event: SampleReason
) -> None:
    site = Site(bundle, "random", event, share=1.0)

    def happen(row: Array) -> None:
        if event == "asked":
            site.ask(row, wanted=True)
        else:
            site.differ(row, 1.0)

    happen(ROWS[0])
    site.elapsed += 0.5
    site.ask(ROWS[1])
    expect(site.take(), "random", ROWS[1])
    expect(site.take(), event, ROWS[0])
    site.elapsed += 0.6
    site.ask(ROWS[2])
    expect(site.take(), "random", ROWS[2])


def test_looking_takes_a_hundredth_of_the_time_at_most(bundle: Bundle) -> None:
    site = Site(bundle, "out-of-reference")
    site.cost_s = 0.02
    looks = 0
    for _ in range(200):
        before = site.elapsed
        site.ask(ROWS[0])
        looks += site.elapsed - before > 0.13
    assert looks <= 200 * 0.13 / (0.02 * 100) + 2


def test_a_reference_of_other_rows_stops_no_sampling(bundle: Bundle) -> None:
    site = Site(bundle, "diverse", "uncertain")
    site.elapsed += 0.1
    site.sampler.offer({"input": ROWS[:1, 0]}, {"logits": UNSURE})
    site.elapsed += 1
    (taken,) = site.sampler.take(site.policy)
    assert read_sample_head(taken.content, len(taken.content)).note.reason == "uncertain"


# ---------------------------------------------------------------- which row differs


def test_of_classes_the_lesser_confidence_says_how_far() -> None:
    ours = ((0, 0.9), (1, 0.6), (2, 0.8))
    assert difference_of_classes(ours, ours, 3) is None
    theirs = ((1, 0.5), (1, 0.9), (0, 0.7))
    assert difference_of_classes(ours, theirs, 3) == Difference(2, 0.7)
    assert difference_of_classes(ours * 2, (*ours, (0, 0.9), (0, 0.9), (2, 0.8)), 2) == Difference(
        1, 0.6
    ), "three of each row"
    assert difference_of_classes(ours, ours[:2], 3) == Difference(0, 1e12)


def test_of_numbers_the_row_furthest_beyond_tolerance() -> None:
    ours = {"y": np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}
    tolerances = {"y": Tolerance(atol=0.1, rtol=0.0)}
    assert difference_of_numbers(ours, ours, tolerances) is None
    theirs = {"y": ours["y"] + [[0.05, 0.0], [0.0, 0.4], [0.2, 0.0]]}
    found = difference_of_numbers(ours, theirs, tolerances)
    assert found is not None
    assert (found.row, found.far) == (1, pytest.approx(4.0))
    assert difference_of_numbers({}, theirs, tolerances) == Difference(0, 1e12)
    assert difference_of_numbers(ours, {"y": np.zeros(5)}, tolerances) == Difference(0, 1e12)
    odd = {"y": ours["y"].copy()}
    odd["y"][2, 0] = np.nan
    assert difference_of_numbers(ours, odd, tolerances) == Difference(2, 1e12)
    assert difference_of_finite(ours, odd) == Difference(2, 1e12)


# ---------------------------------------------------------------- the process


def test_a_shadow_that_disagrees_gives_a_sample(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    policies = {"scoring": SamplePolicy(bytes_per_day=PLENTY, reasons=("disagreeing",))}
    process.load(scoring(tmp_path, "1"))
    process.sampled(policies)
    process.accompany(scoring(tmp_path, "2", factor=-1.0), share=1.0, cpu_max=1.0)
    body = {"id": "a", "inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32"}]}
    body["inputs"][0]["data"] = [5.0, 5.0, 5.0, 1.0, 2.0, 3.0]  # type: ignore[index]

    def look() -> bytes:
        assert client.call("POST", "/v2/models/scoring/infer", body)[0] == 200
        return b"".join(one.content for one in process.sampled(policies))

    content = wait_for(look)
    note = read_sample_head(content, len(content)).note
    assert (note.reason, note.version, note.request) == ("disagreeing", "1", "a:1")
    np.testing.assert_array_equal(np.frombuffer(content[-24:], "<f4").reshape(2, 3), [X[0], X[0]])


Send = Callable[[InferenceProcess, Client, Array, dict[str, object]], None]
KEEP: dict[str, object] = {"parameters": {"keep_sample": True}}


INFER = "/v2/models/activity/infer"


def by_json(_: InferenceProcess, client: Client, row: Array, more: dict[str, object]) -> None:
    tensor = {"name": "input", "shape": [1, 6, 128], "datatype": "FP32"}
    body = {"inputs": [{**tensor, "data": row.ravel().tolist()}], **more}
    assert client.call("POST", INFER, body)[0] == 200


def by_bytes(_: InferenceProcess, client: Client, row: Array, more: dict[str, object]) -> None:
    content, headers = body_of(tensor_of("input", "FP32", row[None]), **more)
    assert client.ask("POST", INFER, content, headers)[0] == 200


def by_grpc(process: InferenceProcess, _: Client, row: Array, more: dict[str, object]) -> None:
    request = service_pb2.ModelInferRequest(model_name="activity")
    request.inputs.add(name="input", datatype="FP32", shape=[1, 6, 128])
    request.raw_input_contents.append(row.tobytes())
    if more:
        request.parameters["keep_sample"].bool_param = True
    with grpc.insecure_channel(f"127.0.0.1:{process.grpc_port}") as channel:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)


def by_sdk(process: InferenceProcess, _: Client, row: Array, more: dict[str, object]) -> None:
    with Model("activity", endpoint=process.endpoint) as model:
        model.predict(row, keep_sample=bool(more), request="order-7" if more else "")


@pytest.fixture
def process(tmp_path: Path) -> Iterator[InferenceProcess]:
    """One that speaks gRPC too."""
    found = InferenceProcess(
        host="127.0.0.1", port=0, socket=None, options=Options(grpc_port=0, batch_rows_max=4)
    )
    found.start()
    yield found
    found.stop()


@pytest.mark.parametrize("send", [by_json, by_bytes, by_grpc, by_sdk])
def test_an_application_asks_for_a_sample_by_a_parameter(
    process: InferenceProcess, client: Client, bundle: Bundle, send: Send
) -> None:
    policies = {"activity": SamplePolicy(bytes_per_day=PLENTY, reasons=("asked",))}
    process.load(bundle)
    process.watched(WatchPolicy())
    process.sampled(policies)
    for _ in range(3):  # the third in binary form is of a form that is known
        send(process, client, ROWS[0], {})
    for odd in (False, "true", 1):
        by_json(process, client, ROWS[0], {"parameters": {"keep_sample": odd}})
    send(process, client, ROWS[1], KEEP)
    send(process, client, ROWS[0], KEEP)
    (taken,) = wait_for(lambda: process.sampled(policies))
    assert read_sample_head(taken.content, len(taken.content)).note.reason == "asked"
    data = np.frombuffer(taken.content[-4 * (6 * 128 + 7) :], "<f4")
    np.testing.assert_array_equal(data[: 6 * 128].reshape(6, 128), ROWS[1])
