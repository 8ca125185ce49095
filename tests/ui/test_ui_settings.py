"""The audit log, users and webhooks, as an admin sees them; in a real browser."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.chromium


def test_the_audit_log_is_asked_by_who_and_what(visit, api):
    api("PUT", "/selectors/for-the-log", {"text": "site=porto"})
    api("DELETE", "/selectors/for-the-log")
    watched = visit("admin")
    page = watched.goto("/audit")
    table = page.get_by_role("region", name="Audit log")
    rows = table.locator("tbody tr:not(.detail)")
    page.get_by_label("To", exact=True).fill("for-the-log")
    page.keyboard.press("Enter")
    expect(rows).to_have_count(2)
    rows.filter(has_text="put_selector").get_by_role("button", name="put_selector").click()
    expect(rows).to_have_count(1)
    expect(table).to_contain_text("text site=porto")
    expect(page).to_have_url(re.compile("object=for-the-log&action=put_selector"))
    expect(page.locator(".command", has_text="audit list")).to_contain_text(
        "edgectl audit list --action put_selector --object for-the-log"
    )
    page.get_by_role("combobox", name="Time").click()
    page.get_by_role("option", name="Last hour").click()
    expect(rows).to_have_count(1)
    page.get_by_role("combobox", name="Outcome").click()
    page.get_by_role("option", name="Failed").click()
    expect(page.get_by_text("No row matches")).to_be_visible()
    expect(page.locator(".facts")).to_contain_text("by a signed head outside of the database")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export everything").click()
    assert download.value.suggested_filename == "edgectl-audit.jsonl"
    first, *_ = Path(download.value.path()).read_bytes().splitlines()
    assert b"edgectl-audit-1" in first
    assert not watched.troubles


def test_users_are_shown_to_admins_alone(visit):
    page = visit("admin").goto("/settings")
    row = page.get_by_role("region", name="Users").locator("tr", has_text="operator")
    expect(row.first).to_contain_text("password")
    row.first.get_by_role("link", name="audit log").click()
    expect(page).to_have_url(re.compile(r"/audit\?actor=operator"))
    other = visit("operator").goto("/settings")
    expect(other.locator("#tokens")).to_be_visible()
    expect(other.locator("#users, #webhooks")).to_have_count(0)


def test_a_webhook_is_added_switched_off_and_removed(visit, api):
    watched = visit("admin")
    page = watched.goto("/settings")
    panel = page.locator("#webhooks")
    panel.get_by_label("Webhook", exact=True).fill("ops")
    panel.get_by_label("Address").fill("https://hooks.example.org/edgectl")
    expect(panel.locator("code")).to_have_text(
        "edgectl webhooks add ops https://hooks.example.org/edgectl "
        "--event rollout.paused --event rollout.finished --event gate.failed"
    )
    panel.get_by_role("button", name="Add webhook").click()
    expect(panel).to_contain_text("It is shown this once")
    panel.get_by_role("button", name="Switch ops off").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("code")).to_have_text("edgectl webhooks set ops --off")
    dialog.get_by_role("button", name="Off", exact=True).click()
    expect(panel.get_by_role("button", name="Switch ops on")).to_be_visible()
    panel.get_by_role("button", name="Deliveries of ops").click()
    expect(page.get_by_text("Nothing was sent yet")).to_be_visible()
    page.keyboard.press("Escape")
    panel.get_by_role("button", name="Delete ops").click()
    dialog = page.get_by_role("dialog", name="Delete ops")
    expect(dialog.locator("code")).to_have_text("edgectl webhooks remove ops")
    dialog.get_by_role("button", name="Delete").click()
    expect(panel.get_by_role("button", name="Delete ops")).to_have_count(0)
    assert not watched.troubles
