"""Which requests were taken: each once, by its number, which is on the disk before anything else.

Requests of all kinds share one count. What is written down is `core.requests.RequestRecord`; a
damaged record is no memory, and what it would have refused is refused by its time.
"""

from __future__ import annotations

import logging

import msgspec

from edgectl_agent.core.requests import (
    RequestArrived,
    RequestRecord,
    decode_request_record,
    refuse_request,
)
from edgectl_agent.core.timing import Moment
from edgectl_agent.durable import PRIVATE, Disk
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.messages import BenchmarkRequest, Reason

__all__ = ["RequestLedger"]

_PATH = "requests"
_BYTES_MAX = 256 * 1024
_log = logging.getLogger(__name__)


class RequestLedger:
    """The record of one device; used by the main thread."""

    def __init__(self, device: str, disk: Disk) -> None:
        """Begin with what is on the disk."""
        self._device = device
        self._disk = disk
        self._record = self._load()

    @property
    def pending(self) -> BenchmarkRequest | None:
        """The measurement that is under way; its end has not been told."""
        return self._record.pending

    def refuse(self, arrived: RequestArrived, moment: Moment) -> Reason | None:
        """Say why a request with a good signature is not taken, or None."""
        floor = self._record.counter_floor(arrived.keys)
        return refuse_request(arrived.request, self._device, floor, moment)

    def take(self, arrived: RequestArrived, pending: BenchmarkRequest | None) -> bool:
        """Write down that a request is taken; False where that cannot be, and it must not be."""
        counter = arrived.request.counter
        try:
            self._save(RequestRecord(counter=counter, key=arrived.key, pending=pending))
        except OSError as error:
            _log.warning("a request cannot be written down, and is not taken: %s", error)
            return False
        return True

    def end(self) -> None:
        """Nothing is under way any more."""
        ended = msgspec.structs.replace(self._record, pending=None)
        try:
            self._save(ended)
        except OSError as error:
            _log.warning("the end of a request cannot be written down: %s", error)
            self._record = ended

    def _load(self) -> RequestRecord:
        try:
            return decode_request_record(self._disk.read(_PATH, _BYTES_MAX))
        except FileNotFoundError:
            return RequestRecord()
        except ProtocolError as error:
            _log.error("the record of requests is damaged: %s", error)
            return RequestRecord()

    def _save(self, record: RequestRecord) -> None:
        self._disk.write_atomic(_PATH, msgspec.json.encode(record), PRIVATE)
        self._record = record
