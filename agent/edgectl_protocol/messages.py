"""Messages on MQTT: frozen structs, JSON on the wire, decoded with bounds.

Orders, requests, and everything that a device says, travel in signed envelopes
(`edgectl_protocol.envelopes`); `PAYLOAD_TYPES` names what each may hold. Unknown fields are
tolerated, because versions meet on the wire; missing or mistyped ones are `MalformedMessage`. Raw
chunks and chunk indexes are no messages: see `edgectl_protocol.chunks`. What is said of uploads is
in `edgectl_protocol.uploads`. All times are UTC with a
zone; all sizes are bytes; all durations carry their unit in the name.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from edgectl_protocol.encryption import SealedKey
from edgectl_protocol.errors import LimitExceeded, MalformedMessage
from edgectl_protocol.fields import Code, Count, JobId, Nonce, Reason, Time
from edgectl_protocol.log_lines import (
    LINES_PAYLOAD_TYPE,
    LOG_FOLLOW_PAYLOAD_TYPE,
    LogFollowRequest,
    LogLines,
)
from edgectl_protocol.names import DeviceId, Digest, ModelName, Variant, Version
from edgectl_protocol.outcomes import OUTCOME_PAYLOAD_TYPE, OutcomeReport
from edgectl_protocol.samples import SamplePolicy
from edgectl_protocol.transfers import DeltaOffer, RestOffer, TransferReport
from edgectl_protocol.update import UpdateEvent, UpdateState
from edgectl_protocol.uploads import LOG_REQUEST_PAYLOAD_TYPE, LogRequest, UploadOffer
from edgectl_protocol.watching import FeatureWindow, WatchPolicy

__all__ = [
    "CANDIDATES_MAX",
    "FORGIVEN_MAX",
    "MESSAGE_BYTES_MAX",
    "ORDER_PAYLOAD_TYPE",
    "PAYLOAD_TYPES",
    "REPORT_BYTES_MAX",
    "REQUEST_PAYLOAD_TYPE",
    "REQUEST_PAYLOAD_TYPES",
    "REQUEST_TYPE_END",
    "RUNS_MAX",
    "SLOTS_MAX",
    "Ack",
    "BenchmarkReport",
    "BenchmarkRequest",
    "BenchmarkResult",
    "Candidate",
    "Capabilities",
    "DeviceEvent",
    "InferenceWindow",
    "Installed",
    "MaintenanceWindow",
    "MetadataHead",
    "Nonce",
    "ObservationReport",
    "Order",
    "ProviderTried",
    "Reason",
    "Report",
    "ReportedState",
    "Request",
    "SecurityEvent",
    "SeedRequest",
    "SlotOrder",
    "SlotReport",
    "SwapReport",
    "SystemSample",
    "TelemetryBatch",
    "TrialReport",
    "UpdatePolicy",
    "UpdateReport",
    "decode",
    "encode",
]

MESSAGE_BYTES_MAX = 128 * 1024
"""Longest message; AWS IoT Core's limit, which the smallest broker of interest has."""

ORDER_PAYLOAD_TYPE = "application/vnd.edgectl.order.v1+json"
"""DSSE payload type of an order; a signature on anything else is none on an order."""

REQUEST_PAYLOAD_TYPE = "application/vnd.edgectl.benchmark-request.v1+json"
"""DSSE payload type of a request to measure; the same keys sign it as orders, and neither passes
for the other."""

REPORT_BYTES_MAX = (MESSAGE_BYTES_MAX - 1024) * 3 // 4
"""Longest message of a device before it is signed: base64 makes it a third longer."""

Share = Annotated[float, Meta(ge=0, le=1)]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
SLOTS_MAX = 16
"""Slots of one device."""
CANDIDATES_MAX = 8
"""Variants of one slot in an order, or of one request."""
FORGIVEN_MAX = 16
"""Rejected manifests that one order can have tried again."""
KEYS_MAX = CANDIDATES_MAX * SLOTS_MAX
"""Content keys in one order: one for each candidate."""
RUNS_MAX = 10_000
"""Timed runs of one variant that may be asked for."""


class _Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all messages: immutable, keyword-only, defaults left out on the wire."""


# ---------------------------------------------------------------- server → device


class MetadataHead(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """``meta/head``: an unsigned hint that ends the walk over root versions."""

    root: Count


class Candidate(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """One variant that may fill a slot."""

    variant: Variant
    target: Annotated[str, Meta(max_length=256)]
    """Path of the bundle manifest in the signed TUF targets."""
    manifest: Digest


class SlotOrder(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """What one model slot shall run: the first candidate that passes its trial on the device."""

    model: ModelName
    version: Version
    candidates: Annotated[tuple[Candidate, ...], Meta(min_length=1, max_length=CANDIDATES_MAX)]
    rollout: Annotated[str, Meta(max_length=64)] | None = None
    predicted_bytes: Count | None = None
    """What the first candidate is expected to cost the device's link; None: not told."""


class MaintenanceWindow(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """When a device may switch models; fetching and proving go ahead at any time."""

    days: Annotated[tuple[Weekday, ...], Meta(max_length=7)] = ()
    """On which it begins; empty is every day."""
    start_minute: Annotated[int, Meta(ge=0, le=1439)]
    """Of the day."""
    minutes: Annotated[int, Meta(ge=1, le=1440)]
    """How long it is open, also past midnight."""
    clock: Literal["utc", "local"] = "local"
    """By which clock; ``local`` is that of the device's own time zone."""


class UpdatePolicy(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """How the device goes about it."""

    observe_s: Annotated[float, Meta(ge=0, le=7 * 86400)] = 10.0
    """How long an activated model serves under observation before it is committed."""
    error_rate_max: Annotated[float, Meta(ge=0, le=1)] = 0.05
    requests_min: Count = 20
    """Requests needed before the error rate says anything."""
    attempts_max: Annotated[int, Meta(ge=1, le=100)] = 5
    retry_delay_s_max: Annotated[float, Meta(gt=0, le=86400)] = 300.0
    windows: Annotated[tuple[MaintenanceWindow, ...], Meta(max_length=14)] = ()
    """When models may be switched; empty is at any time."""
    shadow_s: Annotated[float, Meta(ge=0, le=7 * 86400)] = 0.0
    """How long a proved candidate answers copies of live requests before it is activated; 0: not
    at all."""
    mirror_share: Share = 0.1
    """Share of the live requests that are copied: to the candidate while it is a shadow, to the
    previous model while the new one is observed."""
    mirror_cpu_max: Share = 0.25
    """What copied requests may cost, as a share of one processor core."""
    latency_ratio_max: Annotated[float, Meta(gt=1, le=1000)] | None = 5.0
    """How much slower than the previous model, by the 95th percentile, an observed one may be;
    None: however much."""
    class_shift_max: Share | None = 0.5
    """Largest total variation distance between the classes that the observed and the previous
    model give, where both have the same labels; None: whatever they give."""
    disagreement_max: Share | None = 0.5
    """Largest share of copied requests to which the two models give different answers, where both
    have the same labels; None: any."""


class Order(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """``down/order``, inside a DSSE envelope: what this device shall run.

    `counter` only ever grows for a device; the device refuses an order that is not newer than the
    last one it accepted, is addressed to another device, or has expired.
    """

    device: DeviceId
    counter: Count
    nonce: Nonce
    """Random; the device repeats it in what it says about the order. Counters alone would make a
    report of another order with the same number, from before a backup was restored, look right."""
    issued_at: Time
    expires_at: Time
    slots: Annotated[dict[ModelName, SlotOrder], Meta(max_length=SLOTS_MAX)]
    """By slot name. In a slot that is not named here an update under way is taken back, and what
    is committed is left as it is."""
    policy: UpdatePolicy = UpdatePolicy()
    forgive: Annotated[tuple[Digest, ...], Meta(max_length=FORGIVEN_MAX)] = ()
    """Rejected manifests that the operator wants to be tried again."""
    withdrawn: Annotated[tuple[ModelName, ...], Meta(max_length=SLOTS_MAX)] = ()
    """Slots whose newest update is taken back even where it is committed: they return to what ran
    before it, or to nothing. A slot that is named in `slots` too is not meant."""
    keys: Annotated[dict[Digest, SealedKey], Meta(max_length=KEYS_MAX)] = {}
    """By manifest: the content key of each encrypted candidate, sealed to this device."""
    deltas: Annotated[dict[Digest, DeltaOffer], Meta(max_length=KEYS_MAX)] = {}
    """By manifest: how a candidate's model can be made from what the device runs in that slot."""
    rests: Annotated[dict[Digest, RestOffer], Meta(max_length=KEYS_MAX)] = {}
    """By manifest: how the rest of a candidate's bundle, and its manifest, can be made from what
    the device runs in that slot."""
    coupled: Annotated[
        tuple[Annotated[tuple[ModelName, ...], Meta(min_length=2, max_length=SLOTS_MAX)], ...],
        Meta(max_length=SLOTS_MAX),
    ] = ()
    """Slots that switch together or not at all, such as a detector and its classifier. A slot is in
    one group at most."""
    watch: WatchPolicy = WatchPolicy()
    """How closely inputs and answers are described."""
    samples: Annotated[dict[ModelName, SamplePolicy], Meta(max_length=SLOTS_MAX)] = {}
    """By slot: what of inputs and answers may leave the device as it is; nothing of the others."""


class BenchmarkRequest(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """``down/cmd``, inside a DSSE envelope: measure these bundles, and change nothing that serves.

    `counter` only ever grows for a device, and is counted apart from that of orders; the device
    refuses a request that is not newer than the last one it took, is addressed to another device,
    or has expired.
    """

    device: DeviceId
    job: JobId
    """By which the server knows what came of it."""
    counter: Count
    nonce: Nonce
    issued_at: Time
    expires_at: Time
    """It must have been begun by then."""
    model: ModelName
    version: Version
    candidates: Annotated[tuple[Candidate, ...], Meta(min_length=1, max_length=CANDIDATES_MAX)]
    """All of them are measured, in this order."""
    runs: Annotated[int, Meta(ge=1, le=RUNS_MAX)]
    """Timed runs of each; fewer where the device's own limit on time ends them."""
    keys: Annotated[dict[Digest, SealedKey], Meta(max_length=CANDIDATES_MAX)] = {}
    """As `Order.keys`."""


Request = BenchmarkRequest | LogRequest | LogFollowRequest
"""What a device is asked for, beside orders."""

REQUEST_PAYLOAD_TYPES: dict[type[Request], str] = {
    BenchmarkRequest: REQUEST_PAYLOAD_TYPE,
    LogRequest: LOG_REQUEST_PAYLOAD_TYPE,
    LogFollowRequest: LOG_FOLLOW_PAYLOAD_TYPE,
}
REQUEST_TYPE_END = "-request.v1+json"
"""Of the payload type of every request, also of those that an older agent does not know."""


class Ack(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """``down/ack``: the server has stored what the device sent as (`boot`, `seq`)."""

    boot: Count
    seq: Count
    capabilities_seq: Count | None = None
    """Of a state instead, with `seq` 0, which nothing that waits for its acknowledgement has: the
    server keeps the capabilities of that number; 0: it has lost them, and wants them again."""
    decompresses: bool = False
    """Beside `capabilities_seq`: the server takes compressed telemetry in this connection."""


# ---------------------------------------------------------------- device → server


Provider = Annotated[str, Meta(max_length=64)]


class Installed(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """A bundle that is on the device and verified."""

    version: Version
    variant: Variant
    manifest: Digest
    since: Time
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Threads within one operator that its trial has found best; 0: by the model's size."""
    provider: Provider = ""
    """Execution provider or delegate that its trial has chosen; empty: the runtime's usual one."""


class ProviderTried(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """An execution provider or delegate that is not used."""

    provider: Provider
    reason: Reason


class TrialReport(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """What the trial process measured on this very device."""

    golden_passed: Count
    golden_total: Count
    load_ms: float
    latency_p50_us: float
    latency_p95_us: float
    rss_bytes: Count
    max_abs_diff: float
    """Largest absolute difference from the golden outputs, over all outputs."""
    runs: Count = 0
    """How many runs the latencies are of; 0: not told."""
    threads: Count = 0
    """Threads within one operator; 0: not told."""
    provider: Provider = ""
    """Execution provider or delegate that ran it, such as ``CPUExecutionProvider``; empty: not
    told."""
    others: Annotated[tuple[ProviderTried, ...], Meta(max_length=8)] = ()
    """Providers that were tried as well and are not used, and why."""
    throttled: bool = False
    """The processor was hot or slowed down meanwhile: the latencies are not what it can do."""
    temperature_c: float | None = None
    """Hottest sensor at the end; None: there is none."""


class ObservationReport(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """What a model did while it was a shadow, or while it was observed after its activation."""

    requests: Count = 0
    """Live requests that it answered itself; 0 for a shadow."""
    errors: Count = 0
    non_finite: Count = 0
    latency_p95_us: float | None = None
    """Of its own runs, live or copied; None: not enough of them."""
    reference_p95_us: float | None = None
    """The same of the model that it is compared with, which serves or served before."""
    class_shift: float | None = None
    """Total variation distance between the classes of both, from 0 to 1."""
    mirrored: Count = 0
    """Copied requests that both have answered."""
    agreed: Count = 0
    """Those of them to which both gave the same answer."""
    skipped: Count = 0
    """Requests that were chosen and not copied, for the budget's sake."""


class SwapReport(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """What it took to put a model into its slot."""

    load_ms: float = 0.0
    """Loading and warming up, beside the model that served."""
    gap_ms: float = 0.0
    """How long requests had to wait because memory forbade two models at once; 0: not at all."""
    resident: bool = False
    """Whether the model before it stays in memory while this one is observed."""


class UpdateReport(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """Where the newest update of a slot stands."""

    order: Count
    version: Version
    variant: Variant
    manifest: Digest
    state: UpdateState
    attempt: Count = 0
    bytes_done: Count = 0
    bytes_total: Count = 0
    rollout: Annotated[str, Meta(max_length=64)] | None = None
    reason: Reason | None = None
    trial: TrialReport | None = None
    shadow: ObservationReport | None = None
    observation: ObservationReport | None = None
    swap: SwapReport | None = None
    transfer: TransferReport | None = None


class SlotReport(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """One model slot of a device."""

    running: Installed | None = None
    """What serves; during observation the model that is observed."""
    previous: Installed | None = None
    """What a rollback returns to."""
    update: UpdateReport | None = None
    fault: Reason | None = None
    """How what runs has failed last, such as a run that hung; None again when another one runs."""


class Capabilities(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """What the device is; the server picks variants by it."""

    machine: Annotated[str, Meta(max_length=32)]
    """As ``uname -m`` says: ``x86_64``, ``aarch64``, ``armv7l``."""
    cpu_model: Annotated[str, Meta(max_length=128)] = ""
    cpu_features: Annotated[
        tuple[Annotated[str, Meta(max_length=32)], ...], Meta(max_length=64)
    ] = ()
    """Those of /proc/cpuinfo that matter for inference, sorted, such as ``avx512_vnni``."""
    cores: Count = 1
    memory_bytes: Count = 0
    disk_free_bytes: Count = 0
    os: Annotated[str, Meta(max_length=128)] = ""
    runtimes: Annotated[dict[str, str], Meta(max_length=8)] = {}
    """Inference runtimes and their versions: ``{"onnxruntime": "1.32.0"}``."""
    labels: Annotated[dict[str, str], Meta(max_length=32)] = {}
    """Free labels from the agent's configuration, such as ``{"site": "porto"}``."""


class ReportedState(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """``up/state``, retained: the whole of what the device is now. As last will: `online` false."""

    device: DeviceId
    boot: Count
    seq: Count
    online: bool
    sent_at: Time | None = None
    agent_version: Annotated[str, Meta(max_length=32)] = ""
    connection: Count = 0
    """Number of the connection within the boot; a last will speaks of its own one only."""
    order_counter: Count = 0
    """Counter of the newest order that was accepted."""
    order_nonce: Nonce | None = None
    """Nonce of that order; what is said of an order is believed only with it."""
    refusal: Reason | None = None
    """Why what came last as an order is not obeyed; None again once an order is accepted."""
    refused_counter: Count | None = None
    """Counter of the refused order; None where its signature is not good, or it has none."""
    capabilities: Capabilities | None = None
    """Left out where the server has said that it keeps those of `capabilities_seq`."""
    capabilities_seq: Count | None = None
    """Number of the first report of this boot that had these capabilities."""
    endpoint: Annotated[str, Meta(max_length=256)] = ""
    """Where local applications reach the inference endpoint, such as ``http://127.0.0.1:8500``."""
    slots: Annotated[dict[ModelName, SlotReport], Meta(max_length=SLOTS_MAX)] = {}
    rejected: Annotated[tuple[Digest, ...], Meta(max_length=256)] = ()
    """Manifests that are remembered as bad, newest last."""


class DeviceEvent(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """``up/event``: one transition of an update, delivered until acknowledged."""

    device: DeviceId
    boot: Count
    seq: Count
    at: Time
    slot: ModelName
    order: Count
    nonce: Nonce
    """Of the order with that number."""
    version: Version
    variant: Variant
    manifest: Digest
    before: UpdateState
    event: UpdateEvent
    after: UpdateState
    rollout: Annotated[str, Meta(max_length=64)] | None = None
    reason: Reason | None = None
    trial: TrialReport | None = None
    shadow: ObservationReport | None = None
    observation: ObservationReport | None = None
    swap: SwapReport | None = None
    transfer: TransferReport | None = None


class SecurityEvent(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """``up/event``: something that an attacker may have done, delivered until acknowledged.

    The same code again within minutes is counted, not told again.
    """

    device: DeviceId
    boot: Count
    seq: Count
    at: Time
    """When it was seen first."""
    until: Time
    """When it was seen last; the device's clock may be what is wrong."""
    reason: Reason
    """The newest one."""
    count: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 1
    order: Count | None = None
    """Counter of the order that is meant, where its signature is good."""


class BenchmarkResult(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """One variant that was measured, or why not."""

    variant: Variant
    manifest: Digest
    verdict: Literal["ok", "rejected", "failed"]
    """Of the trial; ``failed`` says nothing about the variant."""
    trial: TrialReport | None = None
    reason: Reason | None = None


class BenchmarkReport(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """``up/event``: what came of a request, variant by variant, delivered until acknowledged."""

    device: DeviceId
    boot: Count
    seq: Count
    at: Time
    job: JobId
    request: Count
    """Counter of the request."""
    nonce: Nonce
    """Of that request."""
    done: Annotated[int, Meta(ge=0, le=CANDIDATES_MAX)]
    """How many of its variants have been dealt with; 0: it has been taken."""
    result: BenchmarkResult | None = None
    """Of the one that was dealt with last."""
    reason: Reason | None = None
    """Why nothing more comes, though not everything was measured."""


class SystemSample(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """Health of the device at one moment."""

    at: Time
    load_1min: float = 0.0
    memory_available_bytes: Count = 0
    disk_free_bytes: Count = 0
    temperature_c: float | None = None
    agent_rss_bytes: Count = 0
    inference_rss_bytes: Count = 0
    bad_pieces: Annotated[
        dict[Annotated[str, Meta(pattern=r"^[a-z_]{1,32}\Z")], Count], Meta(max_length=16)
    ] = {}
    """Pieces of blobs that came and were none that was wanted, since the agent's start, by kind."""
    deltas: Annotated[dict[Code, Count], Meta(max_length=64)] = {}
    """What became of deltas since the agent was started, by code; ``delta.applied`` is success."""
    samples: Annotated[dict[Code, Count], Meta(max_length=64)] = {}
    """What became of samples that were to be redacted or sealed since then, by code;
    ``redaction.done`` is success."""
    waits_boot: Count = 0
    """With `waits_seq`: the oldest message that waits for its `Ack`, or this one where none does.
    What is older and has never come is lost. 0: not said."""
    waits_seq: Count = 0
    dropped: Count = 0
    """Messages that the spool's budget has cost since the agent was started."""


class InferenceWindow(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """Counts of one slot over one window of time, never rows, always of one model digest.

    Histograms use the edges of `edgectl_protocol.histograms`.
    """

    slot: ModelName
    version: Version
    manifest: Digest
    start: Time
    end: Time
    requests: Count
    errors: Count = 0
    non_finite: Count = 0
    """Requests with a NaN or an infinity among the outputs."""
    refused: Count = 0
    """Requests outside the model's contract, which are not among `requests`: the caller's fault."""
    latency: Annotated[tuple[Count, ...], Meta(max_length=64)] = ()
    confidence: Annotated[tuple[Count, ...], Meta(max_length=64)] = ()
    classes: Annotated[tuple[Count, ...], Meta(max_length=1024)] = ()
    """Predictions by class index."""


class TelemetryBatch(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """``up/telemetry``: delivered until acknowledged, stored once."""

    device: DeviceId
    boot: Count
    seq: Count
    windows: Annotated[tuple[InferenceWindow, ...], Meta(max_length=256)] = ()
    system: SystemSample | None = None
    features: FeatureWindow | None = None
    """One at most, so that a batch stays within `REPORT_BYTES_MAX`."""


class SeedRequest(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """``up/seed``: these chunks do not come; chunk -1 is the chunk index."""

    device: DeviceId
    blob: Digest
    chunks: Annotated[tuple[Annotated[int, Meta(ge=-1, le=2**20)], ...], Meta(max_length=64)]
    refused: Annotated[tuple[Annotated[int, Meta(ge=-1, le=2**20)], ...], Meta(max_length=64)] = ()
    """Those of `chunks` that did come, with content other than the signed one."""


Report = (
    ReportedState
    | DeviceEvent
    | SecurityEvent
    | BenchmarkReport
    | TelemetryBatch
    | SeedRequest
    | UploadOffer
    | OutcomeReport
    | LogLines
)
"""What a device says."""

PAYLOAD_TYPES: dict[type[Report], str] = {
    ReportedState: "application/vnd.edgectl.state.v1+json",
    DeviceEvent: "application/vnd.edgectl.event.v1+json",
    SecurityEvent: "application/vnd.edgectl.security-event.v1+json",
    BenchmarkReport: "application/vnd.edgectl.benchmark.v1+json",
    TelemetryBatch: "application/vnd.edgectl.telemetry.v1+json",
    SeedRequest: "application/vnd.edgectl.seed.v1+json",
    UploadOffer: "application/vnd.edgectl.upload.v1+json",
    OutcomeReport: OUTCOME_PAYLOAD_TYPE,
    LogLines: LINES_PAYLOAD_TYPE,
}
"""What the signature says that the payload is: no message passes for one of another kind."""

T = TypeVar("T", bound=Struct)


def encode(message: Struct) -> bytes:
    """Return the message as it goes on the wire."""
    return msgspec.json.encode(message)


def decode(kind: type[T], payload: bytes | bytearray | memoryview) -> T:
    """Decode a message that came from outside.

    Raises:
        LimitExceeded: the payload is longer than `MESSAGE_BYTES_MAX`.
        MalformedMessage: it is no JSON, or a field is missing, mistyped or out of bounds.
    """
    if len(payload) > MESSAGE_BYTES_MAX:
        raise LimitExceeded(f"{kind.__name__} of {len(payload)} bytes, at most {MESSAGE_BYTES_MAX}")
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"not a {kind.__name__}") from error
