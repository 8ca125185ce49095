"""A code that a page of the server shows to whoever is logged in there, carried over by hand.

The page's address holds the SHA-256 of a verifier that only this process knows: the code is of use
to nobody else. It works over SSH too, with a browser on another machine.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import sys
import webbrowser
from typing import NamedTuple

import click

__all__ = ["BrowserCode", "ask_browser_code"]

_CODE_CHARACTERS_MAX = 4096


class BrowserCode(NamedTuple):
    """What the page has shown, and what makes it worth something."""

    code: str
    verifier: str


def ask_browser_code(url: str, words: str, query: str = "") -> BrowserCode:
    """Print the address of the page, open it where that can be, and ask for the code.

    Args:
        url: of the server.
        words: what to do there.
        query: more of the address, such as ``&for=proof``.
    """
    verifier = secrets.token_urlsafe(48)  # RFC 7636: without it, the code is worth nothing
    digest = hashlib.sha256(verifier.encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    page = f"{url}/handover?challenge={challenge}{query}"
    click.echo(f"{words}:\n\n  {page}\n", err=True)
    if _has_browser():
        webbrowser.open(page)
    code: str = click.prompt("code", err=True)
    return BrowserCode(code.strip()[:_CODE_CHARACTERS_MAX], verifier)


def _has_browser() -> bool:
    """Say whether a browser would open beside this terminal, rather than in it or nowhere."""
    if not sys.stdin.isatty():
        return False
    if sys.platform in {"darwin", "win32"}:
        return "SSH_CONNECTION" not in os.environ
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
