"""The audit log's part of a request: who, from where, what was asked, and how it ended.

ASGI middleware around the routes. What a request changes is written with the change itself (see
`edgectl_server.audit`); what remains is written here, before the answer is sent: refusals of
somebody whom we know, failed logins and enrolments, failures, and changes outside of the database.
Reading leaves no row, unless it was refused for want of a right.

`KEPT` says which fields of a body may be kept: no others are, so that no secret ever is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from http import HTTPStatus
from typing import Any, Literal

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgectl_server.api.access import READING
from edgectl_server.audit import Act, acting, current_act
from edgectl_server.services import Services

__all__ = ["KEPT", "Auditing", "name_act"]

KEPT: Mapping[str, tuple[str, ...]] = {
    "acknowledge_alert": ("reason",),
    "apply_rollout": ("model", "version", "selector", "policy"),
    "approve_device": ("fingerprint", "group"),
    "assign_alert": ("owner",),
    "change_alert_route": ("name", "target", "kinds", "severity", "model", "site", "enabled"),
    "create_alert_route": (
        "name",
        "channel",
        "target",
        "kinds",
        "severity",
        "model",
        "site",
        "enabled",
    ),
    "create_silence": ("kind", "model", "site", "subject", "for_s", "reason"),
    "create_enrol_token": ("uses", "expires_in_s", "group"),
    "change_user": ("role", "disabled"),
    "change_webhook": ("name", "events", "format", "enabled"),
    "create_user": ("name", "role"),
    "create_webhook": ("name", "events", "format", "enabled"),
    "device_logs": ("since_s",),
    "enrol": ("device",),
    "hold_device": ("reason",),
    "label_devices": ("devices", "where", "set", "remove"),
    "import_version": ("file", "filename", "origin", "origin_root", "expired_for_s"),
    "preauthorise": ("entries",),
    "push_version": (
        "model",
        "filename",
        "calibration",
        "evaluation",
        "own_metric",
        "options",
        "parent",
    ),
    "put_selector": ("text",),
    "put_sample_policy": ("bytes_per_day", "reasons", "random_share", "seal", "revision"),
    "put_policy": ("max_drop_points", "metric", "require", "revision"),
    "reject_device": ("fingerprint",),
    "renew": ("device",),
    "resolve_alert": ("reason",),
    "roll_back_device": ("slot",),
    "rollout_action": ("reason",),
    "start_benchmark": ("device", "variants", "runs"),
    "start_rollout": ("model", "version", "selector", "policy"),
}
"""By operation. What routes find out themselves they add with `edgectl_server.audit.describe`."""
_BODY_BYTES_MAX = 64 * 1024
"""Of a longer body nothing is kept."""
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_RIGHTS = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class Auditing:
    """Sets the act of each request, and writes how it ended."""

    def __init__(self, app: ASGIApp, *, services: Services | None) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or self._services is None:
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        asked = _Asked(scope)
        act = Act(
            address=str(client[0]) if client else "",
            changes=scope["method"] not in _READS,
            asked=asked.fields,
        )
        asked.act = act

        async def receive_and_keep() -> Message:
            message = await receive()
            asked.take(message)
            return message

        async def record_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._record(act, scope, message["status"])
            await send(message)

        with acting(act):
            try:
                await self._app(scope, receive_and_keep, record_and_send)
            except Exception:  # it is answered further out
                await self._record(act, scope, HTTPStatus.INTERNAL_SERVER_ERROR)
                raise

    async def _record(self, act: Act, scope: MutableMapping[str, Any], status: int) -> None:
        assert self._services is not None
        if not act.action:
            return  # nobody's route
        audit = self._services.audit
        if status < HTTPStatus.BAD_REQUEST:
            if act.changes and act.actor and not act.recorded:
                await run_in_threadpool(audit.end, act, "done")
            return
        known_reader = act.actor and status in _RIGHTS
        stranger_without_login = not act.actor and scope.get("state", {}).get("guarded", False)
        if (not act.changes and not known_reader) or stranger_without_login:
            return
        details = {"status": int(status), "code": scope.get("state", {}).get("problem", "")}
        outcome: Literal["refused", "failed"] = "refused"
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            outcome = "failed"
        await run_in_threadpool(audit.end, act, outcome, **details)


class _Asked:
    """What a request says of itself: its path's parameters, and some fields of its body."""

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self._scope = scope
        self._body = bytearray()
        self._is_json = any(
            name == b"content-type" and value.startswith(b"application/json")
            for name, value in scope["headers"]
        )
        self.act = Act()

    def take(self, message: Message) -> None:
        if self._is_json and len(self._body) <= _BODY_BYTES_MAX:
            self._body += message.get("body", b"")

    def fields(self) -> dict[str, Any]:
        names = KEPT.get(self.act.action, ())
        if not names or not self._body or len(self._body) > _BODY_BYTES_MAX:
            return {}
        try:
            document = json.loads(self._body)
        except (ValueError, RecursionError):
            return {}
        if not isinstance(document, dict):
            return {}
        return {name: document[name] for name in names if document.get(name) is not None}


async def name_act(request: Request) -> None:
    """Dependency of every route: the act gets the name of the operation and of its object."""
    act = current_act()
    route = request.scope.get("route")
    if act is None or route is None:
        return
    act.action = getattr(route, "operation_id", None) or ""
    if act.action in READING:
        act.changes = False
    if not act.object:
        act.object = "/".join(str(value) for value in request.path_params.values())
