"""``mqtt://host/topic``: messages on a broker of the site; ``+`` and ``#`` as in MQTT.

Options: ``format``: ``json`` (a row, an array, or a dict of them by input), ``raw`` (the bytes of
the only input, row-major, little-endian), or ``picture``; ``qos`` (0). A message that waits too
long is dropped for newer ones.
"""

from __future__ import annotations

import json
import math
import threading
from typing import Any

import numpy as np
from paho.mqtt import client as mqtt

from edgectl_agent.flows.addresses import Address
from edgectl_agent.flows.images import check_pillow, decode_picture
from edgectl_agent.flows.items import Contract, Deliver, Item, Malformed
from edgectl_agent.flows.local_broker import Broker
from edgectl_agent.session import DTYPES, Tensor
from edgectl_protocol.manifest import TensorSpec

__all__ = ["MqttSource"]

PAYLOAD_BYTES_MAX = 16 * 1024 * 1024
_END_S = 5.0


class MqttSource:
    """See the module."""

    newest_wins = True

    def __init__(self, address: Address, contract: Contract) -> None:
        self.broker = Broker(address)
        self._contract = contract
        self._format = address.text_option("format", "json", ("json", "raw", "picture"))
        self._qos = address.number("qos", 0, 0, 1)
        if self._format == "picture":
            check_pillow()
        if not mqtt.topic_matches_sub(self.broker.topic, self.broker.topic.replace("#", "x")):
            raise address.refused(f"{self.broker.topic!r} is no topic")

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """See `Source.run`."""
        client = self.broker.connect()

        def subscribe(*_: object) -> None:
            client.subscribe(self.broker.topic, self._qos)

        def take(_client: object, _data: object, message: mqtt.MQTTMessage) -> None:
            deliver(self._item(message))

        client.on_connect = subscribe
        client.on_message = take
        client.loop_start()
        try:
            stop.wait()
        finally:
            client.disconnect()
            client.loop_stop()

    def _item(self, message: mqtt.MQTTMessage) -> Item:
        try:
            given: Any = self._given(bytes(message.payload))
        except Malformed as error:
            given = error
        return Item(name=message.topic[:256], given=given)

    def _given(self, payload: bytes) -> Any:
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise Malformed(f"a message of {len(payload)} bytes, at most {PAYLOAD_BYTES_MAX}")
        if self._format == "picture":
            return decode_picture(payload, self._contract())
        if self._format == "raw":
            return _array(payload, self._contract())
        try:
            return json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise Malformed(f"no JSON: {error}") from error


def _array(payload: bytes, inputs: tuple[TensorSpec, ...]) -> Tensor:
    """Return raw bytes as the only input; one free size is what the bytes are enough for."""
    if len(inputs) != 1 or inputs[0].datatype == "BYTES":
        raise Malformed("raw bytes fit a model with one input of numbers")
    spec = inputs[0]
    dtype = DTYPES[spec.datatype].newbyteorder("<")
    fixed = math.prod(size for size in spec.shape if size > 0) * dtype.itemsize
    free = spec.shape.count(-1)
    if free > 1 or not payload or len(payload) % fixed or (not free and len(payload) != fixed):
        raise Malformed(f"{len(payload)} bytes are no {spec.datatype} of {list(spec.shape)}")
    return np.frombuffer(payload, dtype).astype(DTYPES[spec.datatype]).reshape(spec.shape)
