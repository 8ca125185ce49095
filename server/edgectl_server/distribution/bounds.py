"""What one broker takes from its clients at most: the same numbers for both of ours.

The embedded broker gets them as fields of its settings, Mosquitto as lines of its configuration.
What a bound costs stands beside it; ``docs/brokers.md`` has the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["BrokerBounds"]

_MESSAGES_OF_AN_UPDATE = 16
"""Seven transitions, each with an event and a state, and some to spare."""
_MESSAGE_BYTES = 2048


@dataclass(frozen=True, kw_only=True)
class BrokerBounds:
    """The bounds that both brokers hold."""

    packet_bytes_max: int = 192 * 1024
    """A chunk of 64 KiB three times over. A longer packet ends its connection."""
    in_flight_max: int = 20
    """Publications to one client that it has not acknowledged. More of them, or QoS 0, and a
    hundred clients that do not read cost a gigabyte; fewer, and long lines are not filled."""
    queue_messages_max: int = 2000
    """Publications that wait for one client, beyond those in flight. What comes on top is lost
    without a word on Mosquitto, so it must hold the retained state of every device, and for the
    server what a whole update of every device says: see `for_connections`."""
    queue_bytes_max: int = 16 * 1024**2
    """The same in bytes. Only the server's queue can grow so far: devices read nothing that others
    write."""
    connections_max: int = 1000
    """Open at once. Mosquitto counts those that have not shown a certificate yet, so that whoever
    reaches the port can use them up: let a firewall hold single addresses to a few."""
    keep_alive_s_max: int = 300
    """A client that asks for more is told this. A device that vanishes is missed after one and a
    half times as long."""
    session_days_max: int = 14
    """A device that stays away longer loses what waits for it, which it asks for again."""

    @classmethod
    def for_connections(cls, connections: int) -> BrokerBounds:
        """Return the bounds for a larger or smaller fleet."""
        queue = max(cls.queue_messages_max, _MESSAGES_OF_AN_UPDATE * connections)
        queue_bytes = max(cls.queue_bytes_max, queue * _MESSAGE_BYTES)
        return cls(
            connections_max=connections, queue_messages_max=queue, queue_bytes_max=queue_bytes
        )

    def broker_settings(self) -> dict[str, Any]:
        """Return the fields of `edgectl_broker.BrokerSettings` that these are."""
        return {
            "packet_bytes_max": self.packet_bytes_max,
            "in_flight_max": self.in_flight_max,
            "queue_messages_max": self.queue_messages_max,
            "queue_bytes_max": self.queue_bytes_max,
            "connections_max": self.connections_max,
            "keep_alive_s_max": self.keep_alive_s_max,
            "session_expiry_s_max": self.session_days_max * 86400,
        }

    def global_lines(self) -> list[str]:
        """Return the lines of mosquitto.conf that hold for every listener."""
        return [
            f"max_packet_size {self.packet_bytes_max}",
            f"max_inflight_messages {self.in_flight_max}",
            f"max_queued_messages {self.queue_messages_max}",
            f"max_queued_bytes {self.queue_bytes_max}",
            f"max_keepalive {self.keep_alive_s_max}",
            f"persistent_client_expiration {self.session_days_max}d",
        ]

    def listener_lines(self) -> list[str]:
        """Return those that stand after the devices' ``listener``."""
        return [f"max_connections {self.connections_max}"]
