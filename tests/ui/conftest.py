"""A server with realistic rows and a browser for each file of tests of the web UI."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from e2e.conftest import started_once  # noqa: F401 - a fixture
from e2e.fleet import Server
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from ui import rows
from ui.browser import Watched, launched, open_context, open_page

WEB = Path(__file__).parents[2] / "server/edgectl_server/web"
ROLES = ("viewer", "operator", "admin")


@pytest.fixture(scope="module")
def browser():
    with launched() as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory, started_once):  # noqa: F811 - a fixture
    """A server whose database is full of `ui.rows`."""
    assert (WEB / "index.html").is_file(), "no web UI: python server/ui/run.py build"
    started = Server(shutil.copytree(started_once, tmp_path_factory.mktemp("ui") / "data"))
    started.start()
    try:
        database = Database(f"sqlite:///{started.data / 'edgectl.sqlite'}")
        try:
            blobs = BlobStore(str(started.data / "blobs"))
            uploads = BlobStore(str(started.data / "blobs/device-uploads"))
            rows.fill(database, blobs, uploads, datetime.now(UTC))  # noqa: TID251
        finally:
            database.close()
        (started.data / "admin-password").write_text(rows.PASSWORD)
        yield started
    finally:
        started.stop()


@pytest.fixture
def empty_server(tmp_path, started_once):  # noqa: F811 - a fixture
    """A server on its first day, which a test may stop and start."""
    started = Server(shutil.copytree(started_once, tmp_path / "data"))
    started.start()
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def context_of(browser, origin):
    """``context_of(role)``: what `visit` keeps from one test to the next.

    A page stays open in it, and with that the process which has compiled the scripts: a page in a
    process of its own costs twice as much.
    """
    kept = {}

    def context(role):
        if role not in kept:
            kept[role] = open_context(browser)
            kept[role].new_page().goto(f"{origin}/favicon.svg")
        return kept[role]

    yield context
    for one in kept.values():
        one.close()


@pytest.fixture
def visit(browser, origin, sessions, context_of):
    """``visit(role, **context options)``: a watched page of somebody who is logged in.

    The first page of a role is in a context that the tests of a file share; its cookies and its
    storage begin anew. A second one, and one with options, is in another browser, as it were.
    """
    shared, own = {}, []

    def begin(role="operator", **options):
        if options or role in shared:
            watched = open_page(browser, origin, storage_state=sessions[role], **options)
            own.append(watched.page.context)
            return watched
        context = context_of(role)
        context.set_storage_state(sessions[role])
        shared[role] = Watched(context.new_page(), origin)
        return shared[role]

    yield begin
    for role in shared:
        for page in context_of(role).pages[1:]:
            page.close()
    for context in own:
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
