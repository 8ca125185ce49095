"""Every source by its scheme."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgectl_agent.flows.addresses import Address, parse_address
from edgectl_agent.flows.camera_source import CameraSource
from edgectl_agent.flows.folder_source import FolderSource
from edgectl_agent.flows.iio_source import IioSource
from edgectl_agent.flows.items import Contract, Source
from edgectl_agent.flows.mqtt_source import MqttSource
from edgectl_agent.flows.serial_source import SerialSource

__all__ = ["SOURCES", "open_source"]

SOURCES: Mapping[str, Callable[[Address, Contract], Source]] = {
    "camera": CameraSource,
    "folder": FolderSource,
    "iio": IioSource,
    "mqtt": MqttSource,
    "mqtts": MqttSource,
    "serial": SerialSource,
}


def open_source(text: str, contract: Contract) -> Source:
    """Return the source of an address; raise `UsageError`, nothing is opened yet."""
    address = parse_address(text)
    make = SOURCES.get(address.scheme)
    if make is None:
        raise address.refused(f"sources are {', '.join(sorted(SOURCES))}")
    source = make(address, contract)
    address.check_known()
    return source
