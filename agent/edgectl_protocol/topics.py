"""MQTT topics, and who may publish or subscribe to which.

Topics are exact and hold no dot (some brokers map dots to levels). The access rules are data, so
that the embedded broker, the generated Mosquitto configuration and the tests all read the same
table::

    edgectl/v1/meta/head                  retained   newest root version, an unsigned hint
    edgectl/v1/meta/timestamp             retained   TUF timestamp
    edgectl/v1/meta/<role>/<version>      retained   TUF root, snapshot, targets, delegated roles
    edgectl/v1/blob/<sha256>/<n>          retained   one chunk, raw bytes
    edgectl/v1/blob/<sha256>/index        retained   32-byte digest of each chunk
    edgectl/v1/d/<device>/down/order      retained   signed order (DSSE)
    edgectl/v1/d/<device>/down/ack                   application acknowledgement
    edgectl/v1/d/<device>/down/cmd                   signed request (DSSE): measure bundles, offer
                                                     logs
    edgectl/v1/d/<device>/down/want                  chunks of an upload that the server wants
    edgectl/v1/d/<device>/down/alert                 alerts, for a device that a route names
    edgectl/v1/d/<device>/up/state        retained   reported state; also the last will
    edgectl/v1/d/<device>/up/telemetry               batches
    edgectl/v1/d/<device>/up/event                   update transitions, security events, and what
                                                     came of requests; offers of uploads
    edgectl/v1/d/<device>/up/seed                    chunks that the broker no longer has
    edgectl/v1/d/<device>/up/chunk                   one chunk of an upload, header and raw bytes
    edgectl/v1/alerts                                alerts, for clients of the operator's own;
                                                     no device may read them
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

from edgectl_protocol import PROTOCOL
from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.names import check_device_id, check_metadata_role, hex_of

__all__ = [
    "ACCESS",
    "SERVER_SUBSCRIPTIONS",
    "AccessRule",
    "UpKind",
    "UpTopic",
    "ack",
    "alerts",
    "allowed",
    "chunk",
    "chunk_index",
    "command",
    "device_alert",
    "event",
    "head",
    "matches",
    "metadata",
    "order",
    "parse_up",
    "seed",
    "state",
    "telemetry",
    "upload_chunk",
    "wanted",
]

UpKind = Literal["state", "telemetry", "event", "seed", "chunk"]


def head() -> str:
    """Topic of the hint that names the newest root version."""
    return f"{PROTOCOL}/meta/head"


def metadata(role: str, version: int | None) -> str:
    """Topic of a TUF metadata file.

    Args:
        role: ``root``, ``timestamp``, ``snapshot``, ``targets``, ``models``, a bin (``bin-00`` to
            ``bin-3f``) or a model family.
        version: the file's version; None for ``timestamp``, which has only a newest one.
    """
    if (version is None) != (role == "timestamp"):
        raise MalformedMessage(f"{role[:80]!r} with version {version} is not signed metadata")
    return f"{PROTOCOL}/meta/{check_metadata_role(role)}" + (
        "" if version is None else f"/{version}"
    )


def chunk(digest: str, number: int) -> str:
    """Topic of chunk `number` (from 0) of the blob with content address `digest`."""
    return f"{PROTOCOL}/blob/{hex_of(digest)}/{number}"


def chunk_index(digest: str) -> str:
    """Topic of the chunk index of the blob with content address `digest`."""
    return f"{PROTOCOL}/blob/{hex_of(digest)}/index"


def order(device: str) -> str:
    """Topic of the order for `device`."""
    return f"{PROTOCOL}/d/{check_device_id(device)}/down/order"


def ack(device: str) -> str:
    """Topic of the acknowledgements for `device`."""
    return f"{PROTOCOL}/d/{check_device_id(device)}/down/ack"


def command(device: str) -> str:
    """Topic of the requests to `device`; not retained: who is away gets none."""
    return f"{PROTOCOL}/d/{check_device_id(device)}/down/cmd"


def wanted(device: str) -> str:
    """Topic on which `device` is told what of its uploads is wanted; not retained."""
    return f"{PROTOCOL}/d/{check_device_id(device)}/down/want"


def alerts() -> str:
    """Topic of alerts; not retained: what has ended must not look like news."""
    return f"{PROTOCOL}/alerts"


def device_alert(device: str) -> str:
    """Topic of the alerts that `device` is told, such as a signal lamp; not retained."""
    return f"{PROTOCOL}/d/{check_device_id(device)}/down/alert"


def state(device: str) -> str:
    """Topic of the reported state of `device`."""
    return f"{PROTOCOL}/d/{check_device_id(device)}/up/state"


def telemetry(device: str) -> str:
    """Topic of the telemetry of `device`."""
    return f"{PROTOCOL}/d/{check_device_id(device)}/up/telemetry"


def event(device: str) -> str:
    """Topic of the events of `device`."""
    return f"{PROTOCOL}/d/{check_device_id(device)}/up/event"


def seed(device: str) -> str:
    """Topic on which `device` asks for chunks that the broker does not hold."""
    return f"{PROTOCOL}/d/{check_device_id(device)}/up/seed"


def upload_chunk(device: str) -> str:
    """Topic on which `device` sends the chunks of its uploads that are wanted."""
    return f"{PROTOCOL}/d/{check_device_id(device)}/up/chunk"


class UpTopic(NamedTuple):
    """A topic that a device publishes on."""

    device: str
    kind: UpKind


_UP_KINDS: tuple[UpKind, ...] = get_args(UpKind)
_UP = re.compile(rf"{PROTOCOL}/d/([A-Za-z0-9_-]{{1,64}})/up/({'|'.join(_UP_KINDS)})")

SERVER_SUBSCRIPTIONS: tuple[str, ...] = tuple(f"{PROTOCOL}/d/+/up/{kind}" for kind in _UP_KINDS)
"""What the server subscribes to."""


def parse_up(topic: str) -> UpTopic:
    """Split a topic on which a device has published; raise `MalformedMessage` for any other."""
    match = _UP.fullmatch(topic)
    if match is None:
        raise MalformedMessage(f"{topic[:200]!r} is not a topic that devices publish on")
    kind: UpKind = match[2]  # type: ignore[assignment]  # the expression admits only these
    return UpTopic(check_device_id(match[1]), kind)


class AccessRule(NamedTuple):
    """`who` may do `action` on what `pattern` covers; ``%u`` stands for the certificate's name."""

    who: Literal["server", "device"]
    action: Literal["publish", "subscribe"]
    pattern: str


ACCESS: tuple[AccessRule, ...] = (
    AccessRule("server", "publish", f"{PROTOCOL}/meta/#"),
    AccessRule("server", "publish", f"{PROTOCOL}/blob/#"),
    AccessRule("server", "publish", f"{PROTOCOL}/d/+/down/#"),
    AccessRule("server", "publish", f"{PROTOCOL}/alerts"),
    AccessRule("server", "subscribe", f"{PROTOCOL}/#"),
    AccessRule("device", "subscribe", f"{PROTOCOL}/meta/#"),
    AccessRule("device", "subscribe", f"{PROTOCOL}/blob/#"),
    AccessRule("device", "subscribe", f"{PROTOCOL}/d/%u/down/#"),
    *(AccessRule("device", "publish", f"{PROTOCOL}/d/%u/up/{kind}") for kind in _UP_KINDS),
)
"""Everything that is allowed; what no rule covers is refused.

Devices publish on exact topics: below a wildcard, one device could retain messages under as many
names as it likes, until the broker's memory is full.
"""


def matches(pattern: str, topic: str) -> bool:
    """Say whether the topic filter `pattern` covers `topic`, itself a topic or a topic filter.

    A filter is covered when every topic that it can match is covered: ``a/#`` covers ``a/+/b``,
    ``a/+`` does not cover ``a/#``. As in MQTT 5 §4.7.2, a leading wildcard does not cover topics
    that begin with ``$``.
    """
    wanted, got = pattern.split("/"), topic.split("/")
    if got[0].startswith("$") and wanted[0] in {"+", "#"}:
        return False
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position >= len(got):
            return False
        if got[position] == "#" or (level != "+" and level != got[position]):
            return False
    return len(wanted) == len(got)


def allowed(name: str, action: Literal["publish", "subscribe"], topic: str) -> bool:
    """Say whether the holder of the certificate `name` may do `action` on `topic`.

    Args:
        name: the certificate's common name: ``server`` or a device's name.
        action: publish to a topic, or subscribe to a topic filter.
        topic: the topic or filter as the client sent it.
    """
    who = "server" if name == "server" else "device"
    return any(
        matches(rule.pattern.replace("%u", name), topic)
        for rule in ACCESS
        if rule.who == who and rule.action == action
    )
