"""The whole way in a real browser: our server, a real provider, Chromium, and the command line."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from e2e.fleet import Server
from server.openid.openid_providers import CLIENT, SECRET, RealProvider
from ui.browser import launched
from ui.tour import violations
from waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.chromium]


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


@pytest.fixture
def provider(tmp_path):
    port = free_port()
    ours = f"http://127.0.0.1:{port}"
    started = RealProvider(tmp_path, [f"{ours}/api/v1/openid/callback"], [f"{ours}/"])
    started.account("17", preferred_username="ana", groups=["staff", "edge operators"])
    started.account("19", preferred_username="eve", groups=["edge admins"])
    started.account("18", preferred_username="bob", groups=["staff"])
    started.start()
    started.port_of_ours = port
    yield started
    started.stop()


@pytest.fixture
def server(tmp_path, provider):
    secret = tmp_path / "client-secret"
    secret.write_text(SECRET)
    settings = {
        "oidc_issuer": provider.issuer,
        "oidc_client_id": CLIENT,
        "oidc_client_secret_file": str(secret),
        "oidc_name": "Example ID",
        "oidc_roles": "edge operators=operator; edge admins=admin",
    }
    started = Server(tmp_path / "data", settings=settings)
    started.port = provider.port_of_ours
    started.start()
    yield started
    started.stop()


@pytest.fixture
def page(server):
    with launched() as browser:
        context = browser.new_context(locale="en-GB")
        context.set_default_timeout(60_000)
        # The provider's test pages would load a font from the world.
        context.route(
            lambda address: not address.startswith("http://127.0.0.1:"),
            lambda route: route.abort(),
        )
        page = context.new_page()
        page.troubles = []
        page.on("console", lambda said: page.troubles.append((page.url, said.type, said.text)))
        page.on("pageerror", lambda error: page.troubles.append((page.url, "thrown", str(error))))
        yield page


def log_in_at_the_provider(page, login, *, consents=True):
    page.get_by_placeholder("Enter any login").fill(login)
    page.get_by_placeholder("and password").fill("any")
    page.get_by_role("button", name="Sign-in").click()
    if consents:  # it remembers that
        page.get_by_role("button", name="Continue").click()


def test_in_by_the_button_on_to_a_command_line_and_out(page, server, provider, tmp_path):
    ours = server.url.rstrip("/")
    page.goto(f"{ours}/models?q=har")
    page.get_by_role("link", name="Log in with Example ID").click()
    assert page.url.startswith(provider.issuer)
    log_in_at_the_provider(page, "17")
    expect(page.get_by_role("button", name="ana@sso, operator: user menu")).to_be_visible()
    assert page.url == f"{ours}/models?q=har"  # the place that was asked for
    session = next(one for one in page.context.cookies() if one["name"] == "edgectl_session")
    assert session["httpOnly"]
    assert session["sameSite"] == "Strict"

    command_line_takes_the_login(page, ours, tmp_path)

    page.get_by_role("button", name="ana@sso, operator: user menu").click()
    page.get_by_role("menuitem", name="Log out").click()
    page.get_by_role("button", name="Yes, sign me out").click()  # at the provider
    expect(page.get_by_role("link", name="Log in with Example ID")).to_be_visible()
    page.get_by_role("link", name="Log in with Example ID").click()
    expect(page.get_by_placeholder("Enter any login")).to_be_visible()  # it asks again
    log_in_at_the_provider(page, "18")
    expect(page.get_by_role("alert")).to_contain_text("you have no role here")

    provider.stop()
    server.stop()
    server.start()
    page.goto(ours)
    expect(page.get_by_text("The provider of Example ID does not answer now.")).to_be_visible()
    expect(page.get_by_role("link", name="Log in with Example ID")).to_be_disabled()
    told = [one for one in page.troubles if one[0].startswith(ours) and "401" not in one[2]]
    assert told == []


@contextlib.contextmanager
def asking(home, *arguments):
    """Run a command that asks for a code; give the page it names, and what takes the code.

    What takes it returns what the command prints as JSON.
    """
    environment = {**os.environ, "XDG_CONFIG_HOME": str(home)}
    for name in ("EDGECTL_URL", "EDGECTL_TOKEN"):
        environment.pop(name, None)
    said = home.with_name("said")
    with said.open("wb") as errors:
        command = subprocess.Popen(
            [sys.executable, "-m", "edgectl", *arguments, "--json"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
        )

    def take(code):
        out, _ = command.communicate(f"{code}\n", timeout=60)
        assert command.returncode == 0, said.read_text()
        return json.loads(out)

    try:
        address = wait_for(lambda: re.search(r"http://\S+/handover\?\S+\n", said.read_text()))
        yield address[0].strip(), take
    finally:
        command.kill()
        command.wait()
        command.stdin.close()
        command.stdout.close()


def shown_code(page):
    page.get_by_role("button", name="Show the code").click()
    return page.get_by_label("Code", exact=True).inner_text()


def command_line_takes_the_login(page, ours, tmp_path):
    with asking(tmp_path / "home", "login", ours, "--sso") as (address, take):
        page.goto(address)
        expect(page.get_by_text("asks for a token of ana@sso")).to_be_visible()
        assert take(shown_code(page)) == {"url": ours, "user": "ana@sso", "role": "operator"}
    listed = subprocess.run(
        [sys.executable, "-m", "edgectl", "models", "list", "--json"],
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "home")},
        capture_output=True,
        check=True,
    )
    assert json.loads(listed.stdout) == []


def test_an_admin_changes_users_with_a_command_line(page, server, provider, tmp_path):
    ours = server.url.rstrip("/")
    page.goto(ours)
    page.get_by_role("link", name="Log in with Example ID").click()
    log_in_at_the_provider(page, "19")
    with asking(tmp_path / "home", "login", ours, "--sso") as (address, take):
        page.goto(address)
        assert take(shown_code(page))["role"] == "admin"

    create = ("users", "create", "ben", "--role", "viewer")
    with asking(tmp_path / "home", *create) as (address, take):
        page.goto(address)
        expect(page.get_by_text("wants to change who may log in, as eve@sso")).to_be_visible()
        assert violations(page) == []
        page.get_by_role("link", name="Log in again at the provider").click()
        log_in_at_the_provider(
            page, "19", consents=False
        )  # although it knows her: it was made to ask
        expect(page.get_by_role("button", name="Show the code")).to_be_visible()
        code = shown_code(page)
        made = take(code)["user"]
    assert (made["name"], made["role"]) == ("ben", "viewer")
    assert violations(page) == []
    told = [one for one in page.troubles if one[0].startswith(ours) and "401" not in one[2]]
    assert told == []
