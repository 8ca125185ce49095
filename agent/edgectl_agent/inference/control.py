"""What supervisor and inference process say to each other, on an inherited socket pair.

JSON lines of at most `LINE_BYTES_MAX`. Every command has exactly one reply, in order. The first
command is `Start`. The end of the stream is the order to stop: the child never outlives the end
that the supervisor holds. No runtime is imported here, because the supervisor imports it.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

from edgectl_agent.bundle import Bundle
from edgectl_agent.core.evidence import Copies, Evidence
from edgectl_agent.inference.options import Options
from edgectl_protocol.names import Digest, ModelName
from edgectl_protocol.samples import SamplePolicy
from edgectl_protocol.watching import WatchPolicy

__all__ = [
    "LINE_BYTES_MAX",
    "RESERVE_BYTES",
    "Accept",
    "Accompany",
    "Command",
    "Exchange",
    "Health",
    "Load",
    "Loaded",
    "Mirror",
    "Mirroring",
    "Release",
    "Reply",
    "Sampled",
    "SlotHealth",
    "Start",
    "Started",
    "Swap",
    "Taken",
    "Tally",
    "Unload",
    "Watched",
    "Window",
    "Windows",
    "decode_command",
    "line",
]

RESERVE_BYTES = 48 * 1024 * 1024
"""Memory that stays free beside two models of one slot, unless a setting says otherwise."""
LINE_BYTES_MAX = 24 * 1024 * 1024
"""Room for the descriptions of bundles for 16 slots (at most 1 MiB each), and for their counts."""


class Start(Struct, frozen=True, kw_only=True, tag="start"):
    """Listen."""

    host: str
    port: int
    socket: str | None
    hub: str = ""
    """Unix socket where applications get models to run themselves; empty for none."""
    hub_group: str = ""
    reserve_bytes: int = RESERVE_BYTES
    """Memory that must stay free beside two models of one slot."""
    options: Options = Options()
    listener: int = -1
    """Descriptor of a socket that listens on host and port already; nobody is accepted on it before
    `Accept`. -1 for none."""


class Accept(Struct, frozen=True, kw_only=True, tag="accept"):
    """Accept who waits on the `listener`: what is to be served at the start is loaded."""


class Load(Struct, frozen=True, kw_only=True, tag="load"):
    """Put bundles into their slots, all at once or none, unless that takes longer than `timeout_s`.

    At most one for each slot.
    """

    bundles: tuple[Bundle, ...]
    timeout_s: float
    hung: tuple[Digest, ...] = ()
    """Manifests that have hung before: they do not compute on the event loop."""


class Unload(Struct, frozen=True, kw_only=True, tag="unload"):
    """Empty a slot."""

    slot: ModelName


class Exchange(Struct, frozen=True, kw_only=True, tag="exchange"):
    """Let the companions of slots serve in place of what does, all at once, without loading.

    Nothing changes where one of them is not there any more (``slot.companion``).
    """

    manifests: dict[ModelName, Digest]


class Accompany(Struct, frozen=True, kw_only=True, tag="accompany"):
    """Load a bundle as the companion of what serves in its slot, and mirror requests to it."""

    bundle: Bundle
    timeout_s: float
    share: float
    """Of the live requests."""
    cpu_max: float
    """What copies may cost, as a share of one processor core."""
    hung: tuple[Digest, ...] = ()


class Mirror(Struct, frozen=True, kw_only=True, tag="mirror"):
    """Mirror requests of a slot to the companion that is there; stop that with a share of 0."""

    slot: ModelName
    share: float
    cpu_max: float


class Release(Struct, frozen=True, kw_only=True, tag="release"):
    """Free the companion of a slot."""

    slot: ModelName


class Health(Struct, frozen=True, kw_only=True, tag="health"):
    """How a slot has fared since what is in it began to serve."""

    slot: ModelName


class Windows(Struct, frozen=True, kw_only=True, tag="windows"):
    """Counts since the last such command."""


class Watched(Struct, frozen=True, kw_only=True, tag="watched"):
    """Return the windows of features that have ended, a list of `FeatureWindow`, and go on so."""

    policy: WatchPolicy


class Sampled(Struct, frozen=True, kw_only=True, tag="sampled"):
    """Return the samples that were taken, a list of `Taken` and perhaps not all, and go on so."""

    policies: dict[ModelName, SamplePolicy]
    """Slots that are not named give none."""


Command = (
    Start
    | Accept
    | Load
    | Exchange
    | Accompany
    | Mirror
    | Release
    | Unload
    | Health
    | Windows
    | Watched
    | Sampled
)


class Started(Struct, frozen=True, kw_only=True):
    """Reply to `Start`."""

    port: int
    grpc_port: int | None = None
    problems: tuple[str, ...] = ()
    """What does not listen, and why, where the rest does; empty where all is well."""


class Swap(Struct, frozen=True, kw_only=True):
    """What it took to put one bundle into its slot; see `edgectl_protocol.messages.SwapReport`."""

    load_ms: float = 0.0
    gap_ms: float = 0.0
    resident: bool = False


class Loaded(Struct, frozen=True, kw_only=True):
    """Reply to `Load`, by slot."""

    swaps: dict[ModelName, Swap]


class Mirroring(Struct, frozen=True, kw_only=True):
    """Reply to `Mirror`: whether requests are copied now."""

    on: bool


class SlotHealth(Evidence, frozen=True, kw_only=True):
    """Reply to `Health`: what serves, and what it can be compared with."""

    before: Evidence | None = None
    """Of what served before; also when it is not in memory any more."""
    companion: str = ""
    """Manifest of what is in memory beside it; empty: nothing is."""
    copies: Copies | None = None
    """What the companion did; None while nothing is mirrored."""
    comparable: bool = False
    """Whether the classes of both mean the same: they have the same labels."""


class Tally(Struct, frozen=True, kw_only=True):
    """Counts of one window; `age_s` is the time since it began.

    `refused` are requests outside the model's contract, which `requests` leaves out.
    """

    age_s: float
    requests: int
    errors: int
    non_finite: int
    refused: int
    latency: tuple[int, ...]
    confidence: tuple[int, ...]
    classes: tuple[int, ...]


class Window(Struct, frozen=True, kw_only=True):
    """One of the reply to `Windows`: whose counts."""

    slot: str
    version: str
    manifest: str
    tally: Tally


class Taken(Struct, frozen=True, kw_only=True):
    """One of the reply to `Sampled`."""

    content: bytes
    """The file, as `edgectl_protocol.samples` says; it tells itself what it is of."""


class Reply(Struct, frozen=True, kw_only=True):
    """Result, or the code and detail of what went wrong."""

    result: Raw = Raw(b"null")
    code: str = ""
    detail: str = ""
    slot: str = ""
    """Whose fault it is, where a command is about several slots."""


_decoder = msgspec.json.Decoder(Command)


def decode_command(content: bytes) -> Command:
    """Decode a command; raise `msgspec.MsgspecError` for anything else."""
    command: Command = _decoder.decode(content)
    return command


def line(message: Struct) -> bytes:
    """Return a message as it travels."""
    return msgspec.json.encode(message) + b"\n"
