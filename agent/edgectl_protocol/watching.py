"""What a model is given and answers, as counts: a bundle's reference, the windows of devices.

A `Reference` is made where the model is pushed, from the statistics (`edgectl_statistics`) of its
calibration or evaluation data, and travels signed in the bundle as ``reference.json``. A device
counts the same statistics of live inputs on the very edges of that reference, a window at a time,
and sends a `FeatureWindow`: counts alone, in the order of the reference's features. There is no
field for a name, a text or a number that an input could be written into, which a test proves.

What the reference itself has counted is for the server. Edges and names alone are in the bundle
once more, as ``watched.json`` (`Watched`): a device that knows that file fetches only this one, and
it is the same file for all versions whose edges are the same. Older bundles have none, and older
devices take the reference.

Windows begin and end at whole multiples of their length since 1970, in UTC; the first and the last
of a model that comes or goes in between are shorter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgectl_protocol.errors import LimitExceeded, MalformedMessage
from edgectl_protocol.fields import Message, Time
from edgectl_protocol.histograms import CONFIDENCE_EDGES
from edgectl_protocol.names import Digest, ModelName, Version

__all__ = [
    "BINS_MAX",
    "DEFINITION",
    "FEATURES_MAX",
    "REFERENCE_BYTES_MAX",
    "REFERENCE_FILE",
    "ROWS_MAX",
    "WATCHED_FILE",
    "Feature",
    "FeatureCounts",
    "FeatureWindow",
    "Reference",
    "TensorKind",
    "WatchPolicy",
    "Watched",
    "WatchedFeature",
    "WatchedTensor",
    "decode_reference",
    "decode_watched",
    "problem_of",
    "problem_of_counts",
    "watched_of",
]

REFERENCE_FILE = "reference.json"
WATCHED_FILE = "watched.json"
REFERENCE_BYTES_MAX = 256 * 1024
DEFINITION = 1
"""Which statistics these are; another number is another meaning of the same names."""
BINS_MAX = 32
FEATURES_MAX = 64
CLASSES_MAX = 1024
ROWS_MAX = 2**40
"""Rows of one window, so that sums of windows stay exact as floats."""

TensorKind = Literal["image", "series", "tabular", "moments", "embedding"]
"""``moments``: of all elements together, where the shape says nothing better. A device that does
not know a kind watches nothing of that bundle."""
_Name = Annotated[str, Meta(min_length=1, max_length=256)]
_Rows = Annotated[int, Meta(ge=0, le=ROWS_MAX)]
_Histogram = Annotated[tuple[_Rows, ...], Meta(min_length=2, max_length=BINS_MAX)]
_OfFeatures = Annotated[tuple[_Rows, ...], Meta(max_length=FEATURES_MAX)]


class WatchedTensor(Message, frozen=True, kw_only=True, omit_defaults=True):
    """An input or output that is described, and as what."""

    name: _Name
    kind: TensorKind
    channels_last: bool = False
    """Whether the last axis of a row is the channel; else the first one is."""


class WatchedFeature(Message, frozen=True, kw_only=True, omit_defaults=True):
    """One statistic and how it is counted."""

    name: Annotated[str, Meta(min_length=1, max_length=320)]
    edges: Annotated[tuple[float, ...], Meta(min_length=1, max_length=BINS_MAX - 1)]
    """Ascending; a value equal to an edge belongs to the bin above it."""
    low: float
    """Least value of the reference."""
    high: float
    """Largest value of the reference."""


class Feature(WatchedFeature, frozen=True, kw_only=True, omit_defaults=True):
    """One statistic and how the reference data is distributed in it."""

    counts: _Histogram
    """One more than edges."""
    design_effect: Annotated[float, Meta(ge=1, le=1e9)] = 1.0
    """How many rows of the reference are worth one independent row, as its blocks tell."""


class Reference(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``reference.json``: what inputs and answers look like when nothing has changed."""

    definition: int
    """`DEFINITION` of whoever made it; devices that know another one watch nothing."""
    source: Literal["calibration", "evaluation"]
    dataset: Digest
    rows: Annotated[int, Meta(ge=1, le=ROWS_MAX)]
    inputs: Annotated[tuple[WatchedTensor, ...], Meta(max_length=FEATURES_MAX)]
    outputs: Annotated[tuple[WatchedTensor, ...], Meta(max_length=FEATURES_MAX)] = ()
    """Outputs of numbers, of a model without class scores."""
    features: Annotated[tuple[Feature, ...], Meta(max_length=FEATURES_MAX)]
    classes: Annotated[tuple[_Rows, ...], Meta(max_length=CLASSES_MAX)] = ()
    """Answers by class index; empty without class scores."""
    confidence: Annotated[tuple[_Rows, ...], Meta(max_length=len(CONFIDENCE_EDGES) + 1)] = ()
    """Rows with a known class by confidence, on the edges of `edgectl_protocol.histograms`."""
    right: Annotated[tuple[_Rows, ...], Meta(max_length=len(CONFIDENCE_EDGES) + 1)] = ()
    """Those of them whose class the model has said."""


class Watched(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``watched.json``: what a device counts, and on which edges."""

    definition: int
    """As `Reference.definition`."""
    inputs: Annotated[tuple[WatchedTensor, ...], Meta(max_length=FEATURES_MAX)]
    outputs: Annotated[tuple[WatchedTensor, ...], Meta(max_length=FEATURES_MAX)] = ()
    features: Annotated[tuple[WatchedFeature, ...], Meta(max_length=FEATURES_MAX)]
    classes: Annotated[int, Meta(ge=0, le=CLASSES_MAX)] = 0
    """How many there are; 0 without class scores."""


class WatchPolicy(Message, frozen=True, kw_only=True, omit_defaults=True):
    """How closely a device looks; said by the server in every order."""

    rows_per_s: Annotated[float, Meta(ge=0, le=1000)] = 20.0
    """Rows that are described at most; 0: nothing is watched."""
    window_s: Annotated[int, Meta(ge=1, le=86400)] = 900
    """Length of a window."""


class FeatureCounts(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Counts of what one model was given and answered."""

    rows: _Rows
    """Rows that were described."""
    skipped: _Rows = 0
    """Rows that were not, for the policy's sake."""
    histograms: Annotated[tuple[_Histogram, ...], Meta(max_length=FEATURES_MAX)]
    """One for each feature; what is not a number is in none of its bins."""
    missing: _OfFeatures = ()
    """Rows of each feature that are not a number; empty: none of any."""
    outside: _OfFeatures = ()
    """Rows of each feature below `Feature.low` or above `Feature.high`; empty: none of any."""
    classes: Annotated[tuple[_Rows, ...], Meta(max_length=CLASSES_MAX)] = ()


class FeatureWindow(FeatureCounts, frozen=True, kw_only=True, omit_defaults=True):
    """Such counts of one device in one window of time."""

    slot: ModelName
    version: Version
    manifest: Digest
    reference: Digest
    """Whose features and edges these are: of ``watched.json``, or of the reference where there is
    none."""
    start: Time
    end: Time
    clock_shift_s: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] = 0
    """How far the device's clock was set forward or back within the window."""


def decode_reference(content: bytes) -> Reference:
    """Decode ``reference.json`` and check that its features can be counted.

    Raises:
        LimitExceeded: longer than `REFERENCE_BYTES_MAX`.
        MalformedMessage: no such document, of another definition, or with edges that do not ascend.
    """
    if len(content) > REFERENCE_BYTES_MAX:
        raise LimitExceeded(f"a reference of {len(content)} bytes, at most {REFERENCE_BYTES_MAX}")
    try:
        reference = msgspec.json.decode(content, type=Reference)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage("not a reference.json") from error
    _check_features(reference.definition, reference.features)
    for feature in reference.features:
        if len(feature.counts) != len(feature.edges) + 1:
            raise MalformedMessage(f"{feature.name} has {len(feature.counts)} bins and other edges")
        if sum(feature.counts) > reference.rows:
            raise MalformedMessage(f"{feature.name} counts more than {reference.rows} rows")
    if len(reference.confidence) != len(reference.right):
        raise MalformedMessage("confidence and right answers have different bins")
    return reference


def watched_of(reference: Reference) -> Watched:
    """Return what a device needs of a reference."""
    return Watched(
        definition=reference.definition,
        inputs=reference.inputs,
        outputs=reference.outputs,
        features=tuple(
            WatchedFeature(name=one.name, edges=one.edges, low=one.low, high=one.high)
            for one in reference.features
        ),
        classes=len(reference.classes),
    )


def decode_watched(content: bytes) -> Watched:
    """Decode ``watched.json`` and check that its features can be counted.

    Raises:
        LimitExceeded: longer than `REFERENCE_BYTES_MAX`.
        MalformedMessage: no such document, of another definition, or with edges that do not ascend.
    """
    if len(content) > REFERENCE_BYTES_MAX:
        raise LimitExceeded(
            f"a watched.json of {len(content)} bytes, at most {REFERENCE_BYTES_MAX}"
        )
    try:
        watched = msgspec.json.decode(content, type=Watched)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage("not a watched.json") from error
    _check_features(watched.definition, watched.features)
    return watched


def _check_features(definition: int, features: Sequence[WatchedFeature]) -> None:
    """Raise `MalformedMessage` where features cannot be counted."""
    if definition != DEFINITION:
        raise MalformedMessage(f"statistics {definition}, known are {DEFINITION}")
    if len({one.name for one in features}) != len(features):
        raise MalformedMessage("two features of the reference have one name")
    for feature in features:
        numbers = (feature.low, *feature.edges, feature.high)
        ascending = all(a < b for a, b in zip(feature.edges, feature.edges[1:], strict=False))
        if not ascending or not all(map(math.isfinite, numbers)):
            raise MalformedMessage(f"the edges of {feature.name} do not ascend")


def problem_of(window: FeatureWindow, reference: Reference) -> str:
    """Return why counts cannot be those of that reference; empty when they may be.

    Args:
        window: what a device says.
        reference: the one that `window.reference` names.
    """
    if window.start > window.end:
        return "the window ends before it begins"
    return problem_of_counts(window, reference.features, len(reference.classes))


def problem_of_counts(
    window: FeatureCounts, features: Sequence[WatchedFeature], classes: int
) -> str:
    """Return why counts cannot be of such features and of so many classes; empty: they may be."""
    if len(window.histograms) != len(features):
        return f"{len(window.histograms)} histograms, the reference has {len(features)} features"
    if {len(window.missing), len(window.outside)} - {0, len(features)}:
        return f"counts of missing rows for other than {len(features)} features"
    if len(window.classes) > classes or sum(window.classes) > window.rows:
        return "the classes are not those of the reference"
    missing = window.missing or (0,) * len(features)
    outside = window.outside or (0,) * len(features)
    for feature, histogram, lost, beyond in zip(
        features, window.histograms, missing, outside, strict=True
    ):
        if problem := _problem_of_one(histogram, len(feature.edges) + 1, window.rows, lost, beyond):
            return f"{feature.name}: {problem}"
    return ""


def _problem_of_one(
    histogram: tuple[int, ...], bins: int, rows: int, missing: int, outside: int
) -> str:
    total = sum(histogram)
    if len(histogram) != bins:
        return f"{len(histogram)} bins, expected {bins}"
    if total + missing != rows:
        return f"{total + missing} rows of {rows} are counted"
    return "more rows are outside than there are" if outside > total else ""
