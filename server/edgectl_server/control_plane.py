"""The part of the server that deals with devices, put together in one place.

Order of the start: keys and signed metadata, the authority, the broker, the link to it, and last
what acts by itself. Backwards at the end; what was not finished is in the database and on disk.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from edgectl_protocol.enrolment import BrokerAddress
from edgectl_protocol.watching import WatchPolicy
from edgectl_server.admission import Admission
from edgectl_server.alerts import (
    AUTHORITY_WITHIN,
    OWN_WITHIN,
    Alerts,
    Source,
    certificate_alerts,
    device_alerts,
    ends_in_file,
    list_alerts,
    problem_alerts,
)
from edgectl_server.backup.resumption import read_restored
from edgectl_server.benchmarks import Benchmarks
from edgectl_server.connections import Connections, News
from edgectl_server.contracts import Contracts
from edgectl_server.delta_making import DeltasWanted
from edgectl_server.device_actions import DeviceActions
from edgectl_server.device_logs import LOGS, DeviceLogs
from edgectl_server.device_uploads import DeviceUploads, open_device_uploads
from edgectl_server.distribution.addresses import is_any_address
from edgectl_server.distribution.bounds import BrokerBounds
from edgectl_server.distribution.brokers import ExistingBroker, open_broker
from edgectl_server.distribution.canary import make_canary
from edgectl_server.distribution.certificates import OwnCertificates
from edgectl_server.distribution.door import door_identity
from edgectl_server.distribution.existing import OperatorDoor
from edgectl_server.distribution.interface import RunningBroker
from edgectl_server.distribution.link import BrokerLink
from edgectl_server.distribution.publisher import Publisher
from edgectl_server.distribution.revocation_list import RevocationList
from edgectl_server.enrolment import Enroller
from edgectl_server.features import Features
from edgectl_server.fleet import Fleet
from edgectl_server.ground_truth import GroundTruth
from edgectl_server.intake import Intake
from edgectl_server.log_follows import LogFollows
from edgectl_server.measurements import Measurements
from edgectl_server.ordering import Ordering
from edgectl_server.receipts import Receipts
from edgectl_server.references import References
from edgectl_server.retention import delete_old_events
from edgectl_server.rollouts import Rollouts
from edgectl_server.sample_keys import SampleKeys
from edgectl_server.samples import SAMPLE, SampleLimits, Samples
from edgectl_server.security import SecurityEvents
from edgectl_server.settings import Settings
from edgectl_server.signing.authority import Authority
from edgectl_server.signing.content_keys import ContentKeys
from edgectl_server.signing.keys import Keys, read_passphrase
from edgectl_server.signing.orders import OrderSigner
from edgectl_server.signing.repository import Repository
from edgectl_server.signing.sealed_secrets import SealedSecrets
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.targets import Targets, open_targets
from edgectl_server.telemetry import Telemetry
from edgectl_server.ticker import Duty, Ticker
from edgectl_server.trust import Trust
from edgectl_server.version_signing import VersionSigning

__all__ = ["ControlPlane", "open_control_plane"]

logger = logging.getLogger(__name__)

_CONNECT_S = 10.0
_METADATA_S = 3.0
"""Also how soon a change by `edgectl keys`, on this machine, is noticed."""
_RETENTION_S = 600.0
_ROLL_UP_S = 60.0
_ORDERS_S = 60.0
_ALERTS_S = 300.0
_CERTIFICATES_S = 86400.0
_REVOCATIONS_S = 5.0
_SHUT_OUT_AGAIN = timedelta(hours=1)
_SECURITY_S = 2.0


@dataclass(kw_only=True)
class ControlPlane:
    """Everything that deals with devices; `close` stops it."""

    repository: Repository
    content_keys: ContentKeys
    authority: Authority
    revocations: RevocationList
    broker: RunningBroker
    link: BrokerLink
    publisher: Publisher
    ordering: Ordering
    admission: Admission
    enrolment: Enroller
    fleet: Fleet
    device_actions: DeviceActions
    targets: Targets
    measurements: Measurements
    benchmarks: Benchmarks
    device_logs: DeviceLogs
    log_follows: LogFollows
    device_uploads: DeviceUploads
    sample_keys: SampleKeys
    samples: Samples
    rollouts: Rollouts
    telemetry: Telemetry
    features: Features
    receipts: Receipts
    security: SecurityEvents
    signing: VersionSigning
    alerts: Alerts
    trust: Trust
    intake: Intake
    ticker: Ticker
    stack: ExitStack

    def close(self) -> None:
        """Stop everything, in order. Idempotent."""
        self.stack.close()


def open_control_plane(
    settings: Settings,
    *,
    database: Database,
    blobs: BlobStore,
    now: Callable[[], datetime],
    more_duties: Sequence[Duty] = (),
    deltas: DeltasWanted | None = None,
) -> ControlPlane:
    """Start everything that deals with devices.

    It does not wait for a broker that is away: what must be published waits for it.

    Args:
        settings: of the server.
        database: brought up to date.
        blobs: where bundles lie.
        now: the clock.
        more_duties: what else is to be done regularly.
        deltas: has them made; None: there are none.

    Raises:
        Unavailable: keys, metadata or certificates are damaged, or the broker does not start.
    """
    targets = open_targets(settings.targets_file)
    held = _open_keys(settings, now)
    with ExitStack() as stack:
        revocations = RevocationList(held.authority, now)
        broker, address = _open_broker(settings, held.authority, revocations, now)
        stack.callback(broker.stop)
        ticker = Ticker()
        parts = _deal_with_devices(
            settings=settings,
            database=database,
            targets=targets,
            held=held,
            broker=broker,
            ticker=ticker,
            now=now,
            deltas=deltas,
            blobs=blobs,
        )
        connections = Connections(ticker.wake, now)
        link = BrokerLink(
            broker.host,
            broker.port,
            held.authority.server_identity(now()),
            on_message=parts.intake.put,
            on_connected=connections.note,
            on_lost=connections.lost,
        )
        publisher = Publisher(
            database=database, blobs=blobs, repository=held.repository, link=link, now=now
        )
        signing = VersionSigning(database, held.repository, now)
        alerts = Alerts(now)
        admission = Admission(database=database, now=now, requests_max=settings.enrol_requests_max)
        plane = ControlPlane(
            repository=held.repository,
            content_keys=held.content_keys,
            authority=held.authority,
            revocations=revocations,
            broker=broker,
            link=link,
            publisher=publisher,
            ordering=parts.ordering,
            admission=admission,
            enrolment=Enroller(
                database=database,
                authority=held.authority,
                repository=held.repository,
                admission=admission,
                broker=lambda: address,
                now=now,
                grace=timedelta(days=settings.renewal_grace_days),
            ),
            fleet=parts.fleet,
            device_actions=parts.device_actions,
            targets=targets,
            measurements=parts.measurements,
            benchmarks=parts.benchmarks,
            device_logs=parts.device_logs,
            log_follows=parts.log_follows,
            device_uploads=parts.device_uploads,
            sample_keys=parts.sample_keys,
            samples=parts.samples,
            rollouts=parts.rollouts,
            telemetry=parts.telemetry,
            features=parts.features,
            receipts=parts.receipts,
            security=parts.security,
            signing=signing,
            alerts=alerts,
            trust=Trust(
                repository=held.repository,
                publisher=publisher,
                signing=signing,
                alerts=alerts,
                now=now,
            ),
            intake=parts.intake,
            ticker=ticker,
            stack=stack,
        )
        for source in _alert_sources(settings, plane, database):
            alerts.add(source)
        duties = _duties(settings, plane, database, connections, now)
        _catch_up(plane, database, now)
        _start(plane, [*duties, *more_duties])
        plane.stack = stack.pop_all()
        return plane


class _Held(NamedTuple):
    """What signs, and what says who is who; on disk."""

    repository: Repository
    content_keys: ContentKeys
    secrets: SealedSecrets
    authority: Authority
    signer: OrderSigner


def _open_keys(settings: Settings, now: Callable[[], datetime]) -> _Held:
    data = settings.data_path
    passphrase = read_passphrase(settings.key_passphrase_file)
    keys = Keys.open(data / "keys", passphrase=passphrase)
    repository = Repository.open(data / "tuf", keys, now())
    restored = read_restored(data)
    if restored is not None:
        repository.number_ahead(restored.ahead, now())
    repository.refresh(now())
    return _Held(
        repository=repository,
        content_keys=ContentKeys.open(data / "keys", passphrase=passphrase),
        secrets=SealedSecrets.open(data / "keys", passphrase=passphrase),
        authority=Authority.open(
            data / "pki",
            now(),
            passphrase=passphrase,
            device_lifetime=timedelta(days=settings.device_certificate_days),
        ),
        signer=OrderSigner(keys, lambda: repository.order_keyids),
    )


class _Parts(NamedTuple):
    """What devices are told, and what they say."""

    measurements: Measurements
    ordering: Ordering
    fleet: Fleet
    device_actions: DeviceActions
    telemetry: Telemetry
    features: Features
    receipts: Receipts
    rollouts: Rollouts
    security: SecurityEvents
    benchmarks: Benchmarks
    device_logs: DeviceLogs
    log_follows: LogFollows
    device_uploads: DeviceUploads
    sample_keys: SampleKeys
    samples: Samples
    intake: Intake


def _deal_with_devices(
    *,
    settings: Settings,
    database: Database,
    targets: Targets,
    held: _Held,
    broker: RunningBroker,
    ticker: Ticker,
    now: Callable[[], datetime],
    deltas: DeltasWanted | None,
    blobs: BlobStore,
) -> _Parts:
    days = settings.telemetry_retention_days
    measurements = Measurements(database=database, targets=targets, now=now)
    watch = WatchPolicy(rows_per_s=settings.watch_rows_per_s, window_s=settings.watch_window_s)
    ordering = Ordering(
        database=database,
        signer=held.signer,
        content_keys=held.content_keys,
        now=now,
        measurements=measurements,
        watch=watch,
    )
    fleet = Fleet(
        database=database,
        ordering=ordering,
        authority=held.authority,
        broker=broker,
        targets=targets,
        now=now,
        overdue_after=timedelta(seconds=settings.device_overdue_s),
    )
    telemetry = Telemetry(database=database, retention_days=days, now=now)
    features = Features(
        database=database, references=References(blobs), retention_days=days, watch=watch, now=now
    )
    receipts = Receipts(database=database, retention_days=days, now=now)
    rollouts = Rollouts(
        database=database, ordering=ordering, now=now, wake=ticker.wake, deltas=deltas
    )
    security = SecurityEvents(database=database, retention_days=days, now=now)
    benchmarks = Benchmarks(
        database=database,
        measurements=measurements,
        ordering=ordering,
        signer=held.signer,
        now=now,
        wake=ticker.wake,
    )
    device_logs = DeviceLogs(database=database, signer=held.signer, now=now, wake=ticker.wake)
    log_follows = LogFollows(database=database, signer=held.signer, now=now, wake=ticker.wake)
    contracts = Contracts(blobs)
    ground_truth = GroundTruth(database=database, contracts=contracts, now=now)
    sample_keys = SampleKeys(database, held.secrets, now)
    sample_keys.ensure()
    samples = Samples(
        database=database,
        contracts=contracts,
        keys=sample_keys,
        ground_truth=ground_truth,
        uploads=BlobStore(settings.device_uploads_address),
        limits=SampleLimits(timedelta(days=settings.samples_days), settings.samples_bytes_max),
        now=now,
    )
    device_uploads = open_device_uploads(
        settings,
        database,
        owners={LOGS: device_logs, SAMPLE: samples},
        now=now,
        wake=ticker.wake,
    )
    intake = Intake(
        database=database,
        fleet=fleet,
        telemetry=telemetry,
        features=features,
        rollouts=rollouts,
        security=security,
        benchmarks=benchmarks,
        uploads=device_uploads,
        log_follows=log_follows,
        ground_truth=ground_truth,
        receipts=receipts,
    )
    return _Parts(
        measurements=measurements,
        ordering=ordering,
        fleet=fleet,
        device_actions=DeviceActions(
            database=database, ordering=ordering, now=now, wake=ticker.wake
        ),
        telemetry=telemetry,
        features=features,
        receipts=receipts,
        rollouts=rollouts,
        security=security,
        benchmarks=benchmarks,
        device_logs=device_logs,
        log_follows=log_follows,
        device_uploads=device_uploads,
        sample_keys=sample_keys,
        samples=samples,
        intake=intake,
    )


def _catch_up(plane: ControlPlane, database: Database, now: Callable[[], datetime]) -> None:
    """Do what has become due while the server was not there."""
    if isinstance(plane.broker, ExistingBroker):
        # The server may have ended before that broker had the list.
        plane.broker.shut_out(plane.fleet.shut_out_since(now() - _SHUT_OUT_AGAIN))
    if changed := plane.targets.classify_all(database):
        logger.info("%d devices are of another class now", changed)


def _open_broker(
    settings: Settings,
    authority: Authority,
    revocations: RevocationList,
    now: Callable[[], datetime],
) -> tuple[RunningBroker, BrokerAddress]:
    """Return the broker, and the address by which devices reach it."""
    hosts = _broker_hosts(settings)
    identity = authority.broker_identity(hosts, now())
    door = None
    if settings.broker_kick_port:
        pki = settings.data_path / "pki"
        door = OperatorDoor(settings.broker_kick_port, door_identity(pki, now()))
    broker = open_broker(
        settings.broker,
        host=settings.broker_host,
        port=settings.broker_port,
        identity=identity,
        state=settings.data_path / "broker",
        is_revoked=authority.is_revoked,
        crl_pem=revocations.pem,
        make_canary=lambda: make_canary(authority, identity.authority, now()),
        bounds=BrokerBounds.for_connections(settings.broker_connections_max),
        door=door,
    )
    named = not isinstance(broker, ExistingBroker) or settings.broker_public_host
    return broker, BrokerAddress(host=hosts[0] if named else broker.host, port=broker.port)


def _alert_sources(settings: Settings, plane: ControlPlane, database: Database) -> Iterable[Source]:
    """Yield what watches over certificates; metadata is watched by `Trust`."""
    pki = settings.data_path / "pki"
    restart = "the server renews it by itself 30 days before: look into its log"
    yield certificate_alerts(
        "the certificate of the installation's authority",
        lambda: plane.authority.expires_at,
        AUTHORITY_WITHIN,
        "plan a new installation: every device must be enrolled at it before that day",
    )
    yield certificate_alerts(
        "the server's certificate for the broker",
        ends_in_file(pki / "server.pem"),
        OWN_WITHIN,
        restart,
    )
    if isinstance(plane.broker, ExistingBroker):
        yield certificate_alerts(
            f"the certificate of the broker {plane.broker.host}",
            lambda: plane.link.broker_certificate_ends_at,
            OWN_WITHIN,
            "renew it on that machine; one of ours: edgectl server broker-config, copy it there",
        )
    else:
        yield certificate_alerts(
            "the broker's certificate", ends_in_file(pki / "broker.pem"), OWN_WITHIN, restart
        )
    yield problem_alerts(
        "broker.revocations",
        "revoked devices may be connected",
        lambda: plane.broker.revocation_problem,
        "look at the broker's log; docs/brokers.md says how it gets the list",
    )
    yield list_alerts(plane.revocations.pem)
    yield device_alerts(database, timedelta(days=settings.device_certificate_days))


def _broker_hosts(settings: Settings) -> list[str]:
    """Return the names by which our own broker is reached, the devices' one first."""
    public_host = settings.broker_address_for_devices
    if is_any_address(public_host):
        public_host = socket.gethostname()
    return [public_host, settings.broker_host]


def _start(plane: ControlPlane, duties: list[Duty]) -> None:
    ours = not isinstance(plane.broker, ExistingBroker)
    if ours:
        plane.fleet.forget_connections()
    plane.link.start()
    plane.stack.callback(plane.link.close)
    plane.intake.start(plane.link, seed=plane.publisher.seed)
    plane.stack.callback(plane.intake.close)
    if ours and not plane.link.wait_connected(_CONNECT_S):
        logger.warning("not connected to the broker yet: %s", plane.link.failure)
    plane.ticker.start(duties)
    plane.stack.callback(plane.ticker.close)
    plane.stack.callback(plane.publisher.close)


def _greet(plane: ControlPlane, news: News) -> None:
    """After a reconnect the broker may lack what it had."""
    if news.forgotten:
        plane.publisher.forget()
    if news.new:
        plane.publisher.publish_metadata()
        plane.ordering.publish_all(plane.link)
    if news.lost_at is not None:
        plane.fleet.forgive_breaks(news.lost_at)


def _duties(
    settings: Settings,
    plane: ControlPlane,
    database: Database,
    connections: Connections,
    now: Callable[[], datetime],
) -> list[Duty]:
    link, ordering, publisher = plane.link, plane.ordering, plane.publisher

    certificates = OwnCertificates(
        authority=plane.authority,
        broker=plane.broker,
        link=link,
        broker_hosts=_broker_hosts(settings),
        now=now,
    )
    signed_with: list[frozenset[str]] = []

    def refresh() -> None:
        plane.trust.refresh()
        keyids = plane.repository.order_keyids
        # At the first turn too, because it may have changed before; and twice, because an order may
        # have been on its way with the old key.
        if signed_with[-2:] != [keyids, keyids]:
            ordering.sign_anew(keyids)
            signed_with[:] = [*signed_with[-1:], keyids]

    def forget_events() -> None:
        delete_old_events(database, days=settings.telemetry_retention_days, now=now)

    def forget_uploads() -> None:
        plane.samples.make_room()
        plane.device_uploads.delete_old()

    def drain() -> None:
        while link.connected and ordering.drain(link):
            pass

    def ask() -> None:
        plane.benchmarks.give_up()
        if link.connected:
            plane.benchmarks.send(link)

    return [
        Duty("the rollouts", settings.tick_s, plane.rollouts.tick),
        Duty("the connection", settings.tick_s, lambda: _greet(plane, connections.take())),
        Duty("the publisher", settings.tick_s, publisher.reconcile),
        Duty("the outbox", settings.tick_s, drain),
        Duty("the benchmarks", settings.tick_s, ask),
        Duty("the logs of devices", settings.tick_s, lambda: plane.device_logs.tick(link)),
        Duty("the logs that are looked at", settings.tick_s, lambda: plane.log_follows.tick(link)),
        Duty("the uploads of devices", settings.tick_s, lambda: plane.device_uploads.tick(link)),
        Duty("the signed metadata", _METADATA_S, refresh),
        Duty("the alerts", _ALERTS_S, plane.alerts.log),
        Duty("the orders", _ORDERS_S, ordering.renew),
        Duty("the revocations", _REVOCATIONS_S, plane.broker.check_revocations),
        Duty("the retention", _RETENTION_S, plane.telemetry.delete_old),
        Duty("the features by hour", _ROLL_UP_S, plane.features.roll_up_due),
        Duty("the old features", _RETENTION_S, plane.features.delete_old),
        Duty("the old receipts", _RETENTION_S, plane.receipts.delete_old),
        Duty("the events", _RETENTION_S, forget_events),
        Duty("the old uploads of devices", _RETENTION_S, forget_uploads),
        Duty("the measurements", _RETENTION_S, plane.measurements.delete_old),
        Duty("the old security events", _RETENTION_S, plane.security.delete_old),
        Duty("the states that got lost", _SECURITY_S, plane.intake.ask_for_states),
        Duty("the security events", _SECURITY_S, plane.security.flush),
        Duty("the certificates", _CERTIFICATES_S, certificates.renew),
    ]
