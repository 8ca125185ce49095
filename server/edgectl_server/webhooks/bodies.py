"""What is sent: our own form, or what chat rooms of Slack and Microsoft Teams show.

Text in it comes from devices and people: nothing of it is read as markup. Slack shows plain-text
blocks, and reads ``& < >`` in the fallback text only (api.slack.com, "Formatting text"); Teams
shows text runs of a RichTextBlock, which know no Markdown (Adaptive Cards 1.4), in the envelope
that its workflow "when a Teams webhook request is received" takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = ["TEST_EVENT", "make_body"]

TEST_EVENT = "webhook.test"
_TEXT_CHARACTERS_MAX = 1000
_ROWS_MAX = 20
_WHAT = {
    "rollout.started": "rollout started",
    "rollout.phase": "rollout goes on with its next phase",
    "rollout.paused": "rollout paused",
    "rollout.resumed": "rollout resumed",
    "rollout.approved": "phase of the rollout approved",
    "rollout.aborted": "rollout aborted",
    "rollout.finished": "rollout finished",
    "gate.failed": "gate failed",
    "device.failed": "update failed",
    "device.rejected": "update rejected",
    "device.rolled_back": "update rolled back",
    "enrolment.pending": "a device asks to be let in",
    "alert.began": "alerts",
    "alert.again": "alerts that last still",
    "alert.ended": "alerts that have ended",
    TEST_EVENT: "this is a test",
}


def make_body(form: str, event: str, data: Mapping[str, Any], at: datetime) -> bytes:
    """Return the JSON to send.

    Args:
        form: ``edgectl``, ``slack`` or ``teams``.
        event: such as ``rollout.paused``.
        data: of the event.
        at: when it happened.
    """
    match form:
        case "slack":
            document = _slack(event, data)
        case "teams":
            document = _teams(event, data)
        case _:
            shown = at.astimezone(UTC).isoformat().replace("+00:00", "Z")
            document = {"type": event, "timestamp": shown, "data": dict(data)}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _slack(event: str, data: Mapping[str, Any]) -> dict[str, Any]:
    title, rows = _title(event, data), _rows(data)
    text = "\n".join([title, *(f"{name}: {value}" for name, value in rows)])
    escaped = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = {"type": "plain_text", "text": _cut(text, 3 * _TEXT_CHARACTERS_MAX), "emoji": False}
    return {"text": escaped, "blocks": [{"type": "section", "text": shown}]}


def _teams(event: str, data: Mapping[str, Any]) -> dict[str, Any]:
    def line(*runs: dict[str, Any]) -> dict[str, Any]:
        return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", **one} for one in runs]}

    body = [line({"text": _title(event, data), "weight": "bolder", "size": "medium"})]
    body += [line({"text": f"{name}: ", "isSubtle": True}, {"text": v}) for name, v in _rows(data)]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    }
    attachment = {
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": None,
        "content": card,
    }
    return {"type": "message", "attachments": [attachment]}


def _title(event: str, data: Mapping[str, Any]) -> str:
    subject = " ".join(
        str(one)
        for one in (
            f"{data['model']}@{data['version']}" if "model" in data else "edgectl",
            f"on {data['device']}" if "model" in data and "device" in data else "",
        )
        if one
    )
    return _cut(f"{subject}: {_WHAT.get(event, event)}", 150)


def _rows(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values to show, without what is empty."""
    if "counts" in data:
        return _alerts(data)
    rows = []
    for name, value in data.items():
        if name == "reason" and isinstance(value, Mapping):
            value = f"{value.get('code', '')} {value.get('detail', '')}".strip()  # noqa: PLW2901
        elif isinstance(value, Mapping):
            value = "; ".join(f"{key}: {one}" for key, one in value.items())  # noqa: PLW2901
        if value not in (None, "", [], {}):
            rows.append((name, _cut(str(value), _TEXT_CHARACTERS_MAX)))
    return rows[:_ROWS_MAX]


def _alerts(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the alerts of a message, one a row (`edgectl_server.alerting.texts`)."""
    titles = {"began": "", "again": " (lasts still)", "ended": " (ended)"}
    rows = [
        (f"{one['severity']}{title}", _cut(str(one["summary"]), _TEXT_CHARACTERS_MAX))
        for name, title in titles.items()
        for one in data[name]
    ]
    more = sum(data["counts"].values()) - len(rows)
    return [*rows, ("more", str(more))] if more else rows


def _cut(text: str, characters_max: int) -> str:
    shown = "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in text)
    return shown if len(shown) <= characters_max else shown[: characters_max - 1] + "…"
