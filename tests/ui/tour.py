"""One walk through every page in one tab; what was seen there is for many tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page, expect

from ui.browser import LAPTOP, PHONE, WIDE, Watched
from ui.loop_rows import DATASET, EARLIER
from ui.rollout_rows import PHASED
from ui.rows import PAUSED, RUNNING
from ui.sample_rows import LABELLED

PATHS = [
    "/fleet?q=lyon",
    "/fleet?q=nothing-is-called-this&online=true&model=har",
    "/fleet?state=decommissioned",
    "/fleet?overdue=true&site=lyon",
    "/fleet?view=sites",
    "/fleet/pi-porto-01",
    "/fleet/pi-lyon-01",
    "/fleet/pi-gdansk-03",
    "/enrol",
    "/models",
    "/models/har",
    "/models/har/2",
    "/models/har/3",
    "/models/har/4",
    "/models/door",
    "/models/door/6/compare/7",
    "/rollouts",
    "/rollouts/new?model=har&version=3",
    "/rollouts/new?model=door&version=6&to=where&where=site%3Dporto&phases=canary:3,50%25&soak=10m&deadline=2h&gate=error_rate%3C%3D0.01",
    "/rollouts/new?model=kws&version=1.0&phases=canary:2,25%25&soak=canary%3D2h&experiment=canary%3Aerror_rate",
    f"/rollouts/{RUNNING}?q=lyon",
    f"/rollouts/{RUNNING}?figures=true",
    f"/rollouts/{PAUSED}",
    f"/rollouts/{PHASED}?phase=2&state=rolled_back",
    "/drift?level=site&state=quiet",
    "/drift/har?all=true&range=6h",
    "/drift/har?device=pi-lyon-01",
    "/samples",
    f"/samples/{LABELLED}",
    "/labels",
    "/labels/har?answers=true",
    "/datasets",
    f"/datasets/{DATASET}",
    "/loop",
    "/loop/har",
    f"/loop/har?run={EARLIER}",
    "/loop/unknown",
    "/alerts",
    "/push",
    "/trust",
    "/audit",
    "/settings",
]
ALL_RULES = {
    "type": "tag",
    "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}
COLOUR_RULES = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
# axe, once a document, and quicker. It keeps private fields in WeakMaps, six for each colour, and
# reads the same few colours thousands of times: half of what it did, with the same findings.
PREPARE = f"""() => {{
  if (window.axe) return;
  class WeakMap {{
    constructor() {{ this.key = Symbol(); }}
    has(one) {{ return Object.hasOwn(one, this.key); }}
    get(one) {{ return one[this.key]; }}
    set(one, value) {{ one[this.key] = value; return this; }}
    delete(one) {{ return this.has(one) && delete one[this.key]; }}
  }}
  class WeakSet extends WeakMap {{
    add(one) {{ return this.set(one, true); }}
  }}
  {AXE_SCRIPT}
  const color = axe.commons.color.Color.prototype;
  const parse = color.parseString;
  const read = new Map();
  color.parseString = function (text) {{
    const known = read.get(text);
    if (known) {{
      [this.r, this.g, this.b, this.alpha] = known;
      return this;
    }}
    parse.call(this, text);
    read.set(text, [this.r, this.g, this.b, this.alpha]);
    return this;
  }};
}}"""
RUN = """([within, options]) =>
  axe.run(within ?? document, options).then((results) => results.violations)"""


@dataclass(frozen=True)
class Sight:
    """What a page is like.

    Attributes:
        violations: what axe has against it, in light and in dark.
        cut_off: tables that have to be scrolled sideways on a small laptop, but for those that
            say in numbers what a chart shows.
        phone_width: px that it takes on a phone.
        small_targets: what is under 24 px on a phone.
        commands: the command lines that it shows.
        text: what a reader sees.
        smuggled: elements that no code of ours makes; pictures of samples are its own.
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


def violations(page: Page, within: str | None = None) -> list[str]:
    """Return what axe has against the page: all rules in light, those on colour in dark too.

    Args:
        page: open.
        within: a selector: only what is in there, which is quicker.
    """
    found: list[dict[str, Any]] = []
    for scheme, rules in (("dark", COLOUR_RULES), ("light", ALL_RULES)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        expect(page.locator(f"html[data-mantine-color-scheme={scheme}]")).to_have_count(1)
        options = {"runOnly": rules, "resultTypes": ["violations"]}
        page.evaluate(PREPARE)
        found += page.evaluate(RUN, [within, options])
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
             .map((each) => each.getAttribute('aria-label'))
             .filter((name) => !name.endsWith(', as a table'))"""
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
        smuggled=page.locator("#root script, #root img:not(.pixels)").count(),
    )
