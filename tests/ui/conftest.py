"""One server with realistic rows and one browser for all tests of the web UI."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from e2e.fleet import Server
from edgectl_server.storage.database import Database
from ui import rows
from ui.browser import launched, open_page

WEB = Path(__file__).parents[2] / "server/edgectl_server/web"
ROLES = ("viewer", "operator", "admin")


@pytest.fixture(scope="module")
def browser():
    with launched() as started:
        yield started


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server whose database is full of `ui.rows`."""
    assert (WEB / "index.html").is_file(), "no web UI: python server/ui/run.py build"
    started = Server(tmp_path_factory.mktemp("ui") / "data")
    started.start()
    try:
        database = Database(f"sqlite:///{started.data / 'edgectl.sqlite'}")
        try:
            rows.fill(database, datetime.now(UTC))  # noqa: TID251
        finally:
            database.close()
        (started.data / "admin-password").write_text(rows.PASSWORD)
        yield started
    finally:
        started.stop()


@pytest.fixture
def empty_server(tmp_path):
    """A server on its first day, which a test may stop and start."""
    started = Server(tmp_path / "data")
    started.start()
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def origin(server):
    """Where the page is."""
    return server.url.rstrip("/")


@pytest.fixture(scope="module")
def sessions(browser, origin):
    """Cookies by role: everybody logs in once."""
    kept = {}
    for role in ROLES:
        context = browser.new_context()
        answer = context.request.post(
            f"{origin}/api/v1/session", data={"username": role, "password": rows.PASSWORD}
        )
        assert answer.ok, answer.text()
        kept[role] = context.storage_state()
        context.close()
    return kept


@pytest.fixture
def visit(browser, origin, sessions):
    """``visit(role, **context options)``: a watched page of somebody who is logged in."""
    contexts = []

    def begin(role="operator", **options):
        watched = open_page(browser, origin, storage_state=sessions[role], **options)
        contexts.append(watched.page.context)
        return watched

    yield begin
    for context in contexts:
        context.close()


@pytest.fixture
def api(server, origin, browser):
    """``api(method, path, body)``: a change from elsewhere, by a bearer token of an admin."""
    context = browser.new_context()

    def call(method, path, body=None):
        token = context.request.post(
            f"{origin}/api/v1/tokens:login?name=tests",
            data={"username": "admin", "password": rows.PASSWORD},
        ).json()["token"]
        answer = context.request.fetch(
            f"{origin}/api/v1{path}",
            method=method,
            data=body,
            headers={"Authorization": f"Bearer {token}"},
        )
        assert answer.ok, f"{method} {path}: {answer.status} {answer.text()}"
        return answer.json() if answer.status != 204 else None

    yield call
    context.close()
