"""What the broker holds for devices: signed metadata, and the chunks of what is being rolled out.

Rules:

1. The broker does the fan-out: each chunk is published once, retained, whatever the fleet's size.
2. What is on the broker is written down (`Retained`) before it is published, and struck out after
   it was cleared. So nothing is forgotten there, whenever the server stops; and whatever is written
   down and not wanted any more is cleared, also what an earlier run has left behind.
3. Wanted are the deltas to the versions of unfinished rollouts, manifest and layers of all their
   variants, and those that benchmarks measure. A device
   that comes late asks for what it lacks (`seed`): then its blob is retained for a while.
4. The budget is `BUDGET_BYTES`, because a broker that saves its state stands still meanwhile.
   Message expiry frees nothing and is not used.
5. A blob is read in pieces; none is ever whole in memory.
6. Metadata: what is referred to is published before what refers to it, ``meta/head`` last.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from edgectl_protocol import topics
from edgectl_protocol.chunks import CHUNK_BYTES, chunk_count, make_index
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import decode_manifest, offered_layers
from edgectl_protocol.messages import MetadataHead, SeedRequest, encode
from edgectl_server.delta_rows import deltas_of
from edgectl_server.distribution.link import BrokerLink
from edgectl_server.errors import NotFound, Unavailable
from edgectl_server.measurements import benchmark_jobs
from edgectl_server.signing.repository import Repository
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import BundleVariant, DesiredSlot, Retained, Rollout

__all__ = ["BUDGET_BYTES", "Publisher"]

logger = logging.getLogger(__name__)

BUDGET_BYTES = 200 * 1000**2
SEED_KEPT = timedelta(hours=1)
SEED_INTERVAL = timedelta(seconds=5)
"""A device's requests for one blob are answered no more often."""
_SEEDS_MAX = 256
_SEEDS_OF_DEVICE_MAX = 8
"""A device fetches one blob at a time; what one asks for must not push out what others do."""
_SEED_TIMES_MAX = 4096
_MANIFESTS_MAX = 1024
_FLUSH_S = 30.0
_CHUNK_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class _BlobRef:
    digest: str
    size: int


class _Stopped(Exception):
    """The publisher is closing."""


class Publisher:
    """Keeps the broker's retained content right. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        blobs: BlobStore,
        repository: Repository,
        link: BrokerLink,
        now: Callable[[], datetime],
        budget_bytes: int = BUDGET_BYTES,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._repository = repository
        self._link = link
        self._now = now
        self._budget_bytes = budget_bytes
        self._lock = threading.Lock()  # one at a time changes what the broker holds
        self._closing = False
        self._metadata_is_there = False
        self._over_budget: frozenset[str] = frozenset()
        self._manifests: OrderedDict[str, tuple[_BlobRef, ...]] = OrderedDict()
        self._seed_lock = threading.Lock()
        self._seeds: OrderedDict[tuple[str, str], SeedRequest] = OrderedDict()
        self._seed_times: OrderedDict[tuple[str, str], datetime] = OrderedDict()

    def close(self) -> None:
        """Stop in the middle, if need be; the next start goes on."""
        self._closing = True

    def forget(self) -> None:
        """The broker has forgotten what it held: all of it must be published again."""
        with self._lock, self._database.write() as session:
            session.execute(update(Retained).values(complete=False))
            self._metadata_is_there = False

    # ------------------------------------------------------------ metadata

    def publish_metadata(self) -> bool:
        """Bring the signed metadata to the broker; False when it is not there yet.

        It is not an error when the broker is away: `reconcile` does it when it is back.
        """
        with self._lock:
            self._metadata_is_there = False
            if not self._link.connected:
                return False
            try:
                self._metadata_is_there = self._publish_metadata()
            except Unavailable as error:
                logger.warning("the signed metadata waits for the broker: %s", error.detail)
            return self._metadata_is_there

    def _publish_metadata(self) -> bool:
        files = self._repository.metadata()
        head = encode(MetadataHead(root=self._repository.root_version))
        wanted = {f"{role}/{version}": content for role, version, content in files if version}
        with self._database.read() as session:
            rows = {row.key: row for row in _retained(session, "metadata")}
        for key, content in wanted.items():
            if key not in rows:
                self._note(key, "metadata", len(content))
        for key, content in wanted.items():
            if key not in rows or not rows[key].complete:
                self._link.publish(_metadata_topic(key), content, retain=True)
        timestamp = next(content for role, _, content in files if role == "timestamp")
        self._link.publish(topics.metadata("timestamp", None), timestamp, retain=True)
        self._link.publish(topics.head(), head, retain=True)
        if not self._link.flush(_FLUSH_S):
            return False
        with self._database.write() as session:
            session.execute(
                update(Retained)
                .where(Retained.kind == "metadata", Retained.key.in_(list(wanted)))
                .values(complete=True)
            )
        for key in rows.keys() - wanted.keys():
            self._link.publish(_metadata_topic(key), b"", retain=True)
            self._strike_out(key)
        return True

    # ------------------------------------------------------------ blobs

    def reconcile(self) -> None:
        """Publish what is wanted and missing, clear what is not wanted, answer seed requests."""
        if self._closing or not self._link.connected:
            return
        if not self._metadata_is_there:
            self.publish_metadata()
        with self._lock:
            try:
                self._reconcile()
                self._answer_seeds()
            except _Stopped:
                pass
            except Unavailable as error:
                logger.warning("publishing waits for the broker: %s", error.detail)

    def _reconcile(self) -> None:
        now = self._now()
        with self._database.read() as session:
            wanted = self._wanted(session)
            rows = {row.key: row for row in _retained(session, "blob")}
        room = self._budget_bytes
        for row in rows.values():
            if row.key in wanted:
                continue
            if row.until is None or row.until <= now:
                self._clear(row)
            else:
                room -= row.size
        over = set()
        for ref in wanted.values():
            room -= ref.size
            if room < 0:
                over.add(ref.digest)
                continue
            held = rows.get(ref.digest)
            if held is None or not held.complete:
                self._publish_blob(ref, until=None)
        self._report_over_budget(frozenset(over))

    def _wanted(self, session: Session) -> dict[str, _BlobRef]:
        """Return the blobs of unfinished rollouts, of older rollouts first."""
        variants = session.scalars(
            select(BundleVariant)
            .join(Rollout, Rollout.version_id == BundleVariant.version_id)
            .where(Rollout.state.in_(["running", "paused"]))
            .order_by(Rollout.created_at, BundleVariant.rank, BundleVariant.id)
        ).all()
        measured = _benchmarked(session)
        deltas = _deltas(session, {one.version_id for one in variants})
        bundles = {ref.digest: ref for one in [*variants, *measured] for ref in self._bundle(one)}
        return {ref.digest: ref for ref in deltas} | bundles

    def _bundle(self, variant: BundleVariant) -> tuple[_BlobRef, ...]:
        """Return the manifest and the layers that devices fetch, of whatever age they are."""
        known = self._manifests.get(variant.manifest)
        if known is not None:
            return known
        try:
            manifest = decode_manifest(self._blobs.read(variant.manifest))
        except (NotFound, ProtocolError):
            logger.exception("the bundle %s cannot be published", variant.target)
            return ()
        refs = (
            _BlobRef(variant.manifest, variant.manifest_size),
            *(_BlobRef(layer.digest, layer.size) for layer in offered_layers(manifest)),
        )
        self._manifests[variant.manifest] = refs
        if len(self._manifests) > _MANIFESTS_MAX:
            self._manifests.popitem(last=False)
        return refs

    def _publish_blob(self, ref: _BlobRef, *, until: datetime | None) -> None:
        self._note(ref.digest, "blob", ref.size, until=until)
        digests = bytearray()
        number = 0
        try:
            for chunk in self._blobs.stream(ref.digest, CHUNK_BYTES):
                self._publish_bulk(topics.chunk(ref.digest, number), chunk)
                digests += make_index([chunk])
                number += 1
        except NotFound as error:
            logger.error("cannot publish %s: %s", ref.digest, error.detail)  # noqa: TRY400
            return
        if number > 1:
            self._publish_bulk(topics.chunk_index(ref.digest), bytes(digests))
        if self._link.flush(_FLUSH_S):
            with self._database.write() as session:
                row = session.get(Retained, ref.digest)
                if row is not None:
                    row.complete = True
            logger.info("published %s: %d bytes in %d chunks", ref.digest, ref.size, number)

    def _clear(self, row: Retained) -> None:
        for number in range(chunk_count(row.size)):
            self._publish_bulk(topics.chunk(row.key, number), b"")
        self._publish_bulk(topics.chunk_index(row.key), b"")
        if self._link.flush(_FLUSH_S):
            self._strike_out(row.key)
            logger.info("cleared %s from the broker", row.key)

    def _publish_bulk(self, topic: str, payload: bytes) -> None:
        if self._closing:
            raise _Stopped
        self._link.publish(topic, payload, retain=True, bulk=True, timeout_s=_CHUNK_TIMEOUT_S)

    def _report_over_budget(self, over: frozenset[str]) -> None:
        if over - self._over_budget:
            logger.error(
                "%d blobs of running rollouts do not fit into the broker's budget of %d bytes; "
                "they are published when others are done",
                len(over),
                self._budget_bytes,
            )
        self._over_budget = over

    # ------------------------------------------------------------ devices that lack something

    def seed(self, request: SeedRequest) -> None:
        """Note that a device lacks chunks; `reconcile` answers. Returns at once."""
        key = (request.device, request.blob)
        if request.refused:
            logger.warning(
                "security: %s got chunks of %s from the broker that are not the signed ones: %s",
                request.device,
                request.blob,
                request.refused[:8],
            )
        with self._seed_lock:
            last = self._seed_times.get(key)
            if last is not None and timedelta(0) <= self._now() - last < SEED_INTERVAL:
                return
            if sum(device == request.device for device, _ in self._seeds) >= _SEEDS_OF_DEVICE_MAX:
                return
            self._seed_times[key] = self._now()
            self._seed_times.move_to_end(key)
            while len(self._seed_times) > _SEED_TIMES_MAX:
                self._seed_times.popitem(last=False)
            self._seeds[key] = request
            while len(self._seeds) > _SEEDS_MAX:
                self._seeds.popitem(last=False)

    def _answer_seeds(self) -> None:
        while not self._closing:
            with self._seed_lock:
                if not self._seeds:
                    return
                _, request = self._seeds.popitem(last=False)
            self._answer_seed(request)

    def _answer_seed(self, request: SeedRequest) -> None:
        until = self._now() + SEED_KEPT
        with self._database.read() as session:
            ref = self._desired_by(session, request.device).get(request.blob)
            row = session.get(Retained, request.blob)
            rows = _retained(session, "blob")
        if ref is None:
            logger.warning("%s asks for %s, which it has no use for", request.device, request.blob)
            return
        if row is None or not row.complete:
            others = sum(one.size for one in rows if one.key != ref.digest)
            if others + ref.size > self._budget_bytes:
                logger.warning("no room on the broker for %s", ref.digest)
                return
            self._publish_blob(ref, until=until)
            return
        self._note(ref.digest, "blob", ref.size, until=until)
        count = chunk_count(ref.size)
        for number in request.chunks:
            if number == -1 and count > 1:
                index = make_index(self._blobs.stream(ref.digest, CHUNK_BYTES))
                self._publish_bulk(topics.chunk_index(ref.digest), index)
            elif 0 <= number < count:
                chunk = self._blobs.read(ref.digest, number * CHUNK_BYTES, CHUNK_BYTES)
                self._publish_bulk(topics.chunk(ref.digest, number), chunk)

    def _desired_by(self, session: Session, device: str) -> dict[str, _BlobRef]:
        variants = session.scalars(
            select(BundleVariant)
            .join(DesiredSlot, DesiredSlot.version_id == BundleVariant.version_id)
            .where(DesiredSlot.device == device)
        ).all()
        measured = _benchmarked(session, device)
        deltas = _deltas(session, {one.version_id for one in variants})
        bundles = {ref.digest: ref for one in [*variants, *measured] for ref in self._bundle(one)}
        return {ref.digest: ref for ref in deltas} | bundles

    # ------------------------------------------------------------ what is written down

    def _note(self, key: str, kind: str, size: int, *, until: datetime | None = None) -> None:
        with self._database.write() as session:
            row = session.get(Retained, key)
            if row is None:
                row = Retained(key=key, kind=kind, size=size, complete=False, until=None)
                row.created_at = self._now()
                session.add(row)
            if until is not None:
                row.until = until

    def _strike_out(self, key: str) -> None:
        with self._database.write() as session:
            row = session.get(Retained, key)
            if row is not None:
                session.delete(row)


def _retained(session: Session, kind: str) -> list[Retained]:
    wanted: Iterable[Retained] = session.scalars(
        select(Retained).where(Retained.kind == kind).order_by(Retained.created_at, Retained.key)
    )
    return list(wanted)


def _benchmarked(session: Session, device: str | None = None) -> Sequence[BundleVariant]:
    """Return what is measured now, on one device or on any."""
    jobs = benchmark_jobs(session, device)
    manifests = {manifest for job in jobs for manifest in job.payload["manifests"]}
    if not manifests:
        return ()
    wanted = select(BundleVariant).where(BundleVariant.manifest.in_(manifests))
    return session.scalars(wanted.order_by(BundleVariant.id)).all()


def _deltas(session: Session, version_ids: Collection[int]) -> list[_BlobRef]:
    """Return the deltas that lead to versions."""
    return [_BlobRef(one.digest, one.bytes) for one in deltas_of(session, version_ids)]


def _metadata_topic(key: str) -> str:
    role, _, version = key.partition("/")
    return topics.metadata(role, int(version))
