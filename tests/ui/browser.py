"""A real browser on the real page, watched: what it logs, asks for outside, and throws."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from ui.rows import PASSWORD

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE = {"width": 1440, "height": 900}
LAPTOP = {"width": 1024, "height": 768}
PHONE = {"width": 375, "height": 812}
expect.set_options(timeout=20_000)  # a busy machine is slow, and nothing is right by being quick


@contextmanager
def launched() -> Iterator[Browser]:
    """Debian's chromium. Its library keeps an event loop running until the end of the file."""
    if not os.access(CHROMIUM, os.X_OK):
        pytest.skip(f"{CHROMIUM} is not there: install Debian's package chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@dataclass
class Watched:
    """A page, and what went wrong in it."""

    page: Page
    origin: str
    troubles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin to watch."""
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.troubles.append(f"thrown: {error}"))
        self.page.on("request", self._see)

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.troubles.append(f"{message.type} on {self.page.url}: {message.text}")

    def _see(self, request: Any) -> None:
        if not request.url.startswith((self.origin + "/", "data:", "blob:")):
            self.troubles.append(f"outside the origin: {request.url}")

    def goto(self, path: str) -> Page:
        """Open an address of the server; return when its heading and its data are there."""
        self.page.goto(self.origin + path)
        self.settled()
        return self.page

    def settled(self) -> None:
        """Wait until nothing of the page is still a placeholder."""
        expect(self.page.locator("h1, .empty").first).to_be_visible()
        expect(self.page.locator("[aria-busy=true]")).to_have_count(0)


def open_context(browser: Browser, **options: Any) -> BrowserContext:
    """Return a browser of its own, as it were: its cookies, its storage, its cache."""
    options.setdefault("viewport", WIDE)
    context = browser.new_context(
        locale="en-GB", timezone_id="UTC", reduced_motion="reduce", **options
    )
    context.set_default_timeout(30_000)
    return context


def open_page(browser: Browser, origin: str, **options: Any) -> Watched:
    """Return a page in a context of its own; the context is `watched.page.context`."""
    return Watched(open_context(browser, **options).new_page(), origin)


def log_in(page: Page, user: str, password: str = PASSWORD) -> None:
    """Fill in the form that is shown and send it."""
    page.get_by_label("User name").fill(user)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Log in").click()
