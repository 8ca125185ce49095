"""Alerts and routes of alerts, decided: tables of what was there, what comes, and what follows."""

from datetime import UTC, datetime, timedelta

import pytest

from edgectl_server.domain.alert_routing import Facts, Plan, RouteFacts, Told, plan
from edgectl_server.domain.alerts import (
    CONDITIONS_MAX,
    OVERFLOW,
    Condition,
    Kept,
    Selector,
    bounded,
    next_step,
)

NOW = datetime(2031, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ZERO = timedelta(0)


def condition(severity="warning", subject="a", **more):
    return Condition(kind="drift.site", subject=subject, severity=severity, summary="s", **more)


@pytest.mark.parametrize(
    ("kept", "there", "step"),
    [
        (None, condition(), "open"),
        (Kept("open", "warning", None, ZERO), condition(), "refresh"),
        (
            Kept("open", "critical", None, ZERO),
            condition(),
            "refresh",
        ),  # it keeps the greatest
        (Kept("open", "warning", None, ZERO), condition("critical"), "escalate"),
        (Kept("acknowledged", "warning", None, ZERO), condition("critical"), "escalate"),
        (Kept("acknowledged", "warning", None, ZERO), condition(), "refresh"),
        (Kept("resolved", "warning", None, ZERO), condition(), "refresh"),  # by hand: it stays so
        (Kept("resolved", "warning", None, ZERO), condition("critical"), "escalate"),
        (Kept("open", "warning", None, ZERO), None, "resolve"),
        (Kept("open", "warning", None, MINUTE), None, "leave"),
        (Kept("open", "warning", NOW - MINUTE / 2, MINUTE), None, "keep"),
        (Kept("open", "warning", NOW - MINUTE, MINUTE), None, "resolve"),
        (Kept("resolved", "warning", NOW - MINUTE / 2, MINUTE), None, "keep"),
        (Kept("resolved", "warning", NOW - MINUTE, MINUTE), None, "release"),
        (Kept("open", "warning", NOW - MINUTE / 2, MINUTE), condition(), "refresh"),
    ],
)
def test_what_becomes_of_an_alert(kept, there, step):
    assert next_step(kept, there, NOW) == step


def test_each_name_once_and_the_more_severe_of_two():
    found = bounded([condition(), condition("critical"), condition("info")], [])
    assert [one.severity for one in found] == ["critical"]


def test_a_storm_is_bounded_and_says_so_and_pushes_out_none_that_has_an_alert():
    old = [condition("info", f"old-{n}") for n in range(10)]
    new = [condition("critical", f"new-{n}") for n in range(CONDITIONS_MAX + 100)]
    found = bounded([*new, *old], [one.name for one in old])
    assert len(found) == CONDITIONS_MAX
    assert {one.subject for one in found} >= {one.subject for one in old}
    (overflow,) = (one for one in found if one.kind == OVERFLOW)
    assert overflow.summary.startswith("111 more")


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        (Selector(), True),
        (Selector(kinds=("drift",)), True),
        (Selector(kinds=("drift.site",)), True),
        (Selector(kinds=("dri",)), False),  # a beginning ends at a dot
        (Selector(kinds=("data", "drift.fleet")), False),
        (Selector(severity="warning"), True),
        (Selector(severity="critical"), False),
        (Selector(model="har"), True),
        (Selector(model="other"), False),
        (Selector(site="porto", model="har"), True),
        (Selector(site="faro", model="har"), False),
        (Selector(subject="other"), False),
    ],
)
def test_which_alerts_are_meant(selector, fits):
    of = {"kind": "drift.site", "severity": "warning", "model": "har", "site": "porto"}
    assert selector.fits(**of, subject="har@1 porto") is fits


def fact(state="open", severity="warning", *, silenced=False, wanted=True):
    return Facts("a", state, severity, silenced, wanted)


TOLD = Told(NOW - timedelta(hours=1), "warning")


@pytest.mark.parametrize(
    ("alert", "told", "expected"),
    [
        (fact(), None, Plan(began=("a",))),
        (fact(wanted=False), None, Plan()),
        (fact(silenced=True), None, Plan()),
        (fact("acknowledged"), None, Plan()),
        (fact("resolved"), None, Plan()),  # nobody has heard of it
        (fact(), TOLD, Plan(again=("a",))),
        (fact(), Told(NOW - MINUTE, "warning"), Plan()),
        (fact(severity="critical"), Told(NOW - MINUTE, "warning"), Plan(began=("a",))),
        (fact(severity="info"), Told(NOW - MINUTE, "warning"), Plan()),
        (fact("acknowledged"), TOLD, Plan()),
        (fact(silenced=True), TOLD, Plan()),
        (fact("resolved"), TOLD, Plan(ended=("a",))),
        (fact("resolved", silenced=True, wanted=False), TOLD, Plan(ended=("a",))),
    ],
)
def test_what_a_route_tells(alert, told, expected):
    route = RouteFacts(Selector(), timedelta(hours=1), MINUTE, None)
    assert plan(route, [alert], {} if told is None else {"a": told}, NOW) == expected


def test_a_route_that_never_reminds():
    assert not plan(RouteFacts(Selector(), None, MINUTE, None), [fact()], {"a": TOLD}, NOW)


def test_between_two_messages_is_time():
    route = RouteFacts(Selector(), None, MINUTE, NOW - MINUTE / 2)
    assert not plan(route, [fact()], {}, NOW)
    assert plan(route, [fact()], {}, NOW + MINUTE / 2)
