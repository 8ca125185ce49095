"""Every limit of the broker in one frozen value.

Nothing in the broker grows without one of these numbers. The defaults fit some hundreds of devices
on one machine; beyond that a broker built for it (Mosquitto, EMQX) is the right choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["BrokerSettings", "TlsFiles"]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: our certificate chain, its key, and the authority of the clients' certificates."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """Address, files and limits.

    Without `tls` the broker listens on a loopback address only and believes the user name that a
    client claims: for tests of the protocol, never for devices.
    """

    state: Path
    """Folder of the state on disk; created with mode 0700."""
    tls: TlsFiles | None
    host: str = "127.0.0.1"
    port: int = 8883
    """0 takes any free port."""

    privileged: frozenset[str] = frozenset({"server"})
    """Certificate names that may hold several client ids (beginning with the name) and are not
    held to the per-client quota of retained messages."""

    connections_max: int = 1000
    connections_per_name_max: int = 8
    handshakes_max: int = 128
    """Connections that have not shown a certificate yet; the rest waits in the kernel's queue."""
    connect_timeout_s: float = 5.0
    """From the accepted connection to its CONNECT; also the time limit of the TLS handshake."""
    close_timeout_s: float = 2.0
    """How long a closed connection may take to drain."""
    keep_alive_s_max: int = 300
    """Imposed on clients that ask for more, or for none."""
    tick_s: float = 0.5

    packet_bytes_max: int = 192 * 1024
    topic_bytes_max: int = 512
    topic_levels_max: int = 16
    client_id_bytes_max: int = 128

    subscriptions_per_client_max: int = 64
    filters_per_packet_max: int = 128
    receive_max: int = 64
    """Publications of one client that may await our acknowledgement."""
    in_flight_max: int = 20
    """Publications to one client that may await its acknowledgement."""
    queue_messages_max: int = 2000
    """Publications waiting for one client, online or not; those in flight come on top."""
    queue_bytes_max: int = 16 * 1024 * 1024
    retained_backlog_max: int = 50_000
    """Retained messages still to be sent to one client for its subscriptions (references)."""
    write_buffer_bytes: int = 256 * 1024
    """Publications are not handed to a connection whose buffer holds more. As much again may be in
    the kernel: its buffer is limited too, else it grows to megabytes for a client that is stuck."""
    write_buffer_bytes_max: int = 1024 * 1024
    """A connection that lets acknowledgements pile up beyond this is cut."""

    sessions_max: int = 10_000
    session_expiry_s_max: int = 14 * 24 * 3600
    will_grace_s: float = 30.0
    """After a restart, clients have this long to return before their will is published."""

    retained_messages_max: int = 50_000
    retained_bytes_max: int = 256 * 1024 * 1024
    retained_per_client_messages_max: int = 64
    retained_per_client_bytes_max: int = 1024 * 1024
    state_backlog_bytes_max: int = 32 * 1024 * 1024
    """Publishers are not read from while more than this waits for the disk."""
