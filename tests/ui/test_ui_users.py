"""An admin changes who may log in, with the own password; in a real browser."""

import re

import pytest
from playwright.sync_api import expect

from ui.rows import PASSWORD

pytestmark = pytest.mark.chromium


def confirm(page, action, password=PASSWORD):
    dialog = page.get_by_role("dialog")
    if password:
        dialog.get_by_label("Your own password").fill(password)
    dialog.get_by_role("button", name=action, exact=True).click()
    return dialog


def change(page, user, what):
    page.get_by_role("button", name=f"Change {user}").click()
    page.get_by_role("menuitem", name=what).click()
    return page.get_by_role("dialog")


def log_in(browser, origin, user, password):
    context = browser.new_context()
    answer = context.request.post(
        f"{origin}/api/v1/session", data={"username": user, "password": password}
    )
    context.close()
    return answer.status


def test_a_user_is_added_changed_and_deleted(visit, browser, origin):
    watched = visit("admin")
    page = watched.goto("/settings#users")
    panel = page.locator("#users")
    panel.get_by_role("button", name="Add user").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("User name").fill("ana")
    expect(dialog.get_by_role("button", name="Add user")).to_be_disabled()
    expect(dialog.locator("code")).to_have_text("edgectl users create ana --role viewer")
    confirm(page, "Add user")
    expect(panel).to_contain_text("It is shown this once")
    password = panel.locator("code.mono").first.inner_text()
    assert log_in(browser, origin, "ana", password) == 200

    dialog = change(page, "ana", "Change role")
    dialog.get_by_role("combobox", name="Role").click()
    dialog.get_by_role("option", name="operator").click()
    expect(dialog.locator("code")).to_have_text("edgectl users role ana operator")
    expect(dialog.get_by_text("within the last five minutes")).to_be_visible()
    confirm(page, "Change role", password="")
    row = panel.locator("tbody tr", has_text="ana").first
    expect(row).to_contain_text("operator")

    dialog = change(page, "ana", "Disable")
    expect(dialog.locator("code")).to_have_text("edgectl users disable ana")
    confirm(page, "Disable", password="")
    expect(row).to_contain_text("disabled")
    assert log_in(browser, origin, "ana", password) == 401
    change(page, "ana", "Let in again")
    confirm(page, "Let in", password="")
    expect(row).not_to_contain_text("disabled")
    assert log_in(browser, origin, "ana", password) == 200

    dialog = change(page, "ana", "Log out everywhere")
    expect(dialog.locator("code")).to_have_text("edgectl users logout ana")
    confirm(page, "Log out", password="")
    expect(page.get_by_role("dialog")).to_have_count(0)
    change(page, "ana", "New password")
    confirm(page, "Make a new password", password="")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert log_in(browser, origin, "ana", password) == 401
    change(page, "ana", "Delete")
    confirm(page, "Delete", password="")
    expect(panel.get_by_role("button", name="Change ana")).to_have_count(0)
    assert not watched.troubles


def test_a_wrong_password_is_told_and_a_reload_forgets_the_proof(visit):
    watched = visit("admin")
    page = watched.goto("/settings#users")
    change(page, "viewer", "Log out everywhere")
    dialog = confirm(page, "Log out", password="not my password")
    expect(dialog.get_by_role("alert")).to_contain_text("this is not the password of admin")
    confirm(page, "Log out")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.reload()
    dialog = change(page, "viewer", "Log out everywhere")
    expect(dialog.get_by_label("Your own password")).to_be_visible()
    kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
    assert "proof" not in kept.lower()


def test_the_own_user_has_to_be_meant_and_the_last_admin_stays(visit):
    page = visit("admin").goto("/settings#users")
    dialog = change(page, "admin", "Delete")
    expect(dialog.locator("code")).to_have_text("edgectl users delete admin --myself")
    dialog.get_by_label("Your own password").fill(PASSWORD)
    expect(dialog.get_by_role("button", name="Delete")).to_be_disabled()
    dialog.get_by_label("I mean my own user").check()
    dialog.get_by_role("button", name="Delete").click()
    expect(dialog.get_by_role("alert")).to_contain_text("the last admin")


def test_the_tokens_of_a_user_are_those_that_are_counted(visit, api):
    api("POST", "/tokens", {"name": "a program"})
    page = visit("admin").goto("/settings?people.q=admin")
    users = page.get_by_role("region", name="Users").locator("tbody tr")
    expect(users).to_have_count(1)
    link = users.get_by_role("link", name=re.compile(r"^\d+$"))
    number = int(link.inner_text())
    link.click()
    expect(page).to_have_url(re.compile(r"tokens\.user=admin&tokens\.valid=true#tokens"))
    chip = page.get_by_role("button", name="Of admin, not expired, remove filter")
    expect(chip).to_be_visible()
    shown = page.locator("#tokens .pager")
    expect(shown).to_contain_text(f"of {number}")
    chip.click()
    expect(page).not_to_have_url(re.compile("tokens.user"))


def test_everybody_changes_the_own_password(browser, empty_server):
    new = "quite another password"
    context = browser.new_context()
    page = context.new_page()
    try:
        page.goto(empty_server.url)
        page.get_by_label("User name").fill("admin")
        first = (empty_server.data / "admin-password").read_text().strip()
        page.get_by_label("Password", exact=True).fill(first)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("link", name="Settings")).to_be_visible()
        page.goto(f"{empty_server.url.rstrip('/')}/settings")
        page.get_by_role("button", name="Change password").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("New password", exact=True).fill(new)
        dialog.get_by_label("New password again").fill("another one than that")
        expect(dialog).to_contain_text("This is another one")
        dialog.get_by_label("New password again").fill(new)
        expect(dialog.locator("code")).to_have_text("edgectl users password")
        confirm(page, "Change password", password=first)
        expect(page.get_by_text(re.compile("Changed. Other browsers"))).to_be_visible()
        here = empty_server.url.rstrip("/")
        assert log_in(browser, here, "admin", first) == 401
        assert log_in(browser, here, "admin", new) == 200
    finally:
        context.close()
