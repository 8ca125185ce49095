"""Who has an account or a token that may little, and wants more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from attacks.scene import Site
from attacks.strangers import ask

pytestmark = pytest.mark.e2e
ATTACKER = "a limited account"
ZERO = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def site(open_site: Callable[..., Site]) -> Site:
    site = open_site()
    site.start()
    return site


CHANGES: tuple[tuple[str, str, Any], ...] = (
    ("POST", "rollouts", {"model": "har", "version": "1", "selector": {"all": True}}),
    ("POST", "enrolment/tokens", {"uses": 1, "expires_in_s": 600}),
    ("POST", "enrolment/preauthorised", {"entries": []}),
    ("POST", "enrolment/requests/pi-1/actions/approve", {"fingerprint": "0" * 64}),
    ("POST", "devices/pi-1/actions/revoke", None),
    ("POST", "devices/pi-1/actions/decommission", None),
    ("POST", "models/har/versions", {"model": ZERO, "filename": "m.onnx", "options": {}}),
    ("PATCH", f"uploads/{'0' * 64}", None),
    ("GET", "audit", None),
    ("GET", "audit/export", None),
)


def made(site: Site, role: str | None = None, scopes: list[str] | None = None) -> str:
    return str(site.client.create_token("limited", role, 600, scopes).token)


def test_changing_anything_with_a_viewers_token(site: Site) -> None:
    token = made(site, "viewer")
    assert ask(site, "GET", "devices", token=token)[0] == 200
    got = {path: ask(site, method, path, body, token=token)[0] for method, path, body in CHANGES}
    assert set(got.values()) == {403}, got


def test_going_beyond_the_scopes_of_a_token(site: Site) -> None:
    token = made(site, scopes=["models:write"])
    for method, path, body in CHANGES:
        if not path.startswith(("models", "uploads")):
            status = ask(site, method, path, body, token=token)[0]
            assert status == 403, path


def test_making_a_stronger_token_with_a_weak_one(site: Site) -> None:
    for token in (made(site, "viewer"), made(site, scopes=["rollouts:write"])):
        for wish in ({"role": "admin"}, {"scopes": ["admin"]}, {"scopes": ["models:write"]}):
            body = {"name": "more", "expires_in_s": 600, **wish}
            assert ask(site, "POST", "tokens", body, token=token)[0] in {403, 422}, wish


def test_deleting_a_stronger_token_with_a_weak_one(site: Site) -> None:
    victim = site.client.create_token("victim", "admin", 600).info.id
    token = made(site, "viewer")
    assert ask(site, "DELETE", f"tokens/{victim}", token=token)[0] in {403, 404}
    assert victim in {one.id for one in site.client.tokens().items}


def test_going_on_with_a_token_that_was_deleted(site: Site) -> None:
    issued = site.client.create_token("gone", "viewer", 600)
    assert ask(site, "GET", "devices", token=issued.token)[0] == 200
    site.client.delete_token(issued.info.id)
    assert ask(site, "GET", "devices", token=issued.token)[0] == 401


def test_without_any_account(site: Site) -> None:
    got = {path: ask(site, method, path, body)[0] for method, path, body in CHANGES}
    assert set(got.values()) == {401}, got


@pytest.mark.admitted("it reads: devices, models, rollouts")
def test_looking_at_everything_with_a_viewers_token(site: Site) -> None:
    token = made(site, "viewer")
    for path in ("devices", "models", "rollouts", "fleet", "jobs", "security-events"):
        assert ask(site, "GET", path, token=token)[0] == 200
