"""Our application on SQLite, in this process, beside a provider; and a browser for it."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from edgectl_server.api.app import create_app
from edgectl_server.audit import AuditLog
from edgectl_server.auth import Auth
from edgectl_server.openid.handover import Handover
from edgectl_server.openid.sign_on import open_sign_on
from edgectl_server.proofs import Proofs
from edgectl_server.services import Services
from edgectl_server.settings import Settings
from edgectl_server.storage.database import Database
from edgectl_server.user_changes import Users
from server.core.conftest import QUICK, Clock
from server.openid.openid_providers import CLIENT, SECRET, LyingProvider, RealProvider

OURS = "http://127.0.0.1:8080"
CALLBACK = f"{OURS}/api/v1/openid/callback"
PASSWORD = "correct horse battery"
ROLES = "ops=operator; chiefs=admin; cn=watch,ou=groups=viewer"


class Application:
    """Our server as far as logins go; `browser` is one that does not follow redirects.

    There is one web application for all tests, because building it takes long: the newest
    `Application` is the one that answers.
    """

    def __init__(
        self, app: FastAPI, folder: Path, issuer: str, clock: Clock, **settings: str
    ) -> None:
        secret = folder / "client-secret"
        secret.write_text(f"{SECRET}\n")
        given = {
            "oidc_issuer": issuer,
            "oidc_client_id": CLIENT,
            "oidc_client_secret_file": str(secret),
            "oidc_roles": ROLES,
            **settings,
        }
        self.settings = Settings(data=str(folder), **given)
        self.database = Database(f"sqlite:///{folder / 'people.sqlite'}")
        self.audit = AuditLog(self.database, clock)
        self.auth = Auth(self.database, clock, hasher=QUICK)
        self.proofs = Proofs(self.database, self.auth, clock)
        self.users = Users(self.database, self.auth, clock)
        self.sign_on = open_sign_on(self.settings, self.database, clock)
        self.handover = Handover(self.database, clock)
        self._app = app
        parts = ("settings", "database", "audit", "auth", "proofs", "users", "sign_on", "handover")
        for name in parts:
            setattr(app.state.services, name, getattr(self, name))
        self.browser = self.another_browser()

    def another_browser(self) -> TestClient:
        """A browser with cookies of its own."""
        return TestClient(
            self._app,
            base_url=OURS,
            follow_redirects=False,
            raise_server_exceptions=False,
        )

    def begin(self, return_to: str = "/fleet", browser: TestClient | None = None) -> str:
        """Press the button; return the provider's address."""
        answer = (browser or self.browser).get(
            "/api/v1/openid/login", params={"return_to": return_to}
        )
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    def come_back(self, address: str, browser: TestClient | None = None) -> str:
        """Bring the provider's answer; return where we are sent."""
        parts = urlsplit(address)
        answer = (browser or self.browser).get(f"{parts.path}?{parts.query}")
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    def me(self, browser: TestClient | None = None) -> dict | None:
        """Who is logged in."""
        answer = (browser or self.browser).get("/api/v1/me")
        return answer.json() if answer.status_code == 200 else None

    def close(self) -> None:
        """Close sockets and files."""
        if self.sign_on is not None:
            self.sign_on.close()
        self.database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def app(tmp_path_factory) -> FastAPI:
    parts = dict.fromkeys(field.name for field in dataclasses.fields(Services))
    return create_app(Services(**parts), web=tmp_path_factory.mktemp("no-web"))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """All tables, made once."""
    path = tmp_path_factory.mktemp("database") / "people.sqlite"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()
    return path


@pytest.fixture
def make_application(app, tmp_path, clock, empty_database) -> Iterator:
    """``make_application(issuer, **settings)``; the second has the first one's database."""
    shutil.copy(empty_database, tmp_path / "people.sqlite")
    made = []

    def make(issuer: str, **settings: str) -> Application:
        made.append(Application(app, tmp_path, issuer, clock, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def real_provider(tmp_path_factory) -> Iterator[RealProvider]:
    provider = RealProvider(
        tmp_path_factory.mktemp("provider"), redirect_uris=[CALLBACK], after_logout=[f"{OURS}/"]
    )
    provider.start()
    yield provider
    provider.stop()


@pytest.fixture
def liar(clock) -> Iterator[LyingProvider]:
    provider = LyingProvider(clock)
    yield provider
    provider.close()


@pytest.fixture
def application(make_application, liar) -> Application:
    """With the provider that lies."""
    return make_application(liar.issuer)
