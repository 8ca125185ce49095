"""One walk through every page in one tab; what was seen there is for many tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from ui.browser import LAPTOP, PHONE, WIDE, Watched
from ui.rows import PAUSED, RUNNING

PATHS = [
    "/fleet?q=lyon",
    "/fleet?q=nothing-is-called-this&online=true&model=har",
    "/fleet?state=decommissioned",
    "/fleet/pi-porto-01",
    "/fleet/pi-lyon-01",
    "/fleet/pi-gdansk-03",
    "/enrol",
    "/models",
    "/models/har",
    "/models/har/2",
    "/models/har/3",
    "/models/har/4",
    "/rollouts",
    "/rollouts/new?model=har&version=3",
    f"/rollouts/{RUNNING}?q=lyon",
    f"/rollouts/{RUNNING}?figures=true",
    f"/rollouts/{PAUSED}",
    "/trust",
    "/settings",
]
ALL_RULES = {
    "type": "tag",
    "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}
COLOUR_RULES = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}


@dataclass(frozen=True)
class Sight:
    """What a page is like.

    Attributes:
        violations: what axe has against it, in light and in dark.
        cut_off: tables that have to be scrolled sideways on a small laptop.
        phone_width: px that it takes on a phone.
        small_targets: what is under 24 px on a phone.
        commands: the command lines that it shows.
        text: what a reader sees.
        smuggled: elements that no code of ours makes.
    """

    path: str
    title: str
    violations: list[str]
    cut_off: list[str]
    phone_width: int
    small_targets: list[str]
    commands: list[str]
    text: str
    smuggled: int


def violations(page: Page) -> list[str]:
    """Return what axe has against the page: all rules in light, those on colour in dark too."""
    found: list[dict[str, Any]] = []
    for scheme, rules in (("dark", COLOUR_RULES), ("light", ALL_RULES)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        expect(page.locator(f"html[data-mantine-color-scheme={scheme}]")).to_have_count(1)
        options = {"runOnly": rules, "resultTypes": ["violations"]}
        found += Axe().run(page, options=options).response["violations"]
    return [
        f"{page.url}: {one['id']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
        for one in found
        for node in one["nodes"]
    ]


def commands(page: Page) -> list[str]:
    """Return the command lines that the page shows now."""
    return page.locator(".command code").all_text_contents()


def look(watched: Watched, path: str) -> Sight:
    """Open a page and return what is seen of it."""
    page = watched.goto(path)
    page.set_viewport_size(LAPTOP)
    cut_off = page.evaluate(
        """() => [...document.querySelectorAll('.table-scroll')]
             .filter((each) => each.scrollWidth > each.clientWidth)
             .map((each) => each.getAttribute('aria-label'))"""
    )
    page.set_viewport_size(PHONE)
    phone_width = page.evaluate("document.documentElement.scrollWidth")
    small_targets = page.evaluate(
        """() => [...document.querySelectorAll('button, .nav a, [role=button]')]
             .map((each) => [each, each.getBoundingClientRect()])
             .filter(([, box]) => box.width && (box.width < 24 || box.height < 24))
             .map(([each]) => each.outerHTML.slice(0, 120))"""
    )
    page.set_viewport_size(WIDE)
    return Sight(
        path=path,
        title=page.title(),
        violations=violations(page),
        cut_off=cut_off,
        phone_width=phone_width,
        small_targets=small_targets,
        commands=commands(page),
        text=page.locator("main").inner_text(),
        smuggled=page.locator("#root script, #root img").count(),
    )
