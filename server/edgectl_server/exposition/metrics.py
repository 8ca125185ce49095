"""Figures as Prometheus takes them.

Rules: what the database knows is read at most every `FRESH_S`, whoever and however many ask; when
it does not answer, what this process knows is told all the same. Several servers on one database
tell the same of it: rules and dashboards take the maximum over servers, not the sum. What begins
with ``edgectl_intake`` and ``edgectl_broker`` is of one server.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import edgectl_protocol
from edgectl_server.exposition.catalogue import CATALOGUE, Reading
from edgectl_server.exposition.reading import read_figures
from edgectl_server.storage.database import Database

__all__ = ["FRESH_S", "Live", "Metrics"]

logger = logging.getLogger(__name__)

FRESH_S = 5.0
_REASONS_MAX = 64


@dataclass(frozen=True)
class Live:
    """What this process knows.

    Attributes:
        connected: to the broker.
        refused: messages that the broker has refused.
        to_broker: messages that wait for the broker.
        received: messages of devices.
        dropped: of them, by reason.
        to_take_in: messages that wait to be taken in.
    """

    connected: Callable[[], bool]
    refused: Callable[[], int]
    to_broker: Callable[[], int]
    received: Callable[[], int]
    dropped: Callable[[], Mapping[str, int]]
    to_take_in: Callable[[], int]


class Metrics(Collector):
    """The figures. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        live: Live,
        overdue_s: float,
        now: Callable[[], datetime],
        fresh_s: float = FRESH_S,
    ) -> None:
        """Take what it needs.

        Args:
            database: that is asked.
            live: what this process knows.
            overdue_s: who is offline for longer is overdue.
            now: the clock.
            fresh_s: for so long an answer of the database is told again.
        """
        self._database = database
        self._live = live
        self._overdue = timedelta(seconds=overdue_s)
        self._now = now
        self._fresh_s = fresh_s
        self._lock = threading.Lock()
        self._known: Reading = {}
        self._until = float("-inf")
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return the figures and their media type.

        Args:
            accept: the header ``Accept`` of who asks: OpenMetrics or Prometheus's text.
        """
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind

    def collect(self) -> Iterable[Metric]:
        """Yield every metric; for the registry."""
        known = {**self._stored(), **self._of_process()}
        queues = {**known.get("edgectl_queue_depth", {}), **self._queues()}
        known["edgectl_queue_depth"] = queues
        for name, family in CATALOGUE.items():
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = kind(name, family.help, labels=family.labels)
            for labels, value in known.get(name, {}).items():
                metric.add_metric(list(labels), value)
            yield metric

    def _stored(self) -> Reading:
        with self._lock:  # who asks meanwhile waits for the answer that is on its way
            if time.monotonic() >= self._until:
                self._known = self._read()
                self._until = time.monotonic() + self._fresh_s
            return self._known

    def _read(self) -> Reading:
        now = self._now()
        try:
            with self._database.read() as session:
                figures = read_figures(session, now, now - self._overdue)
        except Exception:  # whatever it is, the rest can be told
            logger.exception("the database does not answer for metrics")
            return {"edgectl_database_up": {(): 0.0}}
        return {**figures, "edgectl_database_up": {(): 1.0}}

    def _of_process(self) -> Reading:
        live = self._live
        reasons = sorted(live.dropped().items(), key=lambda one: (-one[1], one[0]))
        return {
            "edgectl_build_info": {(edgectl_protocol.__version__,): 1.0},
            "edgectl_broker_connected": {(): float(live.connected())},
            "edgectl_broker_refused_total": {(): float(live.refused())},
            "edgectl_intake_messages_total": {(): float(live.received())},
            "edgectl_intake_dropped_total": {
                (reason,): float(count) for reason, count in reasons[:_REASONS_MAX]
            },
        }

    def _queues(self) -> Mapping[tuple[str, ...], float]:
        return {
            ("broker",): float(self._live.to_broker()),
            ("intake",): float(self._live.to_take_in()),
        }
