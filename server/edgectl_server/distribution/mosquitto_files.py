"""What Mosquitto is told: configuration, access rules, revocation list.

One generator for the private Mosquitto and for one that somebody else runs
(`edgectl_server.distribution.broker_config`): they differ in where files lie and in who may end
connections. Each setting that is not a matter of taste has its reason beside it; they were measured
with Mosquitto 2.0. The access rules are made of `edgectl_protocol.topics.ACCESS`, the table that
the embedded broker asks as well, the bounds of `BrokerBounds`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePath

from cryptography import x509

from edgectl_protocol import PROTOCOL
from edgectl_protocol.topics import ACCESS
from edgectl_server.distribution.bounds import BrokerBounds
from edgectl_server.errors import Unavailable

__all__ = [
    "NO_ACCESS",
    "MosquittoLayout",
    "access_rules",
    "check_revocation_list",
    "configuration",
]

_LIST_LIFETIME_MIN = timedelta(days=1)
_ACTIONS = {"publish": "write", "subscribe": "read"}
NO_ACCESS = "# No rule: nothing is allowed.\ntopic deny #\n"


@dataclass(frozen=True, kw_only=True)
class MosquittoLayout:
    """Where a Mosquitto listens, and where it finds its files.

    Attributes:
        directory: of ``access``, ``nothing`` and ``revoked.pem``.
        state: folder that it writes its own state into.
        log: the value of ``log_dest``.
        user: whom it becomes when it is started by root; empty: nobody is named.
        ending: lines of the listener that may end connections; without it nobody can.
    """

    host: str
    port: int
    directory: PurePath
    certificate: PurePath
    key: PurePath
    authority: PurePath
    state: PurePath
    log: str
    user: str = ""
    ending: tuple[str, ...] = ()


def access_rules() -> str:
    """Return the ACL file: the server's rules by name, the devices' as patterns.

    Patterns hold for the server too, so what they would add for it is denied by name.
    """
    lines = ["# Made from edgectl_protocol.topics.ACCESS; changes are overwritten.", "user server"]
    lines.append(f"topic deny {PROTOCOL}/d/server/#")
    lines += [
        f"topic {_ACTIONS[rule.action]} {rule.pattern}" for rule in ACCESS if rule.who == "server"
    ]
    lines.append("")
    lines += [
        f"pattern {_ACTIONS[rule.action]} {rule.pattern}" for rule in ACCESS if rule.who == "device"
    ]
    return "\n".join([*lines, ""])


def configuration(layout: MosquittoLayout, bounds: BrokerBounds) -> str:
    """Return the configuration file.

    Raises:
        Unavailable: ``broker.setting``: a value would break out of its line.
    """
    paths = (layout.directory, layout.certificate, layout.key, layout.authority, layout.state)
    values = (layout.host, layout.log, layout.user, *paths, *layout.ending)
    if any(not str(value).isprintable() for value in values) or " " in layout.host + layout.user:
        raise Unavailable(
            "broker.setting",
            "the broker's address or a path of its files holds a line break or control character",
            hint="choose another broker_host or folder",
        )
    return "\n".join([*_global_lines(layout, bounds), *_listener_lines(layout, bounds), ""])


def _global_lines(layout: MosquittoLayout, bounds: BrokerBounds) -> list[str]:
    return [
        "# Made by edgectl; changes are overwritten.",
        "per_listener_settings true",
        *([f"user {layout.user}"] if layout.user else []),
        "",
        "persistence true",
        f"persistence_location {layout.state}/",
        "# A kill -9 loses what came since the last save; the server then publishes it again. The",
        "# save blocks the broker: 100 ms at 100 MB.",
        "autosave_interval 60",
        f"log_dest {layout.log}",
        "log_timestamp_format %Y-%m-%dT%H:%M:%S",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "log_type information",
        "sys_interval 0",
        "",
        "# Bounds: what each costs is in edgectl's docs/brokers.md.",
        *bounds.global_lines(),
        "# Without it, the delayed acknowledgement of TCP costs 40 ms for each retained message.",
        "set_tcp_nodelay true",
        "",
    ]


def _listener_lines(layout: MosquittoLayout, bounds: BrokerBounds) -> list[str]:
    lines = [
        f"listener {layout.port} {layout.host}",
        *bounds.listener_lines(),
        "allow_anonymous false",
        f"acl_file {layout.directory}/access",
        f"cafile {layout.authority}",
        f"certfile {layout.certificate}",
        f"keyfile {layout.key}",
        f"crlfile {layout.directory}/revoked.pem",
        "tls_version tlsv1.2",
        "require_certificate true",
        "use_identity_as_username true",
        "# Else any device could evict any other by taking its client id.",
        "use_username_as_clientid true",
        "max_qos 1",
        "max_topic_alias 0",
        "",
    ]
    if layout.ending:
        lines += [
            "# Only for ending connections by taking their client id over, which the listener",
            "# above does not let anybody do; nothing may be read or written here.",
            *layout.ending,
            f"acl_file {layout.directory}/nothing",
            "",
        ]
    return lines


def check_revocation_list(content: bytes, authority: bytes, now: datetime) -> bytes:
    """Return `content` if Mosquitto may be given it.

    An expired list makes it refuse everybody, an empty or truncated one makes it accept revoked
    certificates, so neither must ever reach its file.

    Raises:
        Unavailable: ``broker.revocations``.
    """
    try:
        revocations = x509.load_pem_x509_crl(content)
        certificate = x509.load_pem_x509_certificate(authority)
        key = certificate.public_key()
        genuine = revocations.is_signature_valid(key)  # type: ignore[arg-type]  # checked inside
    except (ValueError, TypeError) as error:
        raise Unavailable(
            "broker.revocations", "the revocation list cannot be read", hint="restart the server"
        ) from error
    ends = revocations.next_update_utc
    if not genuine or ends is None or ends - now < _LIST_LIFETIME_MIN:
        raise Unavailable(
            "broker.revocations",
            f"the revocation list is not of our authority or ends too soon ({ends})",
            hint="check this machine's clock, then restart the server",
        )
    return content
