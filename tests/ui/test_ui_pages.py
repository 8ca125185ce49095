"""Every page: clean console, nothing from outside, accessible in both themes, fits a phone."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from ui.browser import PHONE, open_page
from ui.rows import MARKUP, PAUSED, RUNNING

pytestmark = pytest.mark.chromium

PAGES = [
    "/fleet",
    "/fleet?q=nothing-is-called-this&online=true&model=har",
    "/fleet/pi-porto-01",
    "/fleet/pi-lyon-01",
    "/models",
    "/models/har",
    "/models/har/2",
    "/models/har/3",
    "/models/har/4",
    "/rollouts",
    "/rollouts/new?model=har&version=3",
    f"/rollouts/{RUNNING}",
    f"/rollouts/{PAUSED}",
    "/settings",
]
ALL_RULES = {
    "type": "tag",
    "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}
COLOUR_RULES = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}


def findings(page):
    """Return what axe has against the page: all rules in light, those on colour in dark too."""
    found = []
    for scheme, rules in (("light", ALL_RULES), ("dark", COLOUR_RULES)):
        page.emulate_media(color_scheme=scheme)
        expect(page.locator(f"html[data-mantine-color-scheme={scheme}]")).to_have_count(1)
        found += (
            Axe()
            .run(page, options={"runOnly": rules, "resultTypes": ["violations"]})
            .response["violations"]
        )
    return [
        f"{page.url}: {one['id']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
        for one in found
        for node in one["nodes"]
    ]


def test_every_page_is_clean_and_accessible(visit):
    watched = visit("admin")
    seen = []
    for path in PAGES:
        seen += findings(watched.goto(path))
    assert not seen
    assert not watched.troubles


def test_dialogs_and_the_login_are_accessible(visit, browser, origin):
    watched = visit("admin")
    page = watched.goto(f"/rollouts/{RUNNING}")
    page.get_by_role("button", name="Abort").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert not findings(page)

    stranger = open_page(browser, origin)
    stranger.page.goto(origin)
    expect(stranger.page.get_by_label("User name")).to_be_visible()
    seen = findings(stranger.page)
    stranger.page.context.close()
    assert not seen


def test_no_page_is_wider_than_a_phone(visit):
    watched = visit("operator", viewport=PHONE, has_touch=True)
    for path in PAGES:
        page = watched.goto(path)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], f"{path} is {width} px wide"
        small = page.evaluate(
            """() => [...document.querySelectorAll('button, .nav a, [role=button]')]
                 .map((each) => [each, each.getBoundingClientRect()])
                 .filter(([, box]) => box.width && (box.width < 24 || box.height < 24))
                 .map(([each]) => each.outerHTML.slice(0, 120))"""
        )
        assert not small, f"{path}: targets under 24 px: {small}"


def test_markup_in_names_and_reasons_is_text(visit):
    watched = visit("operator")
    shown = {
        "/fleet": "Devices",
        "/fleet/pi-lyon-01": "Update timeline",
        "/models/har/3": "Recipes that were tried",
        f"/rollouts/{PAUSED}": "History of this rollout",
        f"/rollouts/{RUNNING}": "Devices of this rollout",
    }
    for path, region in shown.items():
        page = watched.goto(path)
        expect(page.get_by_role("region", name=region)).to_contain_text(MARKUP)
        assert page.evaluate("document.querySelectorAll('#root script, #root img').length") == 0
        assert "owned" not in page.title()
    assert not watched.troubles, "the policy of the page has nothing to block"


@pytest.mark.parametrize(
    ("path", "back"),
    [
        ("/fleet/pi-nowhere", "Back to the fleet"),
        ("/models/nothing", "All models"),
        ("/rollouts/what-is-this", "All rollouts"),
        ("/models/har/99", "All versions of har"),
        ("/rollouts/0000000000000000", "All rollouts"),
        ("/no/such/page", "Go to the fleet"),
    ],
)
def test_what_does_not_exist_leads_back(visit, origin, path, back):
    page = visit().page
    page.goto(origin + path)
    page.get_by_role("link", name=back).click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_the_keyboard_reaches_the_content_first(visit):
    page = visit().goto("/fleet")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")
