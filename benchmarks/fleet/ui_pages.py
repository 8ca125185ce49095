"""What the web UI costs with a large fleet: browser, wire, and server with many tabs open.

::

    python -m benchmarks.fleet.ui_pages                     10,000 devices, 20 tabs, a minute
    python -m benchmarks.fleet.ui_pages --devices 100000

The rows are written by the storage layer (`benchmarks.fleet.ui_rows`), and go on changing while the
tabs are open, by this process: the server's own processor time is what it spends on looking. It is
measured without a tab, then with all of them, over the same time. Each tab is a browser of its own
(own cookies, cache and event stream), on the fleet page. Prints a table, and last one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from benchmarks.fleet.running import Server, running_server
from benchmarks.fleet.ui_rows import device_name, fill, report
from edgectl_server.storage.database import Database

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
MINUTE_S = 60.0
FLEET = "/fleet"
READY_MS = 120_000
PAGES = {
    "fleet": FLEET,
    "fleet, by site": "/fleet?view=sites",
    "fleet, a selector": "/fleet?where=site%3Dsite-07%20and%20not%20runs%3Dhar%401",
    "fleet, last page": "/fleet?offset={last}&sort=-last_seen_at",
    "device": f"/fleet/{device_name(1)}",
    "audit log": "/audit",
    "settings": "/settings",
}
READY = """() => document.querySelector('h1') && !document.querySelector('[aria-busy=true]')
  && !document.querySelector('.mantine-Skeleton-root') && performance.now()"""
"""Everything of the page is there and answers: nothing is a placeholder any more."""


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"  {text}", file=sys.stderr, flush=True)


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)  # noqa: TID251 - nothing here is given a clock


@contextlib.contextmanager
def living(database: Database, devices: int) -> Iterator[None]:
    """Have every device report once a minute, as far as the machine can."""
    ended = threading.Event()

    def live() -> None:
        slices = [range(second, devices, int(MINUTE_S)) for second in range(int(MINUTE_S))]
        begun = time.monotonic()
        for tick in itertools.count():
            if ended.wait(max(0.0, begun + tick - time.monotonic())):
                return
            report(database, slices[tick % len(slices)], 1000 + tick, now())

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def log_in(browser: Browser, server: Server) -> BrowserContext:
    """Return a browser of its own that is logged in."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    password = (server.data / "admin-password").read_text().strip()
    answer = context.request.post(
        f"{server.url.rstrip('/')}/api/v1/session", data={"username": "admin", "password": password}
    )
    assert answer.ok, answer.text()
    return context


def visit(page: Page, address: str) -> dict[str, float]:
    """Open a page; return how long it took and what came over the wire.

    Returns:
        ``ready_ms`` by the browser's clock, ``busy_ms`` of its main thread, ``requests``, ``kb``.
    """
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Performance.enable")
    seen = {"requests": 0, "bytes": 0}
    session.on("Network.requestWillBeSent", lambda _: seen.update(requests=seen["requests"] + 1))
    session.on(
        "Network.loadingFinished",
        lambda event: seen.update(bytes=seen["bytes"] + int(event["encodedDataLength"])),
    )
    page.goto(address, wait_until="commit", timeout=READY_MS)
    ready_ms = page.wait_for_function(READY, timeout=READY_MS).json_value()
    metrics = {
        one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]
    }
    session.detach()
    return {
        "ready_ms": ready_ms,
        "busy_ms": metrics["TaskDuration"] * 1e3,
        "requests": seen["requests"],
        "kb": seen["bytes"] / 1e3,
    }


def visits(browser: Browser, server: Server, devices: int) -> dict[str, dict[str, float]]:
    """Open each page in a fresh browser, and again with what that has kept."""
    found: dict[str, dict[str, float]] = {}
    origin = server.url.rstrip("/")
    for name, path in PAGES.items():
        address = origin + path.format(last=max(0, devices - 25))
        context = log_in(browser, server)
        page = context.new_page()
        before = server.used().server_s
        first = visit(page, address)
        used_ms = (server.used().server_s - before) * 1e3
        again = visit(page, address)
        context.close()
        found[name] = {
            **first,
            "server_ms": used_ms,
            "again_ready_ms": again["ready_ms"],
            "again_kb": again["kb"],
        }
        say(f"{name}: {first['ready_ms']:.0f} ms")
    return found


def spent(server: Server, seconds: float) -> float:
    """Return the server's processor time per second while nothing is done here."""
    before = server.used()
    time.sleep(seconds)
    after = server.used()
    return (after.server_s - before.server_s) / (after.at_s - before.at_s)


def tabs_open(browser: Browser, server: Server, tabs: int, seconds: float) -> dict[str, float]:
    """Open tabs on the fleet page and leave them; return what the server spends."""
    alone = spent(server, seconds)
    say(f"no tab: {alone:.3f} of a processor")
    rss = server.used().server_bytes
    pages = []
    for _ in range(tabs):
        page = log_in(browser, server).new_page()
        page.goto(server.url.rstrip("/") + FLEET, wait_until="commit", timeout=READY_MS)
        pages.append(page)
    for page in pages:
        page.wait_for_function(READY, timeout=READY_MS)
        page.locator(".side [data-live=true]").wait_for(timeout=READY_MS)
    watched = spent(server, seconds)
    still_live = sum(page.locator(".side [data-live=true]").count() for page in pages)
    return {
        "without_tabs": alone,
        "with_tabs": watched,
        "tabs": tabs,
        "still_live": still_live,
        "rss_per_tab_kb": (server.used().server_bytes - rss) / 1e3 / tabs,
    }


def show(found: dict[str, dict[str, float]], open_: dict[str, float]) -> None:
    """Print the tables."""
    columns = [
        "ready ms",
        "main thread ms",
        "server CPU ms",
        "requests",
        "kB",
        "again ms",
        "again kB",
    ]
    print(f"{'page':20}" + "".join(f"{one:>16}" for one in columns))
    for name, one in found.items():
        keys = ("ready_ms", "busy_ms", "server_ms", "requests", "kb", "again_ready_ms", "again_kb")
        print(f"{name:20}" + "".join(f"{one[key]:16,.0f}" for key in keys))
    print(
        f"\n{open_['tabs']:.0f} tabs on the fleet page, {open_['still_live']:.0f} live to the end: "
        f"{open_['with_tabs'] * 100:.1f} % of a processor, "
        f"{open_['without_tabs'] * 100:.1f} % without a tab; "
        f"{open_['rss_per_tab_kb']:,.0f} kB a tab"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet.ui_pages")
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--tabs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    if not os.access(CHROMIUM, os.X_OK):
        print(f"{CHROMIUM} is missing: apt install chromium", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-ui-") as scratch:
        data = Path(scratch) / "server"
        with running_server(data, "embedded", 50) as server:
            database = Database(f"sqlite:///{data / 'edgectl.sqlite'}")
            say(f"{options.devices} devices are written")
            fill(database, options.devices, now())
            with sync_playwright() as playwright, living(database, options.devices):
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
                found = visits(browser, server, options.devices)
                open_ = tabs_open(browser, server, options.tabs, options.seconds)
                browser.close()
            database.close()
    print(f"{options.devices:,} devices on {platform.machine()}, {os.cpu_count()} processors\n")
    show(found, open_)
    result = {"benchmark": "ui_pages", "devices": options.devices, "pages": found, "open": open_}
    print(json.dumps(_rounded(result)))
    return 0


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    raise SystemExit(main())
