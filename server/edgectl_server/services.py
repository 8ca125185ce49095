"""Everything that runs in one server, put together in one place.

Order: database, blobs, people, what deals with devices (`edgectl_server.control_plane`), then the
registry and its jobs, which publish through it; closed in the opposite order, also when opening
fails half-way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from edgectl_server.accuracy_views import AccuracyViews
from edgectl_server.accuracy_watch import AccuracyWatch
from edgectl_server.admission import Admission
from edgectl_server.alerting.book import AlertBook
from edgectl_server.alerting.parts import Alerting
from edgectl_server.alerting.routes import AlertRoutes
from edgectl_server.alerts import OWN_WITHIN, Source, certificate_alerts, problem_alerts
from edgectl_server.annotations import Annotations
from edgectl_server.answers import Answers
from edgectl_server.audit import AuditLog
from edgectl_server.audit_heads import AuditHeads
from edgectl_server.auth import Auth
from edgectl_server.backup.resumption import forget_restored, read_restored, resume_rows
from edgectl_server.benchmarks import Benchmarks
from edgectl_server.bundle_documents import BundleDocuments
from edgectl_server.clock import now
from edgectl_server.contracts import Contracts
from edgectl_server.control_plane import ControlPlane, open_control_plane
from edgectl_server.dataset_checks import DatasetChecks
from edgectl_server.datasets import Datasets
from edgectl_server.delta_making import DeltasWanted
from edgectl_server.device_actions import DeviceActions
from edgectl_server.device_logs import DeviceLogs
from edgectl_server.device_uploads import DeviceUploads
from edgectl_server.distribution.interface import RunningBroker
from edgectl_server.distribution.link import BrokerLink
from edgectl_server.distribution.publisher import Publisher
from edgectl_server.distribution.revocation_list import RevocationList
from edgectl_server.domain.accuracy import AccuracyLimits
from edgectl_server.drift_lists import DriftLists
from edgectl_server.drift_views import DriftViews
from edgectl_server.drift_watch import DriftWatch, Stretch
from edgectl_server.enrolment import Enroller
from edgectl_server.exports import Exports
from edgectl_server.exposition.metrics import Live, Metrics
from edgectl_server.fleet import Fleet
from edgectl_server.hub import Hub
from edgectl_server.imports import Imports
from edgectl_server.job_workers import (
    open_delta_worker,
    open_training,
    open_worker,
)
from edgectl_server.jobs import Jobs
from edgectl_server.known_trials import KnownTrials
from edgectl_server.labels import Labels
from edgectl_server.log_follows import LogFollows
from edgectl_server.loop_story import LoopStories
from edgectl_server.loops import Loops
from edgectl_server.measurements import Measurements
from edgectl_server.oci_registry import OciRegistry
from edgectl_server.openid.handover import Handover
from edgectl_server.openid.sign_on import SignOn, open_sign_on
from edgectl_server.policies import Policies
from edgectl_server.proofs import Proofs
from edgectl_server.pullers import Pullers
from edgectl_server.receipts import Receipts
from edgectl_server.references import References
from edgectl_server.registry import Registry
from edgectl_server.retraining import Retrainings
from edgectl_server.rollout_breakdown import RolloutBreakdown
from edgectl_server.rollout_comparison import RolloutComparison
from edgectl_server.rollouts import Rollouts
from edgectl_server.sample_keys import SampleKeys
from edgectl_server.sample_policies import SamplePolicies
from edgectl_server.samples import Samples
from edgectl_server.security import SecurityEvents
from edgectl_server.settings import Settings
from edgectl_server.signing.authority import Authority
from edgectl_server.signing.key_files import read_passphrase
from edgectl_server.signing.repository import Repository
from edgectl_server.signing.sealed_secrets import SealedSecrets
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.targets import Targets
from edgectl_server.telemetry import Telemetry
from edgectl_server.ticker import Duty, Ticker
from edgectl_server.tls import ServerTls, open_tls
from edgectl_server.tracing import Tracing
from edgectl_server.tracking import Tracker, open_client
from edgectl_server.training_waits import TrainingWaits
from edgectl_server.trust import Trust
from edgectl_server.uploads import Uploads
from edgectl_server.user_changes import Users
from edgectl_server.usual_days import UsualDaysBook
from edgectl_server.webhooks.delivery import Deliverer
from edgectl_server.webhooks.registry import Webhooks
from edgectl_server.webhooks.sending import make_sender

__all__ = ["Services", "open_services"]

_UPLOADS_S = 600.0
_DELTAS_S = 5.0
_DRIFT_S = 5.0
_LOOPS_S = 5.0
_TRACKING_S = 5.0
_TRAININGS_S = 2.0
_SPOOL = "audit/pending"
_SPOOL_S = 5.0
_ANCHOR_S = 30.0
"""For so long may a row of the audit log be without a signed head that vouches for it."""


@dataclass(kw_only=True)
class Services:
    """What the API uses."""

    settings: Settings
    database: Database
    blobs: BlobStore
    hub: Hub
    audit: AuditLog
    audit_heads: AuditHeads
    auth: Auth
    proofs: Proofs
    users: Users
    sign_on: SignOn | None
    """None: single sign-on is not set up."""
    handover: Handover
    jobs: Jobs
    uploads: Uploads
    policies: Policies
    registry: Registry
    documents: BundleDocuments
    oci: OciRegistry
    pullers: Pullers
    exports: Exports
    imports: Imports
    authority: Authority
    tls: ServerTls | None
    """None: plain HTTP, on loopback or behind a proxy."""
    revocations: RevocationList
    repository: Repository
    broker: RunningBroker
    link: BrokerLink
    publisher: Publisher
    admission: Admission
    enrolment: Enroller
    fleet: Fleet
    device_actions: DeviceActions
    labels: Labels
    targets: Targets
    measurements: Measurements
    benchmarks: Benchmarks
    device_logs: DeviceLogs
    log_follows: LogFollows
    device_uploads: DeviceUploads
    samples: Samples
    sample_keys: SampleKeys
    sample_policies: SamplePolicies
    annotations: Annotations
    datasets: Datasets
    retrainings: Retrainings
    loops: Loops
    loop_stories: LoopStories
    dataset_checks: DatasetChecks
    rollouts: Rollouts
    breakdown: RolloutBreakdown
    comparison: RolloutComparison
    telemetry: Telemetry
    receipts: Receipts
    drift: DriftViews
    accuracy: AccuracyViews
    drift_lists: DriftLists
    usual_days: UsualDaysBook
    answers: Answers
    security: SecurityEvents
    trust: Trust
    webhooks: Webhooks
    alert_book: AlertBook
    alert_routes: AlertRoutes
    metrics: Metrics
    first_password: str | None = None
    """Of the user admin, if it has just been made."""
    closing: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Stop everything, the last first. Idempotent."""
        self.closing.close()


def open_services(settings: Settings) -> Services:
    """Build and start everything.

    Args:
        settings: the data folder exists and nobody else works in it.

    Raises:
        ServerError: something does not start; what had been started is stopped.
    """
    with ExitStack() as opened:
        services = _open(settings, opened)
        services.closing = opened.pop_all()
        return services


def _open(settings: Settings, opened: ExitStack) -> Services:
    data = settings.data_path
    restored = read_restored(data)
    database = Database(settings.database_address)
    opened.callback(database.close)
    database.migrate()
    blobs = BlobStore(settings.blobs_address)
    audit = AuditLog(database, now)
    if restored is not None:
        resume_rows(database, restored, now())
    auth = Auth(database, now, session_s=settings.session_s)
    sign_on = open_sign_on(settings, database, now)
    if sign_on is not None:
        opened.callback(sign_on.close)
    first_password = auth.ensure_admin(data / "admin-password")
    passphrase = read_passphrase(settings.key_passphrase_file)
    audit_heads = AuditHeads.open(data / "audit", audit, now, passphrase=passphrase)
    opened.callback(audit_heads.anchor)
    uploads = Uploads(data / "uploads", settings, blobs, database, now)
    known_trials = KnownTrials(database, blobs, now, bytes_max=settings.known_trials_bytes_max)
    deltas = DeltasWanted(settings, database, blobs, now)
    webhooks, deliverer = _open_webhooks(settings, database, passphrase)
    opened.callback(deliverer.close)
    references, stretch = References(blobs), Stretch(settings.drift_period_s)
    contracts = Contracts(blobs)
    alerting, training_waits = _open_alerting(settings, database, opened)
    plane = open_control_plane(
        settings,
        database=database,
        blobs=blobs,
        now=now,
        more_duties=[
            Duty("the trainings that wait", _TRAININGS_S, training_waits.look),
            *alerting.duties(),
            Duty("what commands have done", _SPOOL_S, lambda: audit.take_in(data / _SPOOL)),
            Duty("the audit log's heads", _ANCHOR_S, audit_heads.anchor),
            Duty("the uploads", _UPLOADS_S, uploads.forget_unused),
            Duty("known trials", _UPLOADS_S, known_trials.forget),
            Duty("the deltas", _DELTAS_S, deltas.look),
            Duty("the webhooks", settings.tick_s, deliverer.look),
            Duty("the old deliveries of webhooks", _UPLOADS_S, deliverer.delete_old),
            *_watching(settings, database, references, stretch, now),
        ],
        deltas=deltas,
    )
    opened.callback(plane.close)
    if restored is not None:
        forget_restored(data)
    tls = open_tls(settings, plane.authority, now, passphrase=passphrase)
    for source in _alert_sources(settings, tls, audit_heads):
        plane.alerts.add(source)
    alerting.connect(plane.link, plane.alerts.current)

    jobs = open_worker(
        settings,
        plane,
        database=database,
        blobs=blobs,
        known_trials=known_trials,
        passphrase=passphrase,
    )
    registry = Registry(
        database,
        blobs,
        jobs,
        now,
        shares=plane.fleet.shares,
        waits_for=plane.signing.waits_for,
    )
    datasets = Datasets(
        database=database,
        contracts=contracts,
        uploads=BlobStore(settings.device_uploads_address),
        bytes_max=settings.datasets_bytes_max,
        now=now,
    )
    _open_tracing(settings, database, opened)
    retrainings, training_worker = open_training(settings, database, blobs, datasets, registry)
    sample_policies = SamplePolicies(database, now)
    loops = _open_loops(
        settings, database, plane, retrainings, sample_policies=sample_policies, datasets=datasets
    )
    hub = _open_hub(plane, jobs, registry, DriftLists(database), opened)
    hub.register("alerts", lambda _: alerting.book.counts())
    stories = LoopStories(database)
    hub.register("loops", lambda _: stories.news())
    opened.callback(jobs.close)
    delta_worker = open_delta_worker(
        settings, database, blobs, made=plane.ticker.wake, cancelled_by=jobs
    )
    deltas.notify = delta_worker.notify
    opened.callback(delta_worker.close)
    for worker in (jobs, delta_worker):
        worker.start()
    _start_learning(settings, database, training_worker, loops, opened)
    return Services(
        settings=settings,
        database=database,
        blobs=blobs,
        hub=hub,
        audit=audit,
        audit_heads=audit_heads,
        auth=auth,
        proofs=Proofs(database, auth, now),
        users=Users(database, auth, now),
        sign_on=sign_on,
        handover=Handover(database, now),
        jobs=jobs,
        uploads=uploads,
        policies=Policies(database, now),
        registry=registry,
        documents=BundleDocuments(database, blobs),
        oci=OciRegistry(database, blobs),
        pullers=Pullers(database, auth, now),
        exports=Exports(
            database=database,
            blobs=blobs,
            repository=plane.repository,
            targets=plane.targets,
            measurements=plane.measurements,
        ),
        imports=Imports(database, blobs, jobs, now),
        authority=plane.authority,
        tls=tls,
        revocations=plane.revocations,
        repository=plane.repository,
        broker=plane.broker,
        link=plane.link,
        publisher=plane.publisher,
        admission=plane.admission,
        enrolment=plane.enrolment,
        fleet=plane.fleet,
        device_actions=plane.device_actions,
        targets=plane.targets,
        measurements=plane.measurements,
        benchmarks=plane.benchmarks,
        device_logs=plane.device_logs,
        log_follows=plane.log_follows,
        device_uploads=plane.device_uploads,
        samples=plane.samples,
        sample_keys=plane.sample_keys,
        sample_policies=sample_policies,
        labels=Labels(
            database=database,
            now=now,
            overdue_after=timedelta(seconds=settings.device_overdue_s),
        ),
        annotations=Annotations(
            database=database, contracts=contracts, samples=plane.samples, now=now
        ),
        datasets=datasets,
        retrainings=retrainings,
        loops=loops,
        loop_stories=stories,
        dataset_checks=DatasetChecks(
            database=database,
            contracts=contracts,
            references=references,
            samples=datasets.samples,
        ),
        rollouts=plane.rollouts,
        breakdown=RolloutBreakdown(database),
        comparison=RolloutComparison(database, now),
        telemetry=plane.telemetry,
        receipts=plane.receipts,
        drift_lists=DriftLists(database),
        usual_days=UsualDaysBook(database, now),
        drift=DriftViews(database=database, references=references, stretch=stretch),
        accuracy=AccuracyViews(database=database, references=references, stretch=stretch),
        answers=Answers(database=database, now=now),
        security=plane.security,
        trust=plane.trust,
        webhooks=webhooks,
        alert_book=alerting.book,
        alert_routes=alerting.routes,
        metrics=_metrics(settings, database, plane),
        first_password=first_password,
    )


def _open_alerting(
    settings: Settings, database: Database, opened: ExitStack
) -> tuple[Alerting, TrainingWaits]:
    """Return the alerts, and what looks for trainings that nobody can do, of which some are.

    Raises:
        As `Alerting`.
    """
    waits = TrainingWaits(
        database=database,
        now=now,
        trains=settings.trains,
        alert_after=timedelta(seconds=settings.training_wait_s),
    )
    alerting = Alerting(settings, database, now, waits.source())
    opened.callback(alerting.close)
    return alerting, waits


def _open_tracing(settings: Settings, database: Database, opened: ExitStack) -> None:
    """Send traces, if somebody takes them."""
    if not settings.otel_endpoint:
        return
    cursor = settings.data_path / "traces-sent"
    tracing = Tracing(database=database, endpoint=settings.otel_endpoint, cursor=cursor, now=now)
    opened.callback(tracing.close)
    tracing.start()


def _metrics(settings: Settings, database: Database, plane: ControlPlane) -> Metrics:
    """Return the figures for Prometheus."""
    link, intake = plane.link, plane.intake
    live = Live(
        connected=lambda: link.connected,
        refused=lambda: link.refused,
        to_broker=lambda: link.waiting,
        received=lambda: intake.received,
        dropped=intake.dropped.copy,
        to_take_in=lambda: intake.waiting,
    )
    return Metrics(database=database, live=live, overdue_s=settings.device_overdue_s, now=now)


def _open_webhooks(
    settings: Settings, database: Database, passphrase: bytes | None
) -> tuple[Webhooks, Deliverer]:
    """Return the webhooks, and what sends to them when it is told to look."""
    secrets = SealedSecrets.open(settings.data_path / "keys", passphrase=passphrase)
    private = settings.webhooks_to_private_addresses
    deliverer = Deliverer(
        database=database, secrets=secrets, send=make_sender(private=private), now=now
    )
    webhooks = Webhooks(
        database=database, secrets=secrets, deliverer=deliverer, now=now, private=private
    )
    return webhooks, deliverer


def _open_loops(
    settings: Settings,
    database: Database,
    plane: ControlPlane,
    retrainings: Retrainings,
    *,
    sample_policies: SamplePolicies,
    datasets: Datasets,
) -> Loops:
    return Loops(
        database=database,
        datasets=datasets,
        retrainings=retrainings,
        rollouts=plane.rollouts,
        sample_policies=sample_policies,
        period_s=settings.loop_period_s,
        now=now,
    )


def _start_learning(
    settings: Settings, database: Database, worker: Jobs, loops: Loops, opened: ExitStack
) -> None:
    """Begin to train, to look at the loops, and to tell of trainings, in threads of their own.

    Raises:
        Refused: ``settings.mlflow``.
        Unavailable: ``keys.passphrase`` or ``keys.permissions``: of MLflow's token.
    """
    opened.callback(worker.close)
    worker.start()
    ticker = Ticker()
    opened.callback(ticker.close)
    duties = [Duty("the loops", min(settings.loop_period_s, _LOOPS_S), loops.tick)]
    ticker.start(duties)
    client = open_client(settings)
    if client is not None:  # it may hang: it has a thread of its own
        tracked = Ticker()
        opened.callback(tracked.close)
        tracked.start([Duty("the tracking", _TRACKING_S, Tracker(database, client, now).look)])


def _open_hub(
    plane: ControlPlane, jobs: Jobs, registry: Registry, drift: DriftLists, opened: ExitStack
) -> Hub:
    """Return what live listeners are told of."""
    hub = Hub()
    opened.callback(hub.join)
    opened.callback(hub.close)
    hub.register("fleet", lambda _: plane.fleet.summary())
    hub.register("device", plane.fleet.snapshot)
    hub.register("rollout", plane.rollouts.snapshot)
    hub.register("job", jobs.snapshot)
    hub.register("version", registry.snapshot)
    hub.register("drift", lambda _: drift.news())
    hub.register("samples", lambda _: plane.samples.news())
    hub.register("trust", lambda _: plane.trust.summary())
    return hub


def _watching(
    settings: Settings,
    database: Database,
    references: References,
    stretch: Stretch,
    now: Callable[[], datetime],
) -> list[Duty]:
    """Return what judges drift and accuracy, and forgets."""
    days = settings.telemetry_retention_days
    drift = DriftWatch(
        database=database, references=references, stretch=stretch, retention_days=days, now=now
    )
    accuracy = AccuracyWatch(
        database=database,
        references=references,
        stretch=stretch,
        retention_days=days,
        now=now,
        limits=AccuracyLimits(drop=settings.accuracy_drop),
    )
    return [
        Duty("drift", _DRIFT_S, drift.look),
        Duty("old drift", _UPLOADS_S, drift.delete_old),
        Duty("the accuracy", _DRIFT_S, accuracy.look),
        Duty("old accuracy", _UPLOADS_S, accuracy.delete_old),
    ]


def _alert_sources(
    settings: Settings, tls: ServerTls | None, audit_heads: AuditHeads
) -> Iterable[Source]:
    """Yield what watches over this server's own door and its audit log."""
    if tls is not None:
        hint = "the server renews it by itself 30 days before: look into its log"
        if settings.tls == "files":
            hint = f"put a new one into {settings.tls_certificate}: it is read within seconds"
        what = "the certificate of the web server (TLS)"
        yield certificate_alerts(what, tls.ends_at, OWN_WITHIN, hint)
    yield problem_alerts(
        "audit.alarm",
        "the audit log was changed",
        lambda: audit_heads.alarm,
        "edgectl audit verify says where; whoever did it could write the database",
    )
