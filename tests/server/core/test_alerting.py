"""Alerts on real databases: raised once by two servers, seen to, silenced, told, told again."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select
from standardwebhooks import Webhook as Verifier

from edgectl_server.alerting.book import AlertBook, AlertFilter
from edgectl_server.alerting.delivery import WAITS_S, NoticeDeliverer
from edgectl_server.alerting.routes import AlertRoutes
from edgectl_server.alerting.routing import AlertRouter
from edgectl_server.alerting.sources import Source
from edgectl_server.alerting.texts import ALERTS_SHOWN_MAX
from edgectl_server.alerting.watch import AlertWatch
from edgectl_server.delivering import Outcome
from edgectl_server.domain.alerts import Condition
from edgectl_server.errors import Conflict, NotFound, Refused
from edgectl_server.schemas import (
    AlertRouteChange,
    AlertRouteRequest,
    SilenceRequest,
    WebhookChange,
    WebhookRequest,
)
from edgectl_server.signing.sealed_secrets import SealedSecrets
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery
from edgectl_server.storage.tables import AlertEventRow, AlertNotice, AlertRow, User
from edgectl_server.webhooks.bodies import make_body
from edgectl_server.webhooks.delivery import Deliverer
from edgectl_server.webhooks.registry import Webhooks
from edgectl_server.webhooks.sending import make_sender
from server.core.conftest import Clock
from server.core.webhook_receiver import open_receiver
from waiting import wait_for

PAGE = PageQuery(q="", sort="", offset=0, limit=200)


def there(subject="porto", severity="warning", kind="devices.overdue", **more):
    more.setdefault("clear_after", timedelta(minutes=2))
    return Condition(kind=kind, subject=subject, severity=severity, summary=f"{subject}!", **more)


class World:
    """Alerts of one database; what is wrong is set by hand, and mails end in a list."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = Clock()
        self.wrong: list[Condition] = []
        self.failing = False
        self.sent: list[dict[str, object]] = []
        self.trouble = ""
        self.watch = self.replica()
        self.book = AlertBook(database=database, now=self.clock)
        self.router = AlertRouter(database=database, gather_s=30, now=self.clock)
        senders = {"email": self._send, "mqtt": self._send}
        self.deliverer = NoticeDeliverer(database=database, senders=senders, now=self.clock)
        self.routes = AlertRoutes(database=database, deliverer=self.deliverer, now=self.clock)

    def replica(self) -> AlertWatch:
        sources = [
            Source("the test", ("devices", "drift"), self._read),
            Source("the rest", (), lambda _session, _now: ()),
        ]
        return AlertWatch(
            database=self.database, sources=sources, retention_days=30, now=self.clock
        )

    def route(self, **asked):
        asked = {"name": "ops", "channel": "email", "target": ["ops@example.org"], **asked}
        return self.routes.create(AlertRouteRequest(**asked), "anna")

    def look(self, *wrong: Condition, after_s: float = 0) -> int:
        self.clock.pass_s(after_s)
        self.wrong = list(wrong)
        return self.watch.look()

    def states(self) -> list[tuple[str, str, str]]:
        with self.database.read() as session:
            rows = session.scalars(select(AlertRow).order_by(AlertRow.opened_at, AlertRow.subject))
            return [(row.subject, row.state, row.severity) for row in rows]

    def alert(self, subject: str = "porto"):
        items = self.book.page(PAGE, AlertFilter()).items
        (found,) = (one for one in items if one.subject == subject and one.state != "resolved")
        return found

    def tell(self, after_s: float = 0) -> list[dict[str, int]]:
        """Let routes say what they have to say, and return what was sent of it."""
        self.clock.pass_s(after_s)
        before = len(self.sent)
        self.router.look()
        self.deliver()
        return [one["counts"] for one in self.sent[before:]]

    def deliver(self) -> None:
        def done() -> bool:
            self.deliverer.look()
            due = select(func.count()).where(AlertNotice.due_at <= self.clock())
            with self.database.read() as session:
                return not self.deliverer.busy and session.scalar(due) == 0

        wait_for(done, "nothing is due")

    def _read(self, _session, _now) -> list[Condition]:
        if self.failing:
            raise ConnectionAbortedError
        return self.wrong

    def _send(self, notice) -> str:
        if not self.trouble:
            self.sent.append(dict(notice.data))
        return self.trouble


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    world = World(database)
    yield world
    world.deliverer.close()


def events(world, subject="porto"):
    return [one.kind for one in reversed(world.book.detail(world.alert(subject).id).events)]


def test_one_alert_from_the_beginning_of_a_condition_to_its_end(world):
    assert world.look(there()) == 1
    assert world.look(there(severity="info"), after_s=60) == 0
    assert world.states() == [("porto", "open", "warning")]
    assert world.look(after_s=60) == 0  # it must be away for two minutes
    assert world.alert().absent_since is not None
    assert world.look(there(), after_s=60) == 0
    assert world.look(after_s=60) == 0
    assert world.look(after_s=119) == 0
    assert world.look(after_s=1) == 1
    assert world.states() == [("porto", "resolved", "warning")]
    assert world.look(there(), after_s=1) == 1  # a new one
    assert [state for _, state, _ in world.states()] == ["resolved", "open"]


def test_a_source_that_fails_ends_nothing(world):
    world.look(there(), there("certificate", kind="certificate.expiring"))
    world.failing = True
    world.look(after_s=300)
    world.look(after_s=300)
    # The other source was asked: what it does not say any more has ended.
    assert world.states() == [("certificate", "resolved", "warning"), ("porto", "open", "warning")]
    world.failing = False
    world.look(after_s=1)
    world.look(after_s=300)
    assert {state for _, state, _ in world.states()} == {"resolved"}


def test_two_servers_raise_an_alert_once(world):
    replicas = [world.watch, world.replica()]
    for _ in range(5):
        world.wrong = [there(f"site-{n}") for n in range(20)]
        threads = [threading.Thread(target=one.look) for one in replicas]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        world.clock.pass_s(1)
    assert len(world.states()) == 20
    with world.database.read() as session:
        assert session.scalar(select(func.count()).select_from(AlertEventRow)) == 20


def test_texts_without_end_and_conditions_without_end_are_cut(world):
    wrong = [there("x" * 5000, severity="critical"), *(there(f"s{n}") for n in range(2100))]
    world.look(*wrong)
    assert len(world.states()) == 2000
    assert max(len(subject) for subject, _, _ in world.states()) == 256
    assert world.look(*wrong) == 0


def test_somebody_knows_and_sees_to_it(world):
    with world.database.write() as session:
        session.add(User(name="berta", password_hash="", role="operator", created_at=world.clock()))
    world.look(there())
    alert = world.alert().id
    assert world.book.acknowledge(alert, "anna", "on my way").owner == "anna"
    assert world.book.assign(alert, "anna", "berta").owner == "berta"
    with pytest.raises(Refused, match="no user 'nobody'"):
        world.book.assign(alert, "anna", "nobody")
    assert events(world) == ["opened", "acknowledged", "assigned"]
    assert world.look(there(severity="critical"), after_s=1) == 1
    assert world.states() == [("porto", "open", "critical")]  # it was another thing that she knew
    with pytest.raises(NotFound, match="no alert"):
        world.book.detail("0" * 16)
    counts = world.book.counts()
    assert (counts.open, counts.acknowledged, counts.critical) == (1, 0, 1)


def test_what_is_resolved_by_hand_stays_so_until_it_has_ended_or_grows_worse(world):
    world.look(there())
    first = world.alert().id
    world.book.resolve(first, "anna", "known and planned")
    with pytest.raises(Conflict, match="by anna"):
        world.book.resolve(first, "anna", "")
    assert world.look(there(), after_s=1000) == 0
    assert world.states() == [("porto", "resolved", "warning")]
    assert world.look(there(severity="critical")) == 1
    assert world.alert().id == first
    world.book.resolve(first, "anna", "")
    world.look(after_s=1)
    world.look(after_s=120)
    assert world.look(there(), after_s=1) == 1
    assert world.alert().id != first


def test_lists_are_filtered(world):
    world.look(there(), there("har", kind="drift.fleet", severity="critical", model="har"))

    def subjects(**wanted):
        return [one.subject for one in world.book.page(PAGE, AlertFilter(**wanted)).items]

    assert subjects() == ["har", "porto"]
    assert subjects(kind="drift") == subjects(severity="critical") == ["har"]
    assert subjects(model="har", owner="") == ["har"]
    assert subjects(ended=True) == subjects(state="acknowledged") == []


def test_told_once_reminded_and_told_of_the_end(world):
    world.route(repeat_s=3600)
    world.look(there())
    assert world.tell() == [{"began": 1, "again": 0, "ended": 0}]
    assert world.tell(after_s=3599) == []
    assert world.tell(after_s=1) == [{"began": 0, "again": 1, "ended": 0}]
    world.book.acknowledge(world.alert().id, "anna", "")
    assert world.tell(after_s=7200) == []
    world.look(after_s=1)
    world.look(after_s=120)
    assert world.tell() == [{"began": 0, "again": 0, "ended": 1}]
    assert world.tell(after_s=7200) == []


def test_routes_take_what_they_want(world):
    world.route(kinds=["drift"], severity="critical", model="har")
    world.look(there(), there("b", kind="drift.site", severity="critical", model="kws"))
    assert world.tell(after_s=60) == []
    world.look(there("c", kind="drift.site", severity="critical", model="har"))
    assert world.tell(after_s=60) == [{"began": 1, "again": 0, "ended": 0}]
    route = world.routes.page(PAGE).items[0].id
    world.routes.change(route, AlertRouteChange(model="", kinds=[], severity="info"))
    # What is away for less than its time lasts still, and the route has not told of it.
    assert world.tell(after_s=60) == [{"began": 2, "again": 0, "ended": 0}]


def test_a_storm_is_one_message_or_two(world):
    world.route()
    world.look(there("first"))
    assert world.tell() == [{"began": 1, "again": 0, "ended": 0}]
    world.look(*(there(f"site-{n}") for n in range(500)), there("first"))
    assert world.tell(after_s=29) == []
    assert world.tell(after_s=1) == [{"began": 500, "again": 0, "ended": 0}]
    shown = world.sent[-1]
    assert len(shown["began"]) == ALERTS_SHOWN_MAX
    assert world.tell(after_s=60) == []


def test_a_silence_keeps_it_from_being_told_and_not_from_being_seen(world):
    world.route()
    with pytest.raises(Refused, match="everything"):
        world.book.silence(SilenceRequest(for_s=60, reason="x"), "anna")
    asked = SilenceRequest(kind="devices", site="porto", for_s=600, reason="power works")
    silence = world.book.silence(asked, "anna")
    world.look(there(site="porto"), there("faro", site="faro"))
    assert world.tell() == [{"began": 1, "again": 0, "ended": 0}]
    assert world.alert().silenced_until == silence.until
    assert world.alert("faro").silenced_until is None
    assert world.book.counts().silences == 1
    assert world.tell(after_s=599) == []
    assert world.tell(after_s=1) == [{"began": 1, "again": 0, "ended": 0}]  # it is over
    with pytest.raises(NotFound, match="no silence"):
        world.book.end_silence(silence.id)


def test_what_is_planned_survives_a_death_and_is_tried_again(world):
    route = world.route()
    world.look(there())
    world.trouble = "the mail server does not answer"
    world.router.look()  # and here the server dies
    second = NoticeDeliverer(
        database=world.database, senders={"email": world._send}, now=world.clock
    )
    second.close()
    assert world.tell() == []
    (notice,) = world.routes.notices(route.id, PAGE, state="pending").items
    assert (notice.attempts, notice.error, notice.began) == (1, world.trouble, 1)
    world.trouble = ""
    assert world.tell(after_s=WAITS_S[0] - 1) == []
    assert world.tell(after_s=1) == [{"began": 1, "again": 0, "ended": 0}]
    assert world.routes.notices(route.id, PAGE, state="delivered").total == 1


def test_it_is_given_up_in_the_end(world):
    route = world.route()
    world.look(there())
    world.trouble = "no"
    world.tell()
    for wait_s in WAITS_S:
        assert world.routes.notices(route.id, PAGE, state="pending").total == 1
        world.clock.pass_s(wait_s)
        world.deliver()
    (failed,) = world.routes.notices(route.id, PAGE, state="failed").items
    assert failed.attempts == len(WAITS_S) + 1


def test_an_attempt_whose_server_died_is_made_later_by_another(world):
    world.route()
    world.look(there())
    world.router.look()
    claimed = world.deliverer._claim_next("email")
    assert world.tell() == []  # it is somebody's
    assert world.tell(after_s=121) == [{"began": 1, "again": 0, "ended": 0}]
    world.deliverer._end(claimed, Outcome("too late"))  # it comes back to life
    with world.database.read() as session:
        assert session.scalars(select(AlertNotice.state)).all() == ["delivered"]


def test_two_servers_tell_an_alert_once(world):
    world.route()
    world.look(*(there(f"site-{n}") for n in range(5)))
    routers = [AlertRouter(database=world.database, gather_s=30, now=world.clock) for _ in range(2)]
    threads = [threading.Thread(target=one.look) for one in routers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.tell() == [{"began": 5, "again": 0, "ended": 0}]


def test_by_webhook_it_is_a_signed_delivery_of_that_webhook(world, tmp_path):
    secrets = SealedSecrets.open(tmp_path / "keys")
    deliverer = Deliverer(
        database=world.database,
        secrets=secrets,
        send=make_sender(private=True),
        now=world.clock,
    )
    hooks = Webhooks(
        database=world.database,
        secrets=secrets,
        deliverer=deliverer,
        now=world.clock,
        private=True,
    )
    with open_receiver() as receiver:
        asked = WebhookRequest(name="room", url=receiver.url, events=["gate.failed"])
        made = hooks.create(asked, "anna")
        route = world.route(channel="webhook", target=["room"])
        assert route.target == [made.webhook.id]
        hooks.change(made.webhook.id, WebhookChange(enabled=False))
        world.look(there())
        assert world.router.look() == 0  # it has no way: it is told later
        assert world.routes.page(PAGE).items[0].problem == "its webhook is switched off"
        hooks.change(made.webhook.id, WebhookChange(enabled=True))
        assert world.router.look() == 1
        wait_for(lambda: (deliverer.look(), receiver.received)[1], "the delivery")
    assert world.routes.page(PAGE).items[0].problem == ""
    hooks.delete(made.webhook.id)
    assert world.routes.page(PAGE).items[0].problem == "its webhook was deleted"
    deliverer.close()
    (came,) = receiver.received
    said = Verifier(made.secret).verify(came.body, came.headers)
    assert (said["type"], said["data"]["counts"]["began"]) == ("alert.began", 1)
    with pytest.raises(Refused, match="is tested itself"):
        world.routes.test(route.id)


@pytest.mark.parametrize("form", ["slack", "teams"])
def test_chat_rooms_get_a_line_an_alert_and_no_markup(form):
    one = {"severity": "critical", "summary": "<!channel> *x* [a](http://b)"}
    data = {
        "route": "room",
        "counts": {"began": 3, "again": 0, "ended": 1},
        "began": [one],
        "again": [],
        "ended": [one],
    }
    body = json.loads(make_body(form, "alert.began", data, datetime(2031, 1, 1, tzinfo=UTC)))
    text = json.dumps(body)
    assert "critical (ended)" in text
    assert "more" in text
    if form == "slack":
        assert body["blocks"][0]["text"]["type"] == "plain_text"
        assert "<!channel>" not in body["text"]
    else:
        kinds = {block["type"] for block in body["attachments"][0]["content"]["body"]}
        assert kinds == {"RichTextBlock"}


@pytest.mark.parametrize(
    ("channel", "target"),
    [
        ("email", []),
        ("email", ["nobody"]),
        ("email", ["a@b.org\nBcc: c@d.org"]),
        ("email", ["a@b.org,c@d.org"]),
        ("email", ['"a b"@c.org']),
        ("webhook", []),
        ("webhook", ["nowhere"]),
        ("mqtt", ["pi-1"]),  # it is not enrolled
        ("mqtt", ["+/up/state"]),
    ],
)
def test_wrong_targets_are_refused(world, channel, target):
    with pytest.raises(Refused) as refused:
        world.route(channel=channel, target=target)
    assert refused.value.code == "alert.target"


def test_old_alerts_are_forgotten_and_lasting_ones_not(world):
    world.look(there(), there("faro"))
    world.look(there("faro"), after_s=1)
    world.look(there("faro"), after_s=120)
    world.clock.pass_s(31 * 86400)
    world.watch.delete_old()
    assert [subject for subject, _, _ in world.states()] == ["faro"]
