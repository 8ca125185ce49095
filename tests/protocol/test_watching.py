"""References and windows of features: bounds, counts that add up, and no field for a raw input."""

from __future__ import annotations

import typing
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from edgectl_protocol.errors import LimitExceeded, MalformedMessage
from edgectl_protocol.messages import (
    MESSAGE_BYTES_MAX,
    REPORT_BYTES_MAX,
    TelemetryBatch,
    decode,
    encode,
)
from edgectl_protocol.names import digest_of
from edgectl_protocol.watching import (
    BINS_MAX,
    FEATURES_MAX,
    REFERENCE_BYTES_MAX,
    Feature,
    FeatureWindow,
    Reference,
    WatchedTensor,
    decode_reference,
    problem_of,
)

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
DIGEST = digest_of(b"")


def reference(**changes: typing.Any) -> Reference:
    """Two features, two classes."""
    features = tuple(
        Feature(name=name, edges=(0.0, 1.0), counts=(3, 3, 4), low=-1.0, high=2.0)
        for name in ("x.0", "x.1")
    )
    whole = Reference(
        definition=1,
        source="evaluation",
        dataset=DIGEST,
        rows=10,
        inputs=(WatchedTensor(name="x", kind="tabular"),),
        features=features,
        classes=(5, 5),
    )
    return msgspec.structs.replace(whole, **changes)


def window(**changes: typing.Any) -> FeatureWindow:
    """What fits `reference`."""
    whole = FeatureWindow(
        slot="har",
        version="1",
        manifest=DIGEST,
        reference=DIGEST,
        start=NOON,
        end=NOON + timedelta(minutes=15),
        rows=6,
        histograms=((1, 2, 3), (2, 2, 1)),
        missing=(0, 1),
        classes=(4, 2),
    )
    return msgspec.structs.replace(whole, **changes)


def test_what_is_made_is_read_again() -> None:
    assert decode_reference(msgspec.json.encode(reference())) == reference()
    batch = TelemetryBatch(device="pi-1", boot=1, seq=2, features=window())
    assert decode(TelemetryBatch, encode(batch)) == batch
    assert problem_of(window(), reference()) == ""


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rows": 7}, "x.0: 6 rows of 7"),
        ({"missing": (0, 0)}, "x.1: 5 rows of 6"),
        ({"missing": (0,)}, "missing rows"),
        ({"outside": (7, 0)}, "x.0: more rows"),
        ({"histograms": ((1, 2, 3),)}, "1 histograms"),
        ({"histograms": ((3, 3), (2, 2, 1))}, "x.0: 2 bins"),
        ({"classes": (4, 2, 0)}, "classes"),
        ({"classes": (6, 2)}, "classes"),
        ({"start": NOON + timedelta(days=1)}, "ends before"),
    ],
)
def test_counts_that_do_not_add_up_are_told(changes: dict[str, typing.Any], says: str) -> None:
    assert says in problem_of(window(**changes), reference())


FEATURE = reference().features[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"definition": 2},
        {"features": (FEATURE, FEATURE)},
        {"features": (msgspec.structs.replace(FEATURE, edges=(1.0, 1.0)),)},
        {"features": (msgspec.structs.replace(FEATURE, counts=(5, 5)),)},
        {"features": (msgspec.structs.replace(FEATURE, counts=(5, 5, 5)),)},
        {"confidence": (1,)},
        {"rows": 0},
    ],
)
def test_a_reference_that_cannot_be_counted_on_is_refused(changes: dict[str, typing.Any]) -> None:
    with pytest.raises(MalformedMessage):
        decode_reference(msgspec.json.encode(reference(**changes)))


def test_numbers_that_are_none_are_refused() -> None:
    content = msgspec.json.encode(reference()).replace(b'"low":-1.0', b'"low":1e999')
    with pytest.raises(MalformedMessage):
        decode_reference(content)


def test_a_histogram_bomb_is_refused() -> None:
    bombs = [
        window(histograms=((1,) * (BINS_MAX + 1),)),
        window(histograms=((1, 1),) * (FEATURES_MAX + 1)),
        window(classes=(1,) * 1025),
        window(rows=2**60),
    ]
    for bomb in bombs:
        with pytest.raises(MalformedMessage):
            decode(FeatureWindow, encode(bomb))
    with pytest.raises(LimitExceeded):
        decode(FeatureWindow, b" " * (MESSAGE_BYTES_MAX + 1))
    with pytest.raises(LimitExceeded):
        decode_reference(b" " * (REFERENCE_BYTES_MAX + 1))


def test_the_largest_window_that_can_be_fits_a_message() -> None:
    largest = FeatureWindow(
        slot="a" * 64,
        version="1",
        manifest=DIGEST,
        reference=DIGEST,
        start=NOON,
        end=NOON,
        rows=10**8,
        histograms=((10**8,) * BINS_MAX,) * FEATURES_MAX,
        missing=(10**8,) * FEATURES_MAX,
        outside=(10**8,) * FEATURES_MAX,
        classes=(10**8,) * 1024,
    )
    batch = TelemetryBatch(device="d" * 64, boot=2**60, seq=2**60, features=largest)
    assert len(encode(batch)) < REPORT_BYTES_MAX


# What telemetry may be made of. A new field has to be argued for here: whatever can hold a free
# number, a text or bytes could hold a raw input.
NAMES = {"device", "slot", "version", "manifest", "reference"}
TIMES = {"start", "end", "at"}
FREE_NUMBERS = {"load_1min", "temperature_c"}
"""Of the device's health, which no model's input reaches."""
BOUNDED_TEXTS = {"bad_pieces", "deltas", "samples"}
"""Keys by a fixed pattern: kinds of pieces, codes."""


def leaves(kind: typing.Any, path: str = "") -> typing.Iterator[tuple[str, typing.Any]]:
    """Yield every field of a message that is no message, with its type."""
    for field in msgspec.structs.fields(kind):
        for part in (field.type, *typing.get_args(field.type)):
            if isinstance(part, type) and issubclass(part, msgspec.Struct):
                yield from leaves(part, f"{path}{field.name}.")
                break
        else:
            inner = [
                one
                for part in typing.get_args(field.type)
                for one in typing.get_args(part)
                if isinstance(one, type) and issubclass(one, msgspec.Struct)
            ]
            if inner:
                yield from leaves(inner[0], f"{path}{field.name}.")
            else:
                yield path + field.name, field.type


def plain_types(kind: typing.Any) -> set[type]:
    """Return the plain types that a field is made of."""
    if isinstance(kind, type):
        return {kind}
    return {one for part in typing.get_args(kind) for one in plain_types(part)} - {type(None)}


def test_nothing_that_holds_a_raw_input_can_be_encoded() -> None:
    seen = dict(leaves(TelemetryBatch))
    assert {"features.histograms", "features.rows", "windows.latency"} <= set(seen), seen.keys()
    for path, kind in seen.items():
        name = path.rpartition(".")[2]
        types = {
            one for one in plain_types(kind) if one in {str, bytes, float, int, bool, datetime}
        }
        if name in NAMES:
            assert types == {str}, path
        elif name in TIMES:
            assert types == {datetime}, path
        elif name in FREE_NUMBERS:
            assert types == {float}, path
            assert path.startswith("system."), path
        elif name in BOUNDED_TEXTS:
            assert types == {str, int}, path
        else:
            assert types == {int}, f"{path} can hold more than a count"


def test_the_look_at_the_schema_would_see_a_raw_input() -> None:
    class Worse(TelemetryBatch, frozen=True, kw_only=True):
        sample: tuple[float, ...] = ()

    assert float in plain_types(dict(leaves(Worse))["sample"])


def test_strings_and_numbers_in_place_of_counts_are_refused() -> None:
    for wrong in (b'"aGVsbG8="', b"[0.25]", b'["x"]', b"[[0.5,1]]", b"[[-1,1]]"):
        content = encode(window()).replace(b"[[1,2,3],[2,2,1]]", wrong)
        with pytest.raises(MalformedMessage):
            decode(FeatureWindow, content)
