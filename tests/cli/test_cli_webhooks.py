"""``edgectl webhooks`` against a server that answers with its own schemas."""

import json
from datetime import UTC, datetime

import pytest

from cli.fake_server import problem
from edgectl_server import schemas as s
from edgectl_server.schemas.webhooks import WebhookEvent

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
HOOK = "0123456789abcdef"
SENT = s.WebhookDeliveryInfo(
    id="msg_1",
    event="webhook.test",
    state="delivered",
    attempts=1,
    status=200,
    error="",
    created_at=AT,
    tried_at=AT,
    next_at=None,
)
INFO = s.WebhookInfo(
    id=HOOK,
    name="ops",
    url="https://hooks.example/x",
    events=["gate.failed"],
    format="edgectl",
    enabled=True,
    note="",
    created_at=AT,
    created_by="anna",
    changed_at=AT,
    pending=2,
    newest=SENT,
)


@pytest.fixture
def hooks(fleet_server):
    fleet_server.routes |= {
        ("GET", "/webhooks"): (200, s.Page[s.WebhookInfo](items=[INFO], total=1)),
        ("POST", "/webhooks"): (201, s.WebhookCreated(webhook=INFO, secret="whsec_abc")),
        ("PATCH", f"/webhooks/{HOOK}"): (200, INFO),
        ("DELETE", f"/webhooks/{HOOK}"): (204, None),
        ("POST", f"/webhooks/{HOOK}/test"): (200, SENT),
        ("GET", f"/webhooks/{HOOK}/deliveries"): (
            200,
            s.Page[s.WebhookDeliveryInfo](items=[SENT], total=1),
        ),
    }
    return fleet_server


def test_one_is_added_and_its_secret_printed_alone(logged_in, hooks):
    got = logged_in("webhooks", "add", "ops", "https://hooks.example/x", "--event", "gate.failed")
    assert (got.code, got.out) == (0, "whsec_abc\n")
    assert "this once" in got.err
    (asked,) = hooks.requests("POST", "/webhooks")
    assert asked.json() == {
        "name": "ops",
        "url": "https://hooks.example/x",
        "events": ["gate.failed"],
    }


def test_all_events_are_those_of_the_server(logged_in, hooks):
    got = logged_in("webhooks", "add", "ops", "https://x.example", "--event", "all", "--json")
    assert json.loads(got.out)["secret"] == "whsec_abc"
    events = hooks.requests("POST", "/webhooks")[0].json()["events"]
    assert events == list(WebhookEvent.__args__)


def test_they_are_listed_changed_and_removed_by_name(logged_in, hooks):
    assert "gate.failed" in logged_in("webhooks", "list").out
    assert logged_in("webhooks", "set", "ops", "--off").code == 0
    assert hooks.requests("PATCH", "/webhooks")[0].json() == {"enabled": False}
    assert logged_in("webhooks", "remove", HOOK, "--json").code == 0
    assert len(hooks.requests("DELETE", f"/webhooks/{HOOK}")) == 1
    assert "webhook.test" in logged_in("webhooks", "deliveries", "ops", "--state", "delivered").out
    unknown = logged_in("webhooks", "remove", "nobody")
    assert (unknown.code, "error[webhook.unknown]" in unknown.err) == (1, True)


def test_a_test_that_does_not_arrive_is_an_error(logged_in, hooks):
    assert logged_in("webhooks", "test", "ops").out == "ops has answered 200\n"
    failed = SENT.model_copy(update={"state": "failed", "status": 500, "error": "answered 500"})
    hooks.routes["POST", f"/webhooks/{HOOK}/test"] = (200, failed)
    got = logged_in("webhooks", "test", "ops")
    assert (got.code, "error[webhook.failed]" in got.err) == (1, True)


@pytest.mark.parametrize(
    "words",
    [
        ("add", "ops", "https://x.example"),
        ("add", "ops", "https://x.example", "--event", "device.exploded"),
        ("add", "ops", "https://x.example", "--event", "all", "--format", "fax"),
        ("set", "ops"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(logged_in, hooks, words):
    assert logged_in("webhooks", *words).code == 2


def test_what_the_server_refuses_is_said(logged_in, hooks):
    hooks.routes["POST", "/webhooks"] = problem(422, "webhook.address", hint="set it")
    got = logged_in("webhooks", "add", "ops", "https://10.0.0.1", "--event", "all")
    assert (got.code, "error[webhook.address]" in got.err) == (1, True)
