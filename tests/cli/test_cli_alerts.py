"""``edgectl alerts`` against a server that answers with its own schemas."""

import json
from datetime import UTC, datetime

import pytest

from edgectl_server import schemas as s

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
ID = "0123456789abcdef"
ALERT = s.RaisedAlert(
    id=ID,
    kind="drift.site",
    subject="har@1 porto",
    severity="critical",
    state="open",
    summary="har@1 sees other data \x1b[31mon site porto",
    hint="edgectl drift show har",
    model="har",
    site="porto",
    device="",
    owner="",
    silenced_until=AT,
    opened_at=AT,
    seen_at=AT,
    absent_since=None,
    acknowledged_at=None,
    acknowledged_by="",
    resolved_at=None,
    resolved_by="",
    revision=1,
)
EVENT = s.AlertEvent(
    revision=1, at=AT, actor="server", kind="opened", data={"severity": "critical"}
)
SILENCE = s.SilenceInfo(
    id=ID,
    kind="drift",
    model="",
    site="porto",
    subject="",
    until=AT,
    reason="power works",
    created_at=AT,
    created_by="anna",
)
ROUTE = s.AlertRouteInfo(
    id=ID,
    name="ops",
    channel="email",
    target=["ops@example.org"],
    kinds=["drift"],
    severity="warning",
    model="",
    site="porto",
    repeat_s=7200,
    enabled=True,
    last_at=None,
    problem="this server is not set up to send mail",
    pending=0,
    created_at=AT,
    created_by="anna",
)
NOTICE = s.AlertNoticeInfo(
    id="alert_x",
    state="delivered",
    attempts=1,
    error="",
    began=1,
    again=0,
    ended=0,
    created_at=AT,
    tried_at=AT,
    next_at=None,
)


@pytest.fixture
def server_with_alerts(fleet_server):
    fleet_server.routes |= {
        ("GET", "/alerts"): (200, s.Page[s.RaisedAlert](items=[ALERT], total=1)),
        ("GET", f"/alerts/{ID}"): (200, s.AlertDetail(alert=ALERT, events=[EVENT])),
        **{
            ("POST", f"/alerts/{ID}/{action}"): (200, ALERT)
            for action in ("acknowledge", "assign", "resolve")
        },
        ("GET", "/alert-silences"): (200, s.Page[s.SilenceInfo](items=[SILENCE], total=1)),
        ("POST", "/alert-silences"): (201, SILENCE),
        ("DELETE", f"/alert-silences/{ID}"): (204, None),
        ("GET", "/alert-routes"): (200, s.Page[s.AlertRouteInfo](items=[ROUTE], total=1)),
        ("POST", "/alert-routes"): (201, ROUTE),
        ("PATCH", f"/alert-routes/{ID}"): (200, ROUTE),
        ("DELETE", f"/alert-routes/{ID}"): (204, None),
        ("POST", f"/alert-routes/{ID}/test"): (200, NOTICE),
        ("GET", f"/alert-routes/{ID}/notices"): (
            200,
            s.Page[s.AlertNoticeInfo](items=[NOTICE], total=1),
        ),
    }
    return fleet_server


def asked(server, method, path):
    (request,) = server.requests(method, path)
    return request.json()


def test_they_are_listed_and_shown_and_no_terminal_is_taken_over(logged_in, server_with_alerts):
    got = logged_in("alerts", "list", "--kind", "drift", "--severity", "critical")
    assert got.code == 0
    assert "open, silenced" in got.out
    assert "\x1b" not in got.out
    shown = logged_in("alerts", "show", ID)
    assert "edgectl drift show har" in shown.out
    assert "opened" in shown.out
    assert json.loads(logged_in("alerts", "list", "--json").out)[0]["id"] == ID


def test_somebody_sees_to_one(logged_in, server_with_alerts):
    assert logged_in("alerts", "ack", ID, "--reason", "on my way").code == 0
    assert logged_in("alerts", "assign", ID, "-").code == 0
    assert logged_in("alerts", "resolve", ID, "--json").code == 0
    assert asked(server_with_alerts, "POST", f"/alerts/{ID}/acknowledge") == {"reason": "on my way"}
    assert asked(server_with_alerts, "POST", f"/alerts/{ID}/assign") == {"owner": ""}
    assert asked(server_with_alerts, "POST", f"/alerts/{ID}/resolve") == {"reason": ""}


def test_silences(logged_in, server_with_alerts):
    words = ("add", "--kind", "drift", "--site", "porto", "--for", "2h", "--reason", "power works")
    assert "silent until 2026-11-01 12:00 UTC" in logged_in("alerts", "silence", *words).out
    assert asked(server_with_alerts, "POST", "/alert-silences") == {
        "kind": "drift",
        "site": "porto",
        "for_s": 7200,
        "reason": "power works",
    }
    assert "kind=drift site=porto" in logged_in("alerts", "silence", "list").out
    assert logged_in("alerts", "silence", "remove", ID).code == 0


def test_routes(logged_in, server_with_alerts):
    words = ("add", "lamp", "--mqtt", "--device", "lamp-1", "--kind", "rollout", "--repeat", "0")
    assert logged_in("alerts", "routes", *words).code == 0
    request = asked(server_with_alerts, "POST", "/alert-routes")
    assert (request["channel"], request["target"]) == ("mqtt", ["lamp-1"])
    assert (request["kinds"], request["repeat_s"]) == (["rollout"], 0)
    listed = logged_in("alerts", "routes", "list").out
    assert "warning and above, drift, site porto" in listed
    assert "not set up to send mail" in listed
    assert logged_in("alerts", "routes", "set", "ops", "--off").code == 0
    assert asked(server_with_alerts, "PATCH", f"/alert-routes/{ID}") == {"enabled": False}
    assert "delivered" in logged_in("alerts", "routes", "messages", "ops").out
    assert logged_in("alerts", "routes", "test", "ops").out == "ops: it has arrived\n"
    failed = NOTICE.model_copy(update={"state": "failed", "error": "no"})
    server_with_alerts.routes["POST", f"/alert-routes/{ID}/test"] = (200, failed)
    got = logged_in("alerts", "routes", "test", "ops")
    assert (got.code, "error[alert.failed]" in got.err) == (1, True)
    assert logged_in("alerts", "routes", "remove", "ops").code == 0
    unknown = logged_in("alerts", "routes", "remove", "nobody")
    assert (unknown.code, "error[alert.no_route]" in unknown.err) == (1, True)


@pytest.mark.parametrize(
    "words",
    [
        ("routes", "add", "x"),
        ("routes", "add", "x", "--email", "a@b.org", "--mqtt"),
        ("routes", "add", "x", "--email", "a@b.org", "--device", "lamp-1"),
        ("routes", "set", "ops"),
        ("silence", "add", "--site", "porto", "--for", "2h"),
        ("silence", "add", "--site", "porto", "--for", "10s", "--reason", "x"),
        ("list", "--severity", "terrible"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(logged_in, server_with_alerts, words):
    assert logged_in("alerts", *words).code == 2
