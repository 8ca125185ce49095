"""Every dialog: the command that does the same, no finding of axe, and the keyboard's way out."""

import re
from pathlib import Path

import click
import pytest
from playwright.sync_api import expect

from edgectl.cli import cli
from ui.browser import PHONE
from ui.fleet_rows import HELD
from ui.rollout_rows import PHASED
from ui.rows import PAUSED, RUNNING, name_of
from ui.sample_rows import LABELLED
from ui.test_ui_pages import parse
from ui.tour import PATHS, commands, violations

pytestmark = pytest.mark.chromium

SOURCES = Path(__file__).parents[2] / "server/ui/src"
ROLLOUT = f"/rollouts/{RUNNING}"
DEVICE = "/fleet/pi-porto-01"
DIALOGS = {
    ROLLOUT: {"Pause": "rollout pause", "Abort": "rollout abort"},
    f"/rollouts/{PAUSED}": {"Resume": "rollout resume"},
    f"/rollouts/{PHASED}": {"Approve": "rollout approve"},
    DEVICE: {
        "Hold": "devices hold",
        "Roll back": "devices rollback",
        "Bench": "bench",
        "Lost": "devices revoke",
        "Decommission": "devices decommission",
        "Ask for its logs": "devices logs",
    },
    f"/fleet/{name_of(HELD)}": {"Release": "devices release"},
    "/models/har/4": {"Cancel": "jobs cancel"},
    "/enrol": {
        "Approve pi-waits": "devices approve",
        "Reject pi-waits": "devices reject",
        "Revoke 00c0ffee00c0ffee": "devices token revoke",
        "Remove pi-expected": "devices preauthorised remove",
    },
    "/alerts": {
        "Acknowledge": "alerts ack",
        "Take": "alerts assign",
        "Silence": "alerts silence add",
        "End": "alerts resolve",
    },
    "/settings": {
        "Overlaps of porto-pis": "selectors overlaps",
        "Delete porto-pis": "selectors delete",
        "Add user": "users create",
        "Change password": "users password",
    },
    f"/samples/{LABELLED}": {"Delete": "samples delete"},
    "/drift/har": {"Change": "drift usual", "Remove": "drift usual"},
    "/loop/kws": {"Approve the training": "loop approve", "Pause": "loop pause"},
}


# Click every button that says what it lacks, wherever a page that still fills has moved it.
CLICK_REFUSED = """() =>
  [...document.querySelectorAll('main button[aria-disabled=true]')]
    .filter((button) => button.getAttribute('aria-description'))
    .map((button) => {
      const event = { bubbles: true, cancelable: true, composed: true };
      button.dispatchEvent(new MouseEvent('click', event));
      return button.innerText.trim();
    })"""


@pytest.mark.parametrize("path", DIALOGS)
def test_dialogs_say_their_command_and_let_go_by_the_keyboard(visit, path):
    watched = visit("admin")
    page = watched.goto(path)
    for button, command in DIALOGS[path].items():
        found = page.locator("main").get_by_role("button", name=button, exact=True)
        opener = found.and_(page.locator(":not([aria-disabled=true])")).first
        opener.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_be_visible()
        expect(dialog.locator("[aria-busy=true]")).to_have_count(0)
        shown = commands(dialog)
        assert [line for line in shown if line.startswith(f"edgectl {command}")], (button, shown)
        for line in shown:
            parse(line)
        assert not violations(page, "[role=dialog]")
        page.keyboard.press("Tab")
        assert dialog.evaluate("(it) => it.contains(document.activeElement)"), "it keeps the focus"
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        expect(opener).to_be_focused()
    assert not watched.troubles


def test_a_page_with_an_open_dialog_is_accessible_on_a_phone(visit):
    """Where the page has a banner: what a dialog is headed by must not be another one."""
    page = visit("admin", viewport=PHONE).goto(ROLLOUT)
    page.get_by_role("button", name="Abort", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name="Abort this rollout")).to_be_visible()
    expect(dialog.get_by_role("button", name="Close", exact=True)).to_be_visible()
    assert not violations(page)


def test_what_is_done_to_a_user_says_its_command(visit):
    page = visit("admin").goto("/settings#users")
    for item, command in {
        "Change role": "edgectl users role viewer viewer",
        "New password": "edgectl users password viewer",
        "Log out everywhere": "edgectl users logout viewer",
        "Disable": "edgectl users disable viewer",
        "Delete": "edgectl users delete viewer",
    }.items():
        page.get_by_role("button", name="Change viewer").focus()
        page.keyboard.press("Enter")
        page.get_by_role("menuitem", name=re.compile(f"^{item}")).click()
        dialog = page.get_by_role("dialog")
        expect(dialog.locator(".command code")).to_have_text(command)
        parse(command)
        assert not violations(page, "[role=dialog]")
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        expect(page.get_by_role("button", name="Change viewer")).to_be_focused()


def test_every_command_of_the_page_is_one_of_the_command_line():
    """`cli.ts` is where they are written; a word that no command has is found here."""
    text = (SOURCES / "cli.ts").read_text()
    for words in set(re.findall(r"edgectl ((?:[a-z][a-z-]+ ?)+)", text)):
        parse_words(words.split())


def parse_words(words):
    """Have the command line resolve the names of a group and its command."""
    command, context = cli, None
    for word in words:
        if not isinstance(command, click.Group):
            return
        context = click.Context(command, parent=context, info_name=word)
        found = command.get_command(context, word)
        assert found is not None, f"edgectl {' '.join(words)}: there is no {word}"
        command = found


def test_a_viewer_has_no_button_that_changes_anything(visit):
    """Every page: what changes something is there, says what it needs, and does nothing."""
    watched = visit("viewer")
    page = watched.page
    sent = []
    page.on("request", lambda request: sent.append(request) if request.method != "GET" else None)
    refused = set()
    for path in PATHS:
        watched.goto(path)
        refused.update(page.evaluate(CLICK_REFUSED))
        expect(page.get_by_role("dialog")).to_have_count(0)
    changes = [one for one in sent if not one.url.endswith("/rollouts/plan")]
    assert not changes, [f"{one.method} {one.url}" for one in changes]
    assert {"Pause", "Abort", "Hold", "Decommission", "Approve", "Reject", "Acknowledge"} <= refused
    assert {"Make an enrol token", "Start rollout", "Delete", "Silence"} <= refused
