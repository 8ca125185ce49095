"""What applications describe and sample in their own process, as far as the agent wants it."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.inference.models import Array, activity
from agent.inference.watched import answers, watched_bundle
from agent.sdk.conftest import Follow
from agent.sdk.test_hub import FOLLOW, Application
from edgectl_agent import InputRefused, Model, clock
from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.control import Taken
from edgectl_agent.inference.hub_messages import PART_BYTES_MAX, Described, Look, SamplePart
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.inference.reference import open_reference
from edgectl_agent.inference.sample_parts import SILENT_S_MAX, Assembly, SampleRefused
from edgectl_agent.inference.watch import Watch
from edgectl_agent.sdk.telling import DESCRIBED_S, Telling
from edgectl_protocol.names import digest_of
from edgectl_protocol.samples import (
    SAMPLE_BYTES_MAX,
    SampleNote,
    SamplePolicy,
    SampleTensor,
    encode_sample,
    read_sample_head,
)
from edgectl_protocol.watching import (
    FeatureCounts,
    FeatureWindow,
    WatchPolicy,
    decode_reference,
    problem_of,
    problem_of_counts,
)
from waiting import wait_for

ROWS = activity()[0][:200]
ALL = WatchPolicy(rows_per_s=1000, window_s=86400)
RANDOM = {"activity": SamplePolicy(bytes_per_day=10**9, reasons=("random",))}
DAY = datetime(2026, 11, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The activity model with a reference."""
    return watched_bundle(tmp_path_factory.mktemp("looked-at"), ROWS)


def looking(model: Model) -> bool:
    serving: Any = model._follower.serving
    return bool(serving.telling.looking)


def window_of(process: InferenceProcess, policy: WatchPolicy = ALL) -> tuple[FeatureWindow, ...]:
    """End the window by another length, and return it."""
    process.watched(policy)
    return process.watched(msgspec.structs.replace(policy, window_s=policy.window_s - 1))


def test_what_an_application_asks_is_in_the_window_of_that_model(
    process: InferenceProcess, follow: Follow, bundle: Bundle
) -> None:
    process.load(bundle)
    model = follow()
    for row in ROWS[:10]:
        model.predict(row)
    process.watched(ALL)
    wait_for(lambda: looking(model), "the hub says how closely to look")
    asked = 0

    def told() -> int:
        nonlocal asked
        for row in ROWS[asked : asked + 5]:
            model.predict(row)
            asked += 1
        return asked >= 60

    wait_for(told)
    model.close()  # tells the rest
    windows: list[FeatureWindow] = []

    def all_there() -> bool:
        windows.extend(window_of(process))
        return sum(one.rows + one.skipped for one in windows) >= asked

    wait_for(all_there)
    assert sum(one.rows + one.skipped for one in windows) == asked, "each once"
    reference = decode_reference(Path(bundle.reference).read_bytes())
    for one in windows:
        assert one.manifest == bundle.manifest
        assert problem_of(one, reference) == ""
    assert sum(sum(one.classes) for one in windows) == sum(one.rows for one in windows)


def test_the_same_rows_give_the_same_counts_as_at_the_endpoint(bundle: Bundle) -> None:
    opened = open_reference(bundle)
    assert opened is not None
    own, outputs = Watch(bundle, *opened), answers(bundle, ROWS[:30])
    elapsed = [100.0]
    telling = Telling(bundle, opened.watched, monotonic=lambda: elapsed[0])
    telling.heed(Look(watch=ALL))
    own.take(ALL)
    for row, scores in zip(ROWS[:30], outputs, strict=True):
        elapsed[0] += 0.01
        telling.look({"input": row[None]}, {"logits": scores[None]}, wanted=False)
        own._describing._next_s = 0.0
        own.offer({"input": row[None]}, {"logits": scores[None]})
    said: list[Any] = []
    telling.tell(said.append, last=True)
    (described,) = said
    other = Watch(bundle, *opened)
    other.take(ALL)
    other.add(described.counts)
    (ours,), (theirs,) = own.take(ALL, last=True), other.take(ALL, last=True)
    assert ours.histograms == theirs.histograms
    assert (ours.rows, ours.classes, ours.outside) == (theirs.rows, theirs.classes, theirs.outside)
    assert ours.rows == 30


def test_where_nobody_looks_nothing_is_copied(
    process: InferenceProcess, follow: Follow, bundle: Bundle
) -> None:
    process.load(bundle)
    model = follow()
    for row in ROWS[:5]:
        model.predict(row, keep_sample=True)
    assert not looking(model)
    process.watched(ALL)
    wait_for(lambda: looking(model))
    process.watched(WatchPolicy(rows_per_s=0))
    wait_for(lambda: not looking(model), "the policy has ended")
    process.sampled(RANDOM)
    wait_for(lambda: looking(model))
    process.sampled({})
    wait_for(lambda: not looking(model))


def test_a_hub_that_starts_anew_is_told_nothing_that_it_has_not_asked_for(
    process: InferenceProcess, follow: Follow, bundle: Bundle
) -> None:
    process.load(bundle)
    process.watched(ALL)
    process.sampled(RANDOM)
    model = follow()
    wait_for(lambda: looking(model))
    process.stop()
    process.start()
    process.load(bundle)
    wait_for(lambda: not model.problem and not looking(model))
    for row in ROWS[:20]:
        model.predict(row)
    model.close()
    wait_for(lambda: process.health("activity").requests >= 20)
    assert window_of(process) == ()


# ---------------------------------------------------------------- told once


class Line:
    """Takes lines, or breaks."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.broken = False

    def send(self, message: Any) -> None:
        if self.broken:
            raise BrokenPipeError
        self.said.append(message)

    def of(self, kind: type) -> list[Any]:
        return [one for one in self.said if isinstance(one, kind)]


class Site:
    """What one model tells, in a time of its own."""

    def __init__(self, bundle: Bundle, look: Look) -> None:
        self.elapsed = 100.0
        opened = open_reference(bundle)
        assert opened is not None
        self.telling = Telling(bundle, opened.watched, monotonic=lambda: self.elapsed)
        self.telling.heed(look)
        self.line = Line()

    def ask(self, row: Array, *, wanted: bool = False, after_s: float = 0.1) -> None:
        self.elapsed += after_s
        scores = np.zeros((1, 7), np.float32)
        self.telling.look({"input": row[None]}, {"logits": scores}, wanted=wanted)

    def tell(self, after_s: float = 1.0, *, last: bool = False) -> None:
        self.elapsed += after_s
        self.telling.tell(self.line.send, last=last)

    def rows(self) -> tuple[int, int]:
        counts = [one.counts for one in self.line.of(Described)]
        return sum(one.rows for one in counts), sum(one.skipped for one in counts)


def test_counts_that_could_not_be_told_are_told_later_and_once(bundle: Bundle) -> None:
    site = Site(bundle, Look(watch=ALL))
    for row in ROWS[:8]:
        site.ask(row)
    site.line.broken = True
    with pytest.raises(BrokenPipeError):
        site.tell(DESCRIBED_S)
    site.ask(ROWS[8])
    site.line.broken = False
    site.tell(DESCRIBED_S)
    site.tell(DESCRIBED_S)
    assert site.rows() == (9, 0)


def test_features_are_not_told_every_second_but_at_the_end(bundle: Bundle) -> None:
    site = Site(bundle, Look(watch=ALL))
    site.ask(ROWS[0])
    site.tell()
    assert site.rows() == (0, 0)
    site.tell(last=True)
    assert site.rows() == (1, 0)


def test_what_is_older_than_a_window_is_told_as_skipped(bundle: Bundle) -> None:
    site = Site(bundle, Look(watch=WatchPolicy(rows_per_s=1000, window_s=60)))
    site.tell(3600)  # nothing to tell is not late
    for row in ROWS[:5]:
        site.ask(row)
    site.tell(15)
    assert site.rows() == (5, 0)
    for row in ROWS[:5]:
        site.ask(row)
    site.tell(61)
    assert site.rows() == (5, 5)


def test_rows_that_nobody_describes_do_not_pile_up(bundle: Bundle) -> None:
    site = Site(bundle, Look(watch=ALL))
    for number in range(500):
        site.ask(ROWS[number % 200])
    site.tell(last=True)
    rows, skipped = site.rows()
    assert rows <= 64
    assert rows + skipped == 500


def test_a_long_sample_goes_in_parts_a_few_a_second(bundle: Bundle) -> None:
    site = Site(bundle, Look(samples=SamplePolicy(bytes_per_day=10**9, reasons=("asked",))))
    content = bytes(range(256)) * 1000
    site.telling._sampler._ready = [Taken(content=content)]
    site.tell()
    assert len(site.line.of(SamplePart)) == 2
    site.tell(0.2)
    assert len(site.line.of(SamplePart)) == 2
    while not site.line.of(SamplePart)[-1].last:
        site.tell()
    parts = site.line.of(SamplePart)
    assert b"".join(one.content for one in parts) == content
    assert [one.at for one in parts] == [number * PART_BYTES_MAX for number in range(len(parts))]
    site.telling._sampler._ready = [Taken(content=content)]
    site.tell()
    site.line.broken = True
    with pytest.raises(BrokenPipeError):
        site.tell()
    site.line.broken = False
    before = len(site.line.of(SamplePart))
    site.tell()
    assert len(site.line.of(SamplePart)) == before, "a broken one is forgotten"


# ---------------------------------------------------------------- samples


def test_an_application_gives_samples_of_what_it_asks(
    process: InferenceProcess, follow: Follow, bundle: Bundle
) -> None:
    process.load(bundle)
    process.watched(WatchPolicy(rows_per_s=0))
    policies = {"activity": SamplePolicy(bytes_per_day=10**9, reasons=("asked", "random"))}
    process.sampled(policies)
    model = follow()
    wait_for(lambda: looking(model))
    found: dict[str, Any] = {}

    def look() -> bool:
        model.predict(ROWS[0])
        model.predict(ROWS[1], keep_sample=True, request="order-7")
        for one in process.sampled(policies):
            head = read_sample_head(one.content, len(one.content))
            data = np.frombuffer(one.content[-4 * (6 * 128 + 7) :], "<f4")
            found[head.note.reason] = (head.note, data)
        return set(found) == {"asked", "random"}

    wait_for(look, "a sample of each reason")
    note, data = found["asked"]
    assert (note.model, note.manifest) == ("activity", bundle.manifest)
    assert note.request == "order-7"
    np.testing.assert_array_equal(data[: 6 * 128].reshape(6, 128), ROWS[1])
    np.testing.assert_allclose(data[6 * 128 :], answers(bundle, ROWS[1:2])[0], rtol=1e-5)
    process.sampled({})
    wait_for(lambda: not looking(model))
    for _ in range(5):
        model.predict(ROWS[1], keep_sample=True)
    assert process.sampled(policies) == ()


@pytest.mark.parametrize("in_process", [True, False])
def test_what_is_no_name_of_a_request_is_refused(
    process: InferenceProcess, follow: Follow, bundle: Bundle, *, in_process: bool
) -> None:
    process.load(bundle)
    model = follow(in_process=in_process)
    for wrong in ("two words", "x" * 65, "é", "line\n"):
        with pytest.raises(InputRefused) as refused:
            model.predict(ROWS[0], request=wrong)
        assert refused.value.code == "sdk.request"
    assert model.predict(ROWS[0], request="x" * 64).manifest == bundle.manifest


# ---------------------------------------------------------------- hostile applications


@pytest.fixture
def hostile(process: InferenceProcess, hub: Path, bundle: Bundle) -> Iterator[Application]:
    """One that was offered the model, where features and samples are wanted."""
    process.load(bundle)
    process.watched(ALL)
    process.sampled(RANDOM)
    application = Application(hub)
    application.say(FOLLOW)
    assert [application.hear()["type"] for _ in range(2)] == ["look", "offer"]
    yield application
    application.close()


def counts_of(bundle: Bundle, counted: int = 1, **changes: Any) -> dict[str, Any]:
    reference = decode_reference(Path(bundle.reference).read_bytes())
    histograms = [[counted] + [0] * len(one.edges) for one in reference.features]
    return {"rows": counted, "histograms": histograms, **changes}


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "negative rows": {"rows": -1},
    "rows that are in no bin": {"rows": 2},
    "no histograms": {"histograms": []},
    "a fraction": {"rows": 0.5},
    "beyond 64 bits": {"rows": 2**70},
    "more classes than rows": {"classes": [2]},
    "classes that the model has not": {"classes": [0] * 8},
    "missing of other features": {"missing": [0]},
    "more outside than there are": {"outside": [2] + [0] * 33},
    "a histogram too many": {"histograms": [[1, 0]] * 65},
    "a text": {"rows": "1"},
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_features_that_cannot_be_true_are_not_counted(
    process: InferenceProcess, hostile: Application, bundle: Bundle, name: str
) -> None:
    counts = counts_of(bundle, **IMPOSSIBLE[name])
    hostile.say({"type": "described", "manifest": bundle.manifest, "counts": counts})
    assert hostile.hear()["code"] in {"hub.features", "hub.malformed"}
    assert hostile.hear() == {}
    assert window_of(process) == ()


def test_features_of_what_was_not_offered_count_for_nothing(
    process: InferenceProcess, hostile: Application, bundle: Bundle
) -> None:
    hostile.say(
        {"type": "described", "manifest": digest_of(b"other"), "counts": counts_of(bundle)},
        {"type": "described", "manifest": bundle.manifest, "counts": counts_of(bundle, 3)},
    )
    found: list[FeatureWindow] = []
    wait_for(lambda: found.extend(window_of(process)) or found)
    assert [(one.manifest, one.rows) for one in found] == [(bundle.manifest, 3)]


def test_more_rows_than_can_have_been_looked_at_are_skipped(bundle: Bundle) -> None:
    opened = open_reference(bundle)
    assert opened is not None
    watch = Watch(bundle, *opened)
    policy = WatchPolicy(rows_per_s=1, window_s=1000)
    watch.take(policy)
    for rows in (3000, 1000, 1, 2**40, 2**40):
        watch.add(msgspec.convert(counts_of(bundle, rows), FeatureCounts))
    (window,) = watch.take(policy, last=True)
    assert (window.rows, window.skipped) == (4000, 2**40)
    assert problem_of_counts(window, opened.watched.features, opened.watched.classes) == ""
    msgspec.json.decode(msgspec.json.encode(window), type=FeatureWindow)


def test_counts_that_come_after_their_model_has_gone_are_still_its_own(
    process: InferenceProcess, hostile: Application, bundle: Bundle, tmp_path: Path
) -> None:
    process.load(msgspec.structs.replace(bundle, manifest=digest_of(b"2"), version="2"))
    process.release("activity")
    hostile.say({"type": "described", "manifest": bundle.manifest, "counts": counts_of(bundle, 7)})
    found: list[FeatureWindow] = []
    wait_for(lambda: found.extend(process.watched(ALL)) or found)
    assert [(one.manifest, one.version, one.rows) for one in found] == [(bundle.manifest, "1", 7)]
    assert process.watched(ALL) == ()


def sample_of(bundle: Bundle, **changes: Any) -> bytes:
    note = SampleNote(
        model="activity",
        version="1",
        manifest=bundle.manifest,
        reason="random",
        taken_at=clock.now(),
    )
    shape = changes.pop("shape", (1, 6, 128))
    name = changes.pop("name", "input.input")
    size = 4 * int(np.prod(shape))
    return encode_sample(
        msgspec.structs.replace(note, **changes),
        [
            (SampleTensor(name, "F32", shape), bytes(size)),
            (SampleTensor("output.logits", "F32", (1, 7)), bytes(28)),
        ],
    )


def parts_of(bundle: Bundle, content: bytes, size: int = PART_BYTES_MAX) -> list[dict[str, Any]]:
    return [
        {
            "type": "sample",
            "manifest": bundle.manifest,
            "at": at,
            "content": base64.b64encode(content[at : at + size]).decode(),
            "last": at + size >= len(content),
        }
        for at in range(0, len(content), size)
    ]


def test_a_sample_of_the_model_is_taken(
    process: InferenceProcess, hostile: Application, bundle: Bundle
) -> None:
    content = sample_of(bundle)
    hostile.say(*parts_of(bundle, content, 1000))
    (taken,) = wait_for(lambda: process.sampled(RANDOM))
    assert taken.content == content
    hostile.say(*parts_of(bundle, sample_of(bundle, taken_at=clock.now())))
    hostile.say(*parts_of(bundle, sample_of(bundle, reason="uncertain")))
    hostile.say(*parts_of(bundle, sample_of(bundle, taken_at=datetime(2020, 1, 1, tzinfo=UTC))))
    hostile.say({"type": "trouble", "manifest": bundle.manifest, "code": "x", "detail": "y"})
    assert process.sampled(RANDOM) == (), "one an interval, for what is allowed, taken lately"


@pytest.mark.parametrize(
    "content",
    [
        lambda bundle: b"\x00" * 50,
        lambda bundle: b"PK\x03\x04" + bytes(100),
        lambda bundle: sample_of(bundle, model="other"),
        lambda bundle: sample_of(bundle, version="9"),
        lambda bundle: sample_of(bundle, manifest=digest_of(b"x")),
        lambda bundle: sample_of(bundle, shape=(1, 6, 127)),
        lambda bundle: sample_of(bundle, shape=(6, 128)),
        lambda bundle: sample_of(bundle, name="input.other"),
        lambda bundle: sample_of(bundle)[:-1],
    ],
)
def test_what_is_no_sample_of_the_model_is_refused(
    process: InferenceProcess, hostile: Application, bundle: Bundle, content: Any
) -> None:
    hostile.say(*parts_of(bundle, content(bundle)))
    assert hostile.hear()["code"] == "hub.sample"
    assert process.sampled(RANDOM) == ()
    assert process.alive()


def test_where_no_sample_is_wanted_none_is_put_together(
    process: InferenceProcess, hostile: Application, bundle: Bundle
) -> None:
    process.sampled({})
    hostile.say(*parts_of(bundle, b"\x00" * 50))
    look = hostile.hear()
    assert (look["type"], look["samples"]) == ("look", {})
    assert process.sampled(RANDOM) == ()


def part(at: int, content: bytes, *, last: bool = False, manifest: str = "") -> SamplePart:
    return SamplePart(manifest=manifest or digest_of(b"1"), at=at, content=content, last=last)


def test_one_sample_at_a_time_is_put_together(bundle: Bundle) -> None:
    elapsed = [0.0]
    assembly = Assembly(now=lambda: DAY, monotonic=lambda: elapsed[0])
    content = sample_of(bundle, taken_at=DAY - timedelta(minutes=1))
    half = len(content) // 2

    def take(giver: str, at: int, end: int | None = None) -> Any:
        one = part(at, content[at:end], last=end is None, manifest=bundle.manifest)
        return assembly.take(giver, bundle, one)

    assert take("a", 0, half) is None
    assert take("b", 0, half) is None, "the place is taken"
    assert take("b", half) is None
    assert take("a", half).content == content
    assert take("a", 0, half) is None
    elapsed[0] += SILENT_S_MAX + 1
    assert take("b", 0, half) is None
    assert take("a", half) is None, "who is silent gives way"
    assert take("b", half + 1) is None, "a gap"
    assert take("b", half).content == content
    take("a", 0, half)
    assembly.forget("b")
    assembly.forget("a")
    assert assembly._content == b""


def test_a_sample_without_end_ends(bundle: Bundle) -> None:
    assembly = Assembly()

    def go_on() -> None:
        for at in range(0, 2 * SAMPLE_BYTES_MAX, PART_BYTES_MAX):
            assembly.take("a", bundle, part(at, bytes(PART_BYTES_MAX)))

    with pytest.raises(SampleRefused):
        go_on()
    assert assembly._content == b""


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_parts_are_a_sample_or_refused(bundle: Bundle, data: Any) -> None:
    assembly = Assembly(now=lambda: DAY)
    whole = sample_of(bundle, taken_at=DAY)
    for _ in range(data.draw(st.integers(1, 6))):
        content = data.draw(st.binary(min_size=1, max_size=64) | st.just(whole))
        one = part(
            data.draw(st.sampled_from([0, 1, len(content), SAMPLE_BYTES_MAX])),
            content,
            last=data.draw(st.booleans()),
        )
        try:
            found = assembly.take(data.draw(st.sampled_from("ab")), bundle, one)
        except SampleRefused:
            continue
        assert found is None or found.reason == "random"


def test_several_applications_at_once_lose_and_double_nothing(
    process: InferenceProcess, follow: Follow, bundle: Bundle
) -> None:
    process.load(bundle)
    process.watched(ALL)
    models = [follow() for _ in range(3)]
    wait_for(lambda: all(map(looking, models)))
    asked = 150

    def ask(model: Model) -> None:
        for number in range(asked):
            model.predict(ROWS[number])
        model.close()

    threads = [threading.Thread(target=ask, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found: list[FeatureWindow] = []

    def all_there() -> bool:
        found.extend(window_of(process))
        return sum(one.rows + one.skipped for one in found) >= asked * 3

    wait_for(all_there)
    assert sum(one.rows + one.skipped for one in found) == asked * 3
