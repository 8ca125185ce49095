"""The whole page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from edgectl_server.report_page import answers, releases, sections
from edgectl_server.report_page.document import Document, read_document
from edgectl_server.report_page.html import Html, join, tag
from edgectl_server.report_page.parts import pill
from edgectl_server.report_page.style import STYLE
from edgectl_server.report_page.wording import time_text

__all__ = ["CONTENT_SECURITY_POLICY", "PAGE_BYTES_MAX", "render"]

PAGE_BYTES_MAX = 4 * 1024 * 1024
"""More a page never has, by the bounds of `document`; a test holds it."""
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'"
)
"""Nothing is loaded or run, and no style but ours is used, also where the file is kept."""
_SECTIONS = (
    sections.comparison,
    sections.trials,
    releases.small_steps,
    sections.sensitivity,
    answers.confusion,
    answers.disagreements,
    sections.gates,
    sections.data_checks,
    sections.lineage,
)


def render(version: Mapping[str, Any]) -> str:
    """Return the page of a version, as ``GET /models/{name}/versions/{version}`` describes it.

    The same document gives the same text.
    """
    document = read_document(version)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=CONTENT_SECURITY_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{document.title}: report"),
        tag("style", Html(STYLE)),  # raw text, in which nothing is escaped; it is a constant
    )
    body = tag(
        "body",
        tag(
            "main",
            _header(document),
            sections.headline(document),
            join(section(document) for section in _SECTIONS),
            tag("footer", _footer(document)),
        ),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _header(document: Document) -> Html:
    pushed = time_text(document.created_at)
    under = f"{document.source_name}, pushed {pushed} by {document.created_by}"
    return tag(
        "header",
        tag("h1", document.title, " ", pill(document.state) if document.state else ""),
        tag("p", under, class_="soft"),
    )


def _footer(document: Document) -> str:
    return (
        f"Report of {document.title}, made by edgectl. Size and accuracy come again with the same "
        "inputs; latencies are those of the machine that is named above."
    )
