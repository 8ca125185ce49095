"""Everything that an operator's own Mosquitto needs, written into one folder.

The same generator as for the private Mosquitto, with the broker's certificate and key of our
authority, a second listener on which this server ends connections, a timer that fetches the
revocation list, and a page that says how to install it all.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from edgectl_server.distribution.bounds import BrokerBounds
from edgectl_server.distribution.door import door_identity
from edgectl_server.distribution.mosquitto_files import (
    NO_ACCESS,
    MosquittoLayout,
    access_rules,
    check_revocation_list,
    configuration,
)
from edgectl_server.errors import Conflict, Refused
from edgectl_server.signing.authority import Authority
from edgectl_server.storage.files import write_durably

__all__ = ["BrokerPlan", "write_broker_config"]

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_PATH = re.compile(r"/[A-Za-z0-9._/-]*")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


@dataclass(frozen=True, kw_only=True)
class BrokerPlan:
    """What the operator has decided.

    Attributes:
        host: name or address by which devices and the server reach the broker.
        port: for devices and the server.
        kick_port: where this server ends connections; 0: nowhere.
        listen: address on which the broker listens.
        directory: where the files will lie on the broker's machine.
        state: where the broker keeps its own state there.
        user: whom it runs as.
        server_url: by which that machine reaches this server.
    """

    host: str
    port: int
    kick_port: int
    listen: str
    directory: str
    state: str
    user: str
    server_url: str
    connections: int


def write_broker_config(
    output: Path, plan: BrokerPlan, authority: Authority, pki: Path, now: datetime, *, force: bool
) -> list[str]:
    """Write the folder `output`; return the names of its files.

    Args:
        output: made if it is not there.
        plan: what goes into the files.
        authority: issues the broker's certificate.
        pki: the folder of the authority; it gets the key of the second listener's only client.
        now: the certificate is good from now on.
        force: replace files that are there. The broker then gets a new key.

    Raises:
        Refused: ``broker.setting``: a value cannot stand in a configuration file.
        Conflict: ``broker.exists``: there are such files.
    """
    _check(plan)
    bounds = BrokerBounds.for_connections(plan.connections)
    files = _text_files(plan, bounds)
    authority_pem = authority.certificate_pem.encode()
    files["authority.pem"] = authority_pem
    files["revoked.pem"] = check_revocation_list(authority.crl_pem(now), authority_pem, now)
    if plan.kick_port:
        files["operator.pem"] = door_identity(pki, now).certificate.read_bytes()
    names = sorted([*files, "broker.pem", "broker.key"])
    there = [name for name in names if (output / name).exists()]
    if there and not force:
        raise Conflict(
            "broker.exists",
            f"{output} holds {', '.join(there)} already",
            hint="choose another folder with --output, or replace them with --force",
        )
    output.mkdir(parents=True, exist_ok=True)
    certificate, key = authority.issue_broker([plan.host], now)
    write_durably(output / "broker.key", key, mode=0o600)
    write_durably(output / "broker.pem", certificate, mode=0o644)
    for name, content in files.items():
        write_durably(output / name, content, mode=0o644)
    return names


def _check(plan: BrokerPlan) -> None:
    def is_address(host: str) -> bool:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    wrong = [
        *(
            f"--{name} {value!r}"
            for name, value in (("host", plan.host), ("listen", plan.listen))
            if not (_HOST.fullmatch(value) or is_address(value))
        ),
        *(
            f"--{name} {value!r}"
            for name, value in (("directory", plan.directory), ("state", plan.state))
            if not _PATH.fullmatch(value)
        ),
    ]
    if not _USER.fullmatch(plan.user):
        wrong.append(f"--user {plan.user!r}")
    if plan.server_url and not (plan.server_url.isascii() and plan.server_url.isprintable()):
        wrong.append(f"--server {plan.server_url!r}")
    if plan.kick_port == plan.port:
        wrong.append(f"--kick-port {plan.kick_port}, which is --port too")
    if wrong:
        raise Refused(
            "broker.setting",
            f"this cannot stand in the broker's files: {'; '.join(wrong)}",
            hint="names and addresses without spaces, absolute paths of plain letters",
        )


def _text_files(plan: BrokerPlan, bounds: BrokerBounds) -> dict[str, bytes]:
    directory = PurePosixPath(plan.directory)
    ending: tuple[str, ...] = ()
    if plan.kick_port:
        ending = (
            f"listener {plan.kick_port} {plan.listen}",
            "max_connections 20",
            "allow_anonymous false",
            f"cafile {directory}/operator.pem",
            f"certfile {directory}/broker.pem",
            f"keyfile {directory}/broker.key",
            "tls_version tlsv1.2",
            "require_certificate true",
            "use_identity_as_username true",
        )
    layout = MosquittoLayout(
        host=plan.listen,
        port=plan.port,
        directory=directory,
        certificate=directory / "broker.pem",
        key=directory / "broker.key",
        authority=directory / "authority.pem",
        state=PurePosixPath(plan.state),
        log="stderr",
        user=plan.user,
        ending=ending,
    )
    texts = {
        "mosquitto.conf": configuration(layout, bounds),
        "access": access_rules(),
        "nothing": NO_ACCESS,
        "edgectl-revocations.service": _service(plan),
        "edgectl-revocations.timer": _TIMER,
        "README.md": _readme(plan, bounds),
    }
    return {name: text.encode() for name, text in texts.items()}


def _refresh_command(plan: BrokerPlan) -> str:
    directory = plan.directory
    return shlex.join([
        "edgectl", "server", "revocations",
        "--server", plan.server_url or "http://SERVER:8080",
        "--authority", f"{directory}/authority.pem",
        "--output", f"{directory}/revoked.pem",
        "--reload", "systemctl kill --signal=HUP mosquitto",
    ])  # fmt: skip


def _service(plan: BrokerPlan) -> str:
    return f"""\
[Unit]
Description=Fetch the list of revoked device certificates
After=network-online.target

[Service]
Type=oneshot
ExecStart=/usr/bin/env {_refresh_command(plan)}
"""


_TIMER = """\
[Unit]
Description=Every 20 seconds: fetch the list of revoked device certificates

[Timer]
OnBootSec=10
OnUnitInactiveSec=20
AccuracySec=1

[Install]
WantedBy=timers.target
"""


def _readme(plan: BrokerPlan, bounds: BrokerBounds) -> str:
    directory, user = plan.directory, plan.user
    setting = f'broker = "mqtts://{_in_url(plan.host)}:{plan.port}"'
    if plan.kick_port:
        setting += f"\nbroker_kick_port = {plan.kick_port}"
    return f"""\
# Mosquitto for edgectl

Written by `edgectl server broker-config` for Mosquitto 2.0. `broker.key` is secret.

## Install, as root on the broker's machine

```
apt install mosquitto
systemctl stop mosquitto
mkdir -p {directory} {plan.state}
cp * {directory}/
chown {user} {directory}/broker.key {plan.state}
chmod 600 {directory}/broker.key
cp {directory}/mosquitto.conf /etc/mosquitto/mosquitto.conf
cp {directory}/edgectl-revocations.* /etc/systemd/system/
systemctl daemon-reload
systemctl start mosquitto
systemctl enable --now edgectl-revocations.timer
```

`{user}` reads `broker.key` again at each reload, so the key has to belong to it. Each connection is
an open file: give the service `LimitNOFILE={bounds.connections_max + 256}` or more.

Then, in the settings of the edgectl server:

```
{setting}
```

Only the edgectl server uses port {plan.kick_port or "(none was set up)"}, to end connections of
revoked devices; nobody else's certificate opens it. A firewall should let only that machine reach
it, and hold each address to a few connections on port {plan.port}.

## Revoked devices

The timer fetches the revocation list from the server every 20 seconds, checks that it is signed,
valid and not older than the one that is there, and has Mosquitto read it (SIGHUP) when it has
changed:

```
{_refresh_command(plan)}
```

Never write `revoked.pem` by other means: Mosquitto reads an empty or damaged list without a
complaint, and then lets revoked devices in. The edgectl server tries a revoked certificate of its
own against this broker after each revocation and from time to time. It says in its log, and where
it shows alerts, when that is let in for more than a minute.

## The certificate

`broker.pem` is good for a year. Make a new one with `edgectl server broker-config --force` and the
same options, copy `broker.pem` and `broker.key` here, `systemctl kill --signal=HUP mosquitto`.
Connections stay; new ones see the new certificate.

## Bounds, and what each costs

| setting | value | too low | too high |
|---|---|---|---|
| `max_connections` | {bounds.connections_max} | devices are turned away; whoever reaches the port can use them up, certificate or not | memory: 30 to 100 KB each; open files |
| `max_packet_size` | {bounds.packet_bytes_max} | chunks of models (64 KiB) and metadata do not pass | memory of one message, for each client |
| `max_inflight_messages` | {bounds.in_flight_max} | long lines are not filled | a hundred clients that do not read cost a gigabyte at 200 |
| `max_queued_messages` | {bounds.queue_messages_max} | the server misses devices' states when it connects, without a word | memory for devices that are away |
| `max_queued_bytes` | {bounds.queue_bytes_max} | the same | the same |
| `max_keepalive` | {bounds.keep_alive_s_max} s | traffic | a device that vanished is missed late: after one and a half times this |
| `persistent_client_expiration` | {bounds.session_days_max} d | devices that come back ask again for what they missed | memory and disk for devices that never come back |
"""  # noqa: E501 - rows of a table


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
