"""The files of a private Mosquitto: configuration, access rules, revocation list.

Each setting that is not a matter of taste has its reason beside it; they were measured with
Mosquitto 2.0. The access rules are made of `edgectl_protocol.topics.ACCESS`, the table that the
embedded broker asks as well.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from edgectl_protocol import PROTOCOL
from edgectl_protocol.topics import ACCESS
from edgectl_server.distribution.interface import IdentityFiles
from edgectl_server.errors import Unavailable
from edgectl_server.storage.files import write_durably

__all__ = ["access_rules", "check_revocation_list", "configuration", "write_files"]

_LIST_LIFETIME_MIN = timedelta(days=1)
_ACTIONS = {"publish": "write", "subscribe": "read"}


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


def configuration(
    *, host: str, port: int, identity: IdentityFiles, state: Path, kick_socket: Path
) -> str:
    """Return the configuration file.

    Raises:
        Unavailable: ``broker.setting``: a value would break out of its line.
    """
    values = (host, state, kick_socket, identity.certificate, identity.key, identity.authority)
    if any(not str(value).isprintable() for value in values) or " " in host:
        raise Unavailable(
            "broker.setting",
            "the broker's address or a path of its files holds a line break or control character",
            hint="choose another broker_host or data folder",
        )
    return f"""\
# Made by the server; changes are overwritten.
per_listener_settings true
{"user root" if os.geteuid() == 0 else "# runs as the user that started the server"}

persistence true
persistence_location {state}/
# A kill -9 loses what came since the last save; the server then publishes it again. The save
# blocks the broker: 100 ms at 100 MB.
autosave_interval 60
persistent_client_expiration 14d
log_dest file {state}/mosquitto.log
log_timestamp_format %Y-%m-%dT%H:%M:%S
log_type error
log_type warning
log_type notice
log_type information
sys_interval 0

# Bounds. With more in flight (or QoS 0), a hundred stuck readers cost a gigabyte.
max_inflight_messages 20
max_queued_messages 2000
max_packet_size 196608
message_size_limit 196608
max_keepalive 300
# Without it, the delayed acknowledgement of TCP costs 40 ms for each retained message.
set_tcp_nodelay true

listener {port} {host}
allow_anonymous false
acl_file {state}/access
cafile {identity.authority}
certfile {identity.certificate}
keyfile {identity.key}
crlfile {state}/revoked.pem
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
# Else any device could evict any other by taking its client id.
use_username_as_clientid true
max_qos 1
max_topic_alias 0

# Only for ending connections by taking their client id over; nothing may be read or written here.
# The folder of the socket is closed to other users.
listener 0 {kick_socket}
allow_anonymous true
acl_file {state}/nothing
"""


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


def write_files(state: Path, *, configuration: str, revocations: bytes) -> None:
    """Write all files into the folder `state`."""
    write_durably(state / "mosquitto.conf", configuration.encode())
    write_durably(state / "access", access_rules().encode())
    write_durably(state / "nothing", b"# No rule: nothing is allowed.\ntopic deny #\n")
    write_durably(state / "revoked.pem", revocations)
