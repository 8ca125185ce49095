"""The audit log of everything that a server opens: devices let in, ordered, and taken out."""

import msgspec

from edgectl_protocol.audit import ChainCheck
from edgectl_server.audit import AuditLog, entry_of
from server.fleet.fleet_helpers import add_version, make_request
from server.fleet.test_fleet_api import api, pis  # noqa: F401  # fixtures
from server.fleet.test_rollout_service import fleet  # noqa: F401  # a fixture
from waiting import wait_for


def rows(log: AuditLog):
    return [entry_of(row) for row in log.rows(0, 1000)]


def named(log: AuditLog, action: str):
    return [row for row in rows(log) if row.action == action]


def test_devices_let_in_ordered_and_taken_out(api, pis):  # noqa: F811
    services, audit = api.services, api.services.audit
    (token,) = named(audit, "create_enrol_token")
    assert token.details["uses"] == 2
    enrolled = named(audit, "enrol")
    assert [row.actor for row in enrolled] == [f"device/{pi.name}" for pi in pis]
    assert all(row.details["key"] and row.details["certificate"] for row in enrolled)

    add_version(services.database, services.blobs, services.repository)
    body = {"model": "har", "version": "1", "selector": {"all": True}}
    rollout = api.call("POST", "/rollouts", role="operator", json=body).json()["id"]
    ordered = wait_for(lambda: named(audit, "issue_orders"), "the orders")[0]
    assert (ordered.actor, ordered.via, ordered.object) == ("server", "server", rollout)
    assert ordered.details["orders"] >= 1
    (started,) = named(audit, "start_rollout")
    assert (started.object, started.details["devices"]) == (rollout, 2)
    assert started.details["selector"]["all"] is True
    assert started.number < ordered.number

    reason = {"reason": "lunch"}
    api.call("POST", f"/rollouts/{rollout}/actions/pause", role="operator", json=reason)
    (paused,) = named(audit, "rollout_action")
    assert (paused.object, paused.details["reason"]) == (f"{rollout}/pause", "lunch")
    assert api.call("POST", f"/devices/{pis[0].name}/actions/decommission").status_code == 200
    (out,) = named(audit, "decommission_device")
    assert (out.object, out.outcome, out.actor) == (pis[0].name, "done", "admin")

    checked = ChainCheck()
    checked = ChainCheck()
    for row in rows(audit):
        assert checked.add(row) is None
    assert checked.finish() is None
    secrets = [one.split("_", 2)[2] for one in api.tokens.values()]
    text = str(rows(audit))
    assert [one for one in secrets if one in text] == []


def test_who_may_not_come_in_is_written_down(api):  # noqa: F811
    request = make_request("ee_0123456789abcdef_" + "x" * 43, "pi-evil")
    answer = api.call("POST", "/enrol", role="", json=msgspec.to_builtins(request))
    assert answer.status_code == 401
    (refused,) = named(api.services.audit, "enrol")
    assert (refused.actor, refused.outcome) == ("", "refused")
    assert refused.details == {"device": "pi-evil", "status": 401, "code": "enrol.token"}
    assert refused.address


def test_orders_are_one_row_for_each_step(fleet):  # noqa: F811
    log = AuditLog(fleet.database, fleet.clock)
    fleet.add("a", "b", "c")
    rollout = fleet.start(max_in_progress=3)
    fleet.rollouts.tick()
    (issued,) = named(log, "issue_orders")
    assert issued.object == rollout
    assert issued.details == {"model": "har", "orders": 3, "restores": 0}
    fleet.clock.advance(days=21)
    assert fleet.ordering.renew() == 3
    (renewed,) = named(log, "renew_orders")
    assert renewed.details == {"orders": 3}
