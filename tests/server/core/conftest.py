"""The services of the API on SQLite, with what other parts do left out."""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from argon2 import PasswordHasher
from starlette.testclient import TestClient

from databases import open_migrated
from edgectl_server.alerting.parts import Alerting
from edgectl_server.api.app import create_app
from edgectl_server.audit import AuditLog
from edgectl_server.audit_heads import AuditHeads
from edgectl_server.auth import Auth
from edgectl_server.bundle_documents import BundleDocuments
from edgectl_server.clock import now
from edgectl_server.exposition.metrics import Live, Metrics
from edgectl_server.hub import Hub
from edgectl_server.jobs import Jobs
from edgectl_server.oci_registry import OciRegistry
from edgectl_server.openid.handover import Handover
from edgectl_server.policies import Policies
from edgectl_server.proofs import Proofs
from edgectl_server.pullers import Pullers
from edgectl_server.registry import PUSH, Registry
from edgectl_server.services import Services
from edgectl_server.settings import Settings
from edgectl_server.signing.sealed_secrets import SealedSecrets
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.uploads import Uploads
from edgectl_server.user_changes import Users
from edgectl_server.webhooks.delivery import Deliverer
from edgectl_server.webhooks.registry import Webhooks
from edgectl_server.webhooks.sending import make_sender

PASSWORD = "correct horse battery"


QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Clock:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.at = now()

    def __call__(self):
        return self.at

    def pass_s(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class Waiting:
    """A handler that is never reached, because no worker runs."""

    def run(self, context):
        raise AssertionError("there is no worker in these tests")

    def ended(self, session, job, error):
        pass


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def blobs_url() -> str:
    """Where blobs are; empty: in the data folder."""
    return ""


@pytest.fixture
def services(tmp_path: Path, clock: Clock, blobs_url: str) -> Iterator[Services]:
    settings = Settings(
        data=str(tmp_path / "data"), upload_bytes_max=8 * 1024**2, blobs_url=blobs_url
    )
    settings.data_path.mkdir()
    database = open_migrated(settings.database_address)
    blobs = BlobStore(settings.blobs_address)
    jobs = Jobs(database, clock)
    jobs.register(PUSH, Waiting())
    hub = Hub(interval_s=0.05)
    audit = AuditLog(database, clock)
    auth = Auth(database, clock, session_s=settings.session_s, hasher=QUICK)
    webhook_secrets = SealedSecrets.open(settings.data_path / "keys")
    deliverer = Deliverer(
        database=database, secrets=webhook_secrets, send=make_sender(private=True), now=clock
    )
    alerting = Alerting(settings, database, clock)
    parts = dict.fromkeys(field.name for field in dataclasses.fields(Services))
    parts |= {
        "settings": settings,
        "database": database,
        "blobs": blobs,
        "hub": hub,
        "audit": audit,
        "audit_heads": AuditHeads.open(settings.data_path / "audit", audit, clock),
        "auth": auth,
        "proofs": Proofs(database, auth, clock),
        "users": Users(database, auth, clock),
        "sign_on": None,
        "handover": Handover(database, clock),
        "jobs": jobs,
        "uploads": Uploads(settings.data_path / "uploads", settings, blobs, database, clock),
        "policies": Policies(database, clock),
        "registry": Registry(
            database, blobs, jobs, clock, shares=list, waits_for=lambda: lambda _path: None
        ),
        "documents": BundleDocuments(database, blobs),
        "oci": OciRegistry(database, blobs),
        "pullers": Pullers(database, auth, clock),
        "webhooks": Webhooks(
            database=database,
            secrets=webhook_secrets,
            deliverer=deliverer,
            now=clock,
            private=True,
        ),
        "alert_book": alerting.book,
        "alert_routes": alerting.routes,
        "metrics": Metrics(
            database=database,
            live=Live(
                connected=lambda: False,
                refused=lambda: 0,
                to_broker=lambda: 2,
                received=lambda: 7,
                dropped=lambda: {"stranger": 3},
                to_take_in=lambda: 1,
            ),
            overdue_s=3600,
            now=clock,
            fresh_s=0,
        ),
        "link": SimpleNamespace(connected=False),
        "repository": SimpleNamespace(metadata=list),
        "closing": ExitStack(),
    }
    yield Services(**parts)
    alerting.close()
    deliverer.close()
    hub.close()
    hub.join()
    database.close()


@dataclass
class People:
    """A token of each role."""

    viewer: dict[str, str]
    operator: dict[str, str]
    admin: dict[str, str]


@pytest.fixture
def people(services: Services) -> People:
    headers = {}
    for role in ("viewer", "operator", "admin"):
        services.auth.set_user(role, PASSWORD, role)
        principal = services.auth.check_password(role, PASSWORD, "test")
        token = services.auth.create_token(principal, "test", role, None).text
        headers[role] = {"Authorization": f"Bearer {token}"}
    return People(**headers)


@pytest.fixture
def client(services: Services, tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(
        create_app(services, web=tmp_path / "no-web"), raise_server_exceptions=False
    ) as client:
        yield client
