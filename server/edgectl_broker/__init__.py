"""A small MQTT 5 broker for one process: demo, tests, sites up to some hundreds of devices.

What it speaks: MQTT 5 over TCP or TLS with client certificates, QoS 0 and 1, retained messages,
wildcards, shared subscriptions, persistent sessions, wills, flow control. What it does not: MQTT
3.1.1 (refused so that the client sees "unacceptable protocol version"), QoS 2, topic aliases,
enhanced authentication, WebSocket, bridging, clustering. Beyond some hundreds of clients run a
broker made for it, such as Mosquitto.

Who may do what is the caller's decision: it passes `authorize` and `is_revoked`.
"""

from edgectl_broker.broker import Broker
from edgectl_broker.errors import BrokerError, CannotListen, StateUnusable
from edgectl_broker.exchange import Authorize
from edgectl_broker.settings import BrokerSettings, TlsFiles
from edgectl_broker.thread import BrokerThread

__all__ = [
    "Authorize",
    "Broker",
    "BrokerError",
    "BrokerSettings",
    "BrokerThread",
    "CannotListen",
    "StateUnusable",
    "TlsFiles",
]
