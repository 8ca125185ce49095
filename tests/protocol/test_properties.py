"""What must hold for every input: parsers answer or refuse, tables are whole, bitmaps count."""

import contextlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl_protocol import (
    chunks,
    enrolment,
    histograms,
    manifest,
    messages,
    metadata,
    names,
    topics,
    update,
)
from edgectl_protocol.errors import LimitExceeded, MalformedMessage, ProtocolError

MESSAGES = [
    messages.Order,
    messages.ReportedState,
    messages.DeviceEvent,
    messages.TelemetryBatch,
    messages.SeedRequest,
    messages.BenchmarkRequest,
    messages.BenchmarkReport,
    messages.Ack,
    messages.MetadataHead,
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(
    st.sampled_from(MESSAGES),
    st.binary(max_size=300) | json_values.map(lambda v: json.dumps(v).encode()),
)
def test_decoding_anything_gives_a_message_or_a_protocol_error(kind, payload):
    with contextlib.suppress(ProtocolError):
        assert isinstance(messages.decode(kind, payload), kind)


@given(st.binary(max_size=500))
def test_manifest_parser_takes_anything(content):
    for parse in (manifest.decode_manifest, manifest.decode_config):
        with contextlib.suppress(ProtocolError):
            parse(content)


def test_deep_nesting_is_refused_not_a_crash():
    deep = b'{"x":' * 20_000 + b"1" + b"}" * 20_000
    with pytest.raises(MalformedMessage):
        messages.decode(messages.Ack, deep)
    with pytest.raises(ProtocolError):
        manifest.decode_manifest(deep[: manifest.MANIFEST_BYTES_MAX])


def test_every_state_is_reachable_resumable_and_can_end():
    states = set(update.UpdateState)
    assert set(update.RESUME) == states
    reached = {update.UpdateState.IDLE}
    while True:
        more = {t for (s, _), t in update.TRANSITIONS.items() if s in reached} - reached
        if not more:
            break
        reached |= more
    assert reached == states
    ends = set(update.ENDED)
    while True:
        more = {s for (s, _), t in update.TRANSITIONS.items() if t in ends} - ends
        if not more:
            break
        ends |= more
    assert ends == states


def test_an_event_without_a_row_is_our_bug():
    rows = set(update.TRANSITIONS)
    for state, event in itertools.product(update.UpdateState, update.UpdateEvent):
        if (state, event) not in rows:
            with pytest.raises(AssertionError):
                update.next_state(state, event)


def test_no_state_loops_over_resumes_for_ever():
    for state in update.UpdateState:
        after = update.resume_state(state, update.RESUMES_MAX)
        ends = update.ENDED | update.PARKED  # where nothing is done, nothing can go wrong
        assert after in ends or after is update.UpdateState.ROLLING_BACK


@given(st.sets(st.integers(0, 999)), st.integers(1, 1000))
def test_bitmap_is_a_set(numbers, count):
    numbers = {n for n in numbers if n < count}
    bits = chunks.Bitmap(count)
    for number in numbers:
        bits.add(number)
    again = chunks.Bitmap(count, bits.to_bytes())
    assert set(again.missing()) == set(range(count)) - numbers
    assert again.done() == len(numbers)
    assert again.complete() == (len(numbers) == count)


@given(st.integers(1, 64), st.binary(max_size=20))
def test_bitmap_from_damaged_content_never_claims_more_than_count(count, content):
    bits = chunks.Bitmap(count, content)
    assert bits.done() <= count


def test_index_of_another_blob_is_refused():
    index = chunks.make_index([b"a" * chunks.CHUNK_BYTES, b"b"])
    length = chunks.CHUNK_BYTES + 1
    good = names.digest_of(index)
    assert len(chunks.parse_index(index, digest=good, length=length)) == 2
    with pytest.raises(MalformedMessage):
        chunks.parse_index(index, digest=names.digest_of(b""), length=length)
    with pytest.raises(MalformedMessage):
        chunks.parse_index(index, digest=good, length=length + chunks.CHUNK_BYTES)
    with pytest.raises(LimitExceeded):
        chunks.parse_index(index, digest=good, length=2**40)


@given(st.text(max_size=80))
def test_names_never_leave_their_place(text):
    for check in (names.check_device_id, names.check_model_name):
        try:
            accepted = check(text)
        except ProtocolError:
            continue
        assert not set(accepted) & set("./\\+#$ \0\n%")


@pytest.mark.parametrize("name", ["server", "operator", "probe"])
def test_no_device_takes_the_control_planes_name(name):
    with pytest.raises(ProtocolError):
        names.check_device_id(name)


@given(st.text(alphabet="ab+#$/u%", min_size=1, max_size=12))
def test_a_device_never_reaches_what_is_not_its_own(topic):
    for action in ("publish", "subscribe"):
        assert not topics.allowed("pi-1", action, topic)


@pytest.mark.parametrize(
    "topic", ["edgectl/v1/d/pi-1/up/state/x", "edgectl/v1/d/a.b/up/state", "x", ""]
)
def test_foreign_topics_are_malformed(topic):
    with pytest.raises(MalformedMessage):
        topics.parse_up(topic)


@pytest.mark.parametrize(
    "name",
    ["0.root.json", "root.json", "1.bin-G.json", "../1.root.json", "1.root.json\n", "01.root.json"],
)
def test_foreign_metadata_files_are_malformed(name):
    with pytest.raises(MalformedMessage):
        metadata.parse_metadata_file(name)


@pytest.mark.parametrize(
    "text", ["", "ee_", "ee_00112233445566aa_short", "ee_00112233445566AA_" + "A" * 43]
)
def test_foreign_tokens_are_malformed(text):
    with pytest.raises(MalformedMessage):
        enrolment.parse_token(text)


@given(st.lists(st.floats(1, 1e8), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_from_counts_is_at_most_one_bin_off(values, share):
    edges = histograms.LATENCY_EDGES_US
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[histograms.bin_of(edges, value)] += 1
    exact = sorted(values)[max(0, -(-int(len(values) * share * 1e9) // 10**9) - 1)]
    got = histograms.quantile(edges, counts, share)
    assert got is not None
    if edges[0] <= exact < edges[-1]:
        assert got >= exact * 0.999 / 1.4143


def test_histograms_add_up():
    assert histograms.merge((1, 2), (3, 4)) == (4, 6)
    assert histograms.merge((), (3, 4)) == (3, 4)
    assert histograms.quantile(histograms.CONFIDENCE_EDGES, [0] * 20, 0.5) is None
