"""The page of keys and signatures: what it shows of a team that signs, and that it follows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from edgectl.demo import activity_data
from edgectl.types import PushOptions, PushRequest
from ui.browser import PHONE, Watched, log_in, open_page
from ui.tour import violations

pytestmark = pytest.mark.chromium


def keys(*arguments: str) -> None:
    """What people type on the server's machine, or on their own."""
    command = [sys.executable, "-m", "edgectl", "keys", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def team(empty_server: Any, browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``team(name)`` signs for vision-…, of which one model waits; and a page of the operator."""
    client = empty_server.client
    for name in ("vera", "vito"):
        keys("generate", str(tmp_path / f"{name}.pem"), "--name", name, "--no-passphrase")
    keys(
        *("delegate", "vision", "--pattern", "vision-*", "--threshold", "2"),
        *("--key", str(tmp_path / "vera.pub"), "--key", str(tmp_path / "vito.pub")),
        *("--data", str(empty_server.data)),
    )

    def sign(name: str) -> None:
        file = tmp_path / "staged.json"
        file.write_bytes(client.staged("vision"))
        keys("sign", str(file), "--key", str(tmp_path / f"{name}.pem"), "--yes")
        client.submit_staged("vision", file.read_bytes())

    watched = open_page(browser, empty_server.url.rstrip("/"))
    watched.page.goto(watched.origin)
    log_in(watched.page, "admin", (empty_server.data / "admin-password").read_text())
    expect(watched.page.get_by_text("vision 1 waits for 2 more of: vera, vito")).to_be_visible()
    watched.troubles.clear()  # the page has asked who we are before we had said it
    sign("vera")
    sign("vito")
    sign.watched, sign.client = watched, client  # type: ignore[attr-defined]
    yield sign
    watched.page.context.close()


def push(client: Any) -> None:
    source = client.upload(activity_data.MODEL).sha256
    options = PushOptions(max_drop_points=1.0, precisions=["fp32"], labels=[], encrypt=[])
    accepted = client.push(
        "vision-door", PushRequest(model=source, filename="door.onnx", options=options)
    )
    client.wait_job(accepted.job)


def test_a_signature_arrives_on_the_open_page(team: Any, tmp_path: Path) -> None:
    watched: Watched = team.watched
    page = watched.page
    push(team.client)
    watched.goto("/models/vision-door/1")
    expect(page.get_by_text("Waits for 2 of 2 signatures of vision.")).to_be_visible()
    start = page.get_by_role("link", name="Start rollout").or_(
        page.get_by_role("button", name="Start rollout")
    )
    expect(start).to_have_attribute("aria-disabled", "true")
    banner = page.get_by_text("vision 2 waits for 2 more of: vera, vito")
    expect(banner).to_be_visible()
    assert not violations(page)
    team("vera")
    expect(page.get_by_text("Waits for 1 of 2 signatures of vision.")).to_be_visible()
    team("vito")
    expect(page.locator("header.head").get_by_text("Ready")).to_be_visible()
    expect(page.get_by_text("vision 2 waits")).to_have_count(0)
    expect(start).not_to_have_attribute("aria-disabled", "true")
    assert not watched.troubles


def test_the_page_says_who_signs_and_how(team: Any, tmp_path: Path) -> None:
    watched: Watched = team.watched
    page = watched.page
    push(team.client)
    team("vera")
    watched.goto("/trust")
    staged = page.get_by_role("region", name="vision 2")
    expect(staged).to_contain_text("1 of 2 signatures")
    expect(staged).to_contain_text("+ 'models/vision-door/1/")
    expect(staged.locator("dd", has_text="vera")).to_have_count(1)
    expect(staged).to_contain_text("edgectl keys sign vision --key KEY")
    alerts = page.get_by_role("region", name="What needs attention")
    expect(alerts).to_contain_text("vision 2 waits for 1 more of: vito")
    table = page.get_by_role("region", name="Roles")
    row = table.locator("tr", has=page.get_by_text("vision", exact=True))
    expect(row).to_contain_text("2 of 2")
    expect(row).to_contain_text("by people")
    expect(page.get_by_role("link", name="vision-*")).to_have_attribute("href", "/models?q=vision-")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=tmp_path / f"trust-{scheme}.png", full_page=True)
    assert not violations(page)
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert not watched.troubles


def test_who_only_looks_is_not_alarmed(visit: Any, team: Any) -> None:
    """A viewer sees alerts on the page of trust, and no banner elsewhere."""
    client = team.client
    push(client)
    token = client.create_token("viewer", "viewer", 3600).token
    headers = {"Authorization": f"Bearer {token}"}
    origin = team.watched.origin
    answer = team.watched.page.context.request.get(f"{origin}/api/v1/trust", headers=headers)
    assert [one["code"] for one in json.loads(answer.text())["alerts"]] == ["trust.unsigned"]
    refused = team.watched.page.context.request.post(
        f"{origin}/api/v1/trust/staged/vision", headers=headers, data="{}"
    )
    assert refused.status == 403
