"""Everything that runs in one server, put together in one place.

Order: database, blobs, people, what deals with devices (`edgectl_server.control_plane`), then the
registry and its jobs, which publish through it; closed in the opposite order, also when opening
fails half-way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field

from edgectl_server.admission import Admission
from edgectl_server.alerts import OWN_WITHIN, Source, certificate_alerts, problem_alerts
from edgectl_server.audit import AuditLog
from edgectl_server.audit_heads import AuditHeads
from edgectl_server.auth import Auth
from edgectl_server.benchmarks import Benchmarks
from edgectl_server.bundle_documents import BundleDocuments
from edgectl_server.clock import now
from edgectl_server.control_plane import ControlPlane, open_control_plane
from edgectl_server.delta_making import DELTAS, DeltasHandler, DeltasWanted
from edgectl_server.device_logs import LOGS, DeviceLogs
from edgectl_server.device_uploads import DeviceUploads
from edgectl_server.distribution.interface import RunningBroker
from edgectl_server.distribution.link import BrokerLink
from edgectl_server.distribution.publisher import Publisher
from edgectl_server.distribution.revocation_list import RevocationList
from edgectl_server.enrolment import Enroller
from edgectl_server.exports import Exports
from edgectl_server.fleet import Fleet
from edgectl_server.hub import Hub
from edgectl_server.imports import IMPORT, ImportHandler, Imports
from edgectl_server.jobs import Jobs
from edgectl_server.known_trials import KnownTrials
from edgectl_server.labels import Labels
from edgectl_server.measurements import BENCHMARK, Measurements
from edgectl_server.oci_registry import OciRegistry
from edgectl_server.openid.handover import Handover
from edgectl_server.openid.sign_on import SignOn, open_sign_on
from edgectl_server.policies import Policies
from edgectl_server.pullers import Pullers
from edgectl_server.push import PushHandler
from edgectl_server.registry import PUSH, Registry
from edgectl_server.rollouts import Rollouts
from edgectl_server.security import SecurityEvents
from edgectl_server.settings import Settings
from edgectl_server.signing.authority import Authority
from edgectl_server.signing.key_files import read_passphrase
from edgectl_server.signing.repository import Repository
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.targets import Targets
from edgectl_server.telemetry import Telemetry
from edgectl_server.ticker import Duty
from edgectl_server.tls import ServerTls, open_tls
from edgectl_server.trial_sharing import TrialSharing
from edgectl_server.trust import Trust
from edgectl_server.uploads import Uploads

__all__ = ["Services", "open_services"]

_UPLOADS_S = 600.0
_DELTAS_S = 5.0
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
    labels: Labels
    targets: Targets
    measurements: Measurements
    benchmarks: Benchmarks
    device_logs: DeviceLogs
    device_uploads: DeviceUploads
    rollouts: Rollouts
    telemetry: Telemetry
    security: SecurityEvents
    trust: Trust
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
    database = Database(settings.database_address)
    opened.callback(database.close)
    database.migrate()
    blobs = BlobStore(settings.blobs_address)
    audit = AuditLog(database, now)
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
    plane = open_control_plane(
        settings,
        database=database,
        blobs=blobs,
        now=now,
        more_duties=[
            Duty("what commands have done", _SPOOL_S, lambda: audit.take_in(data / _SPOOL)),
            Duty("the audit log's heads", _ANCHOR_S, audit_heads.anchor),
            Duty("the uploads", _UPLOADS_S, uploads.forget_unused),
            Duty("known trials", _UPLOADS_S, known_trials.forget),
            Duty("the deltas", _DELTAS_S, deltas.look),
        ],
        deltas=deltas,
    )
    opened.callback(plane.close)
    tls = open_tls(settings, plane.authority, now, passphrase=passphrase)
    for source in _alert_sources(settings, tls, audit_heads):
        plane.alerts.add(source)

    jobs = Jobs(database, now, lease_s=settings.job_lease_s, attempts_max=settings.job_attempts_max)
    push = PushHandler(
        data / "jobs",
        settings=settings,
        database=database,
        blobs=blobs,
        repository=plane.repository,
        signing=plane.signing,
        content_keys=plane.content_keys,
        known_trials=known_trials,
        sharing=TrialSharing(database, blobs, jobs, now),
        publisher=plane.publisher,
        now=now,
    )
    jobs.register(PUSH, push)
    importing = ImportHandler(
        data / "imports",
        database=database,
        blobs=blobs,
        repository=plane.repository,
        signing=plane.signing,
        publisher=plane.publisher,
        now=now,
    )
    jobs.register(IMPORT, importing)
    jobs.register_remote(BENCHMARK)
    jobs.register_remote(LOGS)
    registry = Registry(
        database,
        blobs,
        jobs,
        now,
        shares=plane.fleet.shares,
        waits_for=plane.signing.waits_for,
    )
    hub = _open_hub(plane, jobs, registry, opened)
    opened.callback(jobs.close)
    jobs.start()
    delta_worker = _open_delta_worker(settings, database, blobs, made=plane.ticker.wake)
    deltas.notify = delta_worker.notify
    opened.callback(delta_worker.close)
    delta_worker.start()
    return Services(
        settings=settings,
        database=database,
        blobs=blobs,
        hub=hub,
        audit=audit,
        audit_heads=audit_heads,
        auth=auth,
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
        targets=plane.targets,
        measurements=plane.measurements,
        benchmarks=plane.benchmarks,
        device_logs=plane.device_logs,
        device_uploads=plane.device_uploads,
        labels=Labels(database=database, now=now),
        rollouts=plane.rollouts,
        telemetry=plane.telemetry,
        security=plane.security,
        trust=plane.trust,
        first_password=first_password,
    )


def _open_delta_worker(
    settings: Settings, database: Database, blobs: BlobStore, *, made: Callable[[], None]
) -> Jobs:
    """Return the worker that makes deltas; it has no other work, and nobody else has this."""
    worker = Jobs(
        database,
        now,
        worker="deltas",
        lease_s=settings.job_lease_s,
        attempts_max=settings.job_attempts_max,
    )
    handler = DeltasHandler(
        settings.data_path / "deltas",
        settings=settings,
        database=database,
        blobs=blobs,
        now=now,
        made=made,
    )
    worker.register(DELTAS, handler)
    return worker


def _open_hub(plane: ControlPlane, jobs: Jobs, registry: Registry, opened: ExitStack) -> Hub:
    """Return what live listeners are told of."""
    hub = Hub()
    opened.callback(hub.join)
    opened.callback(hub.close)
    hub.register("fleet", lambda _: plane.fleet.summary())
    hub.register("device", plane.fleet.snapshot)
    hub.register("rollout", plane.rollouts.snapshot)
    hub.register("job", jobs.snapshot)
    hub.register("version", registry.snapshot)
    hub.register("trust", lambda _: plane.trust.summary())
    return hub


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
