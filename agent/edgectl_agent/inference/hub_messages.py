"""What the hub and an application say to each other, on a Unix socket: hub protocol 1.

JSON lines. The application begins with `Follow` and is told, at once and after every change, what
it shall run: an `Offer` comes with `OFFER_FILES` open descriptors, model and golden data, which
travel with the first byte of its line (``SCM_RIGHTS``). It sends `Counted` from time to time, for
manifests that it was offered, and, as far as a `Look` of the hub wants that, `Described` and
samples in parts. Unknown fields are tolerated on both sides; what else would change the meaning is
another `VERSION`. No runtime is imported here.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from edgectl_protocol.histograms import CONFIDENCE_EDGES, LATENCY_EDGES_US
from edgectl_protocol.manifest import BundleConfig
from edgectl_protocol.messages import Provider
from edgectl_protocol.names import Digest, ModelName, Variant, Version
from edgectl_protocol.samples import SAMPLE_BYTES_MAX, SamplePolicy
from edgectl_protocol.watching import FeatureCounts, Watched, WatchPolicy

__all__ = [
    "CLASSES_MAX",
    "LINE_BYTES_MAX",
    "OFFER_BYTES_MAX",
    "OFFER_FILES",
    "PART_BYTES_MAX",
    "ROWS_MAX",
    "VERSION",
    "Counted",
    "Described",
    "Elsewhere",
    "Follow",
    "FromApplication",
    "FromHub",
    "Look",
    "Offer",
    "Refusal",
    "SamplePart",
    "Trouble",
    "Waiting",
    "Withdrawn",
    "check_counted",
    "decode_from_application",
    "decode_from_hub",
]

VERSION = 1
OFFER_FILES = 2
LINE_BYTES_MAX = 64 * 1024
"""What an application says; the counts of 1024 classes take 22 KiB at most."""
OFFER_BYTES_MAX = 2 * 1024 * 1024
"""What the hub says; a bundle's description is at most 1 MiB, its reference 256 KiB."""
PART_BYTES_MAX = 40_000
"""Of a sample in one line, where it is in base64."""
REQUESTS_MAX = 10**9
"""Of one tally: 10,000 a second, in a day without the agent."""
ROWS_MAX = 256
"""Rows of one request whose classes are counted."""
CLASSES_MAX = 1024
_LATENCY_BINS = len(LATENCY_EDGES_US) + 1
_CONFIDENCE_BINS = len(CONFIDENCE_EDGES) + 1

_Requests = Annotated[int, Meta(ge=0, le=REQUESTS_MAX)]
_Rows = Annotated[int, Meta(ge=0, le=REQUESTS_MAX * ROWS_MAX)]


class Follow(Struct, frozen=True, kw_only=True, tag="follow"):
    """The first line: which slot, and who asks, for the log."""

    hub: int
    slot: ModelName
    files: bool = True
    """Whether the model's files are wanted; without, the hub says where to ask."""
    application: Annotated[str, Meta(max_length=64)] = ""


class Counted(Struct, frozen=True, kw_only=True, tag="counted"):
    """Counts since the last such line, of one manifest; as `control.Tally`."""

    manifest: Digest
    requests: _Requests
    errors: _Requests
    non_finite: _Requests
    refused: _Requests
    latency: Annotated[
        tuple[_Requests, ...], Meta(min_length=_LATENCY_BINS, max_length=_LATENCY_BINS)
    ]
    confidence: Annotated[tuple[_Rows, ...], Meta(max_length=_CONFIDENCE_BINS)] = ()
    classes: Annotated[tuple[_Rows, ...], Meta(max_length=CLASSES_MAX)] = ()


class Trouble(Struct, frozen=True, kw_only=True, tag="trouble"):
    """The application cannot load what it was offered and goes on with what it has."""

    manifest: Digest
    code: Annotated[str, Meta(max_length=64)]
    detail: Annotated[str, Meta(max_length=512)]


class Described(Struct, frozen=True, kw_only=True, tag="described"):
    """Counts of features since the last such line, of one manifest."""

    manifest: Digest
    counts: FeatureCounts


class SamplePart(Struct, frozen=True, kw_only=True, tag="sample"):
    """A part of a file of `edgectl_protocol.samples`; parts come in their order."""

    manifest: Digest
    at: Annotated[int, Meta(ge=0, le=SAMPLE_BYTES_MAX)]
    content: Annotated[bytes, Meta(min_length=1, max_length=PART_BYTES_MAX)]
    last: bool = False


FromApplication = Follow | Counted | Trouble | Described | SamplePart


class Offer(Struct, frozen=True, kw_only=True, tag="offer"):
    """Run this; the descriptors of the model's file and of ``golden.npz`` come with the line."""

    slot: ModelName
    version: Version
    variant: Variant
    manifest: Digest
    config: BundleConfig
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Within one operator, as its trial on this device has found best; 0: by the model's size."""
    provider: Provider = ""
    """Execution provider or delegate that its trial has chosen; empty: the runtime's usual one."""
    reference: Watched | None = None
    """What inputs and answers are compared with; None where the bundle has none."""


class Look(Struct, frozen=True, kw_only=True, tag="look"):
    """How closely to look at inputs and answers, from now on; before it is said, not at all."""

    watch: WatchPolicy = WatchPolicy(rows_per_s=0)
    samples: SamplePolicy = SamplePolicy()


class Elsewhere(Struct, frozen=True, kw_only=True, tag="elsewhere"):
    """This serves, and is not handed out: ask the endpoint."""

    slot: ModelName
    version: Version
    variant: Variant
    manifest: Digest
    config: BundleConfig
    endpoint: Annotated[str, Meta(max_length=256)]
    reason: Annotated[str, Meta(max_length=512)] = ""
    """Why it is not handed out; empty where it was not wanted."""


class Waiting(Struct, frozen=True, kw_only=True, tag="waiting"):
    """Nothing is loaded in the slot yet; what the application has, it may go on with."""

    detail: Annotated[str, Meta(max_length=512)] = ""


class Withdrawn(Struct, frozen=True, kw_only=True, tag="withdrawn"):
    """The slot is empty by decision: nothing shall be run."""


class Refusal(Struct, frozen=True, kw_only=True, tag="refused"):
    """The last line: why the hub hangs up.

    Codes: ``hub.version``, ``hub.malformed``, ``hub.busy``, ``hub.flood``, ``hub.tally``,
    ``hub.features``, ``hub.sample``.
    """

    code: Annotated[str, Meta(max_length=64)]
    detail: Annotated[str, Meta(max_length=512)]


FromHub = Offer | Look | Elsewhere | Waiting | Withdrawn | Refusal

_application_decoder = msgspec.json.Decoder(FromApplication)
_hub_decoder = msgspec.json.Decoder(FromHub)


def decode_from_application(content: bytes) -> FromApplication:
    """Decode a line; raise `msgspec.MsgspecError`, `UnicodeDecodeError` or `RecursionError`."""
    message: FromApplication = _application_decoder.decode(content)
    return message


def decode_from_hub(content: bytes) -> FromHub:
    """Decode a line; raise `msgspec.MsgspecError`, `UnicodeDecodeError` or `RecursionError`."""
    message: FromHub = _hub_decoder.decode(content)
    return message


def check_counted(counted: Counted, *, scores: bool) -> str:
    """Return what is impossible about the counts; empty when they may be true.

    Args:
        counted: decoded, so that every number is within its bounds.
        scores: whether the model's classes are counted.
    """
    answered = counted.requests - counted.errors
    rows = sum(counted.classes)
    if answered < 0 or counted.non_finite > answered:
        return "more requests failed than were made"
    if sum(counted.latency) != answered:
        return "there is not one latency for each answered request"
    if (counted.classes or counted.confidence) and not scores:
        return "classes of a model without scores"
    if len(counted.confidence) not in {0, _CONFIDENCE_BINS} or sum(counted.confidence) != rows:
        return "there is not one confidence for each counted class"
    if rows > (answered - counted.non_finite) * ROWS_MAX:
        return "more classes than the requests can have had"
    return ""
