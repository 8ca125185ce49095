"""Webhooks: asked for by the API, signed, delivered to a real receiver, tried again, given up."""

import json
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from standardwebhooks import Webhook as Verifier

from edgectl_server.audit import entry_of
from edgectl_server.delivering import Outcome
from edgectl_server.errors import Refused
from edgectl_server.schemas import WebhookChange, WebhookRequest
from edgectl_server.signing.sealed_secrets import SealedSecrets
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery
from edgectl_server.storage.tables import Webhook, WebhookDelivery
from edgectl_server.webhook_outbox import announce
from edgectl_server.webhooks import addresses
from edgectl_server.webhooks.bodies import make_body
from edgectl_server.webhooks.delivery import WAITS_S, Deliverer
from edgectl_server.webhooks.registry import Webhooks
from edgectl_server.webhooks.sending import make_sender
from server.core.conftest import Clock
from server.core.webhook_receiver import Receiver, open_receiver
from waiting import wait_for

PAGE = PageQuery(q="", sort="", offset=0, limit=200)
EVIL = "<!channel> *bold* [x](https://evil.example) \x1b[31m"


class World:
    """A server's webhooks on one database; `replica` is another server on it."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.database = database
        self.clock = Clock()
        self.secrets = SealedSecrets.open(folder / "keys")
        self.deliverers: list[Deliverer] = []
        self.deliverer = self.replica()
        self.webhooks = Webhooks(
            database=database,
            secrets=self.secrets,
            deliverer=self.deliverer,
            now=self.clock,
            private=True,
        )

    def replica(self) -> Deliverer:
        deliverer = Deliverer(
            database=self.database,
            secrets=self.secrets,
            send=make_sender(private=True, within_s=5.0),
            now=self.clock,
        )
        self.deliverers.append(deliverer)
        return deliverer

    def add(self, receiver: Receiver, name: str = "ops", form: str = "edgectl") -> tuple[str, str]:
        asked = WebhookRequest(name=name, url=receiver.url, events=["gate.failed"], format=form)
        created = self.webhooks.create(asked, "anna")
        return created.webhook.id, created.secret

    def happen(self, **data: object) -> None:
        with self.database.write() as session:
            announce(session, "gate.failed", {"model": "har", "version": "2", **data}, self.clock())

    def states(self) -> list[tuple[str, int]]:
        with self.database.read() as session:
            rows = session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.created_at))
            return [(row.state, row.attempts) for row in rows]

    def settle(self, *expected: tuple[str, int]) -> None:
        """Deliver until the deliveries stand like that."""

        def look() -> bool:
            self.deliverer.look()
            under_way = self.deliverer.busy
            return not under_way and sorted(self.states()) == sorted(expected)

        wait_for(look, f"{expected}")


@pytest.fixture
def world(tmp_path: Path, database: Database) -> Iterator[World]:
    world = World(tmp_path, database)
    yield world
    for deliverer in world.deliverers:
        deliverer.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with open_receiver() as receiver:
        yield receiver


@pytest.fixture
def other() -> Iterator[Receiver]:
    with open_receiver() as receiver:
        yield receiver


def test_an_event_arrives_signed_as_the_specification_says(world, receiver):
    hook, secret = world.add(receiver)
    world.happen(gates={"error_rate": "failed: 0.2"})
    world.settle(("delivered", 1))
    (came,) = receiver.received
    assert came.path == "/hook"
    verified = Verifier(secret).verify(came.body, came.headers)
    assert verified["type"] == "gate.failed"
    assert verified["data"]["gates"] == {"error_rate": "failed: 0.2"}
    tampered = came.body.replace(b"har", b"bad")
    with pytest.raises(Exception, match="matching signature"):
        Verifier(secret).verify(tampered, came.headers)
    (row,) = world.webhooks.deliveries(hook, PAGE, state="delivered").items
    assert (row.id, row.status, row.error) == (came.headers["webhook-id"], 200, "")


def test_what_is_not_committed_is_not_told(world, receiver):
    world.add(receiver)

    def fail_after_it() -> None:
        with world.database.write() as session:
            announce(session, "gate.failed", {}, world.clock())
            raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        fail_after_it()
    assert world.states() == []


def test_others_and_those_switched_off_are_not_told(world, receiver):
    hook, _ = world.add(receiver)
    world.webhooks.change(hook, WebhookChange(events=["rollout.started"]))
    world.happen()
    world.webhooks.change(hook, WebhookChange(events=["gate.failed"], enabled=False))
    world.happen()
    assert world.states() == []


def test_it_is_tried_again_with_growing_waits_and_given_up_in_the_end(world, receiver):
    hook, _ = world.add(receiver)
    receiver.status = 503
    world.happen()
    for attempt, wait_s in enumerate(WAITS_S, 1):
        world.settle(("pending", attempt))
        world.clock.pass_s(wait_s - 1)
        world.deliverer.look()
        assert world.webhooks.webhook(hook).pending == 1
        assert world.states() == [("pending", attempt)]  # not before its time
        world.clock.pass_s(1)
    world.settle(("failed", len(WAITS_S) + 1))
    assert len(receiver.received) == len(WAITS_S) + 1
    assert len(set(receiver.ids)) == 1
    assert list(WAITS_S) == sorted(WAITS_S)
    newest = world.webhooks.webhook(hook).newest
    assert (newest.state, newest.status, newest.next_at) == ("failed", 503, None)
    first, last = receiver.received[0].headers, receiver.received[-1].headers
    assert int(last["webhook-timestamp"]) - int(first["webhook-timestamp"]) == sum(WAITS_S)


def test_a_receiver_that_is_gone_is_left_alone(world, receiver):
    hook, _ = world.add(receiver)
    receiver.status = 410
    world.happen()
    world.settle(("failed", 1))
    info = world.webhooks.webhook(hook)
    assert not info.enabled
    assert "410" in info.note
    world.happen()
    assert len(world.states()) == 1
    assert world.webhooks.change(hook, WebhookChange(enabled=True)).note == ""


def test_redirects_are_not_followed(world, receiver, other):
    hook, _ = world.add(receiver)
    receiver.status, receiver.location = 302, other.url
    world.happen()
    world.settle(("pending", 1))
    assert "redirects are not followed" in world.webhooks.webhook(hook).newest.error
    assert other.received == []


def test_a_slow_receiver_holds_nobody_else(world, receiver, other):
    world.add(receiver, "slow")
    world.add(other, "quick")
    receiver.go_on.clear()
    world.happen()
    world.happen()
    world.deliverer.look()
    wait_for(lambda: len(other.received) == 2, "the quick one has both")
    wait_for(lambda: receiver.received, "the slow one has its first")
    assert len(receiver.received) == 1
    receiver.go_on.set()
    world.settle(*[("delivered", 1)] * 4)


def test_an_answer_that_trickles_ends_in_time(world):
    """A byte now and then would keep a thread for ever, were only each read timed."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def trickle() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
            while not over.wait(0.02):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    thread = threading.Thread(target=trickle)
    thread.start()
    send = make_sender(private=True, within_s=0.3)
    outcome = send(f"http://127.0.0.1:{listener.getsockname()[1]}/", {}, b"{}")
    over.set()
    thread.join()
    listener.close()
    assert outcome == ("no answer in time (ReadTimeout)", None)


def test_an_attempt_that_a_dying_server_has_claimed_is_made_again(world, receiver):
    world.add(receiver)
    world.happen()
    hook = world.webhooks.page(PAGE).items[0].id
    claimed = world.deliverer._claim_next(hook)  # and then it dies
    world.deliverer.look()
    assert world.states() == [("pending", 1)]
    world.clock.pass_s(121)
    world.settle(("delivered", 2))
    assert receiver.ids == [claimed.id]
    # It was not dead, only late: what it says now counts no more.
    world.deliverer._end(claimed, Outcome("late"))
    assert world.states() == [("delivered", 2)]


def test_two_servers_send_each_event_once(world, receiver):
    world.add(receiver)
    for _ in range(40):
        world.happen()
    replica = world.replica()

    def all_delivered() -> bool:
        world.deliverer.look()
        replica.look()
        return {state for state, _ in world.states()} == {"delivered"}

    wait_for(all_delivered, "all are delivered")
    assert len(receiver.ids) == len(set(receiver.ids)) == 40
    assert set(world.states()) == {("delivered", 1)}


def test_a_test_is_sent_once_and_its_outcome_shown(world, receiver):
    hook, secret = world.add(receiver)
    assert world.webhooks.test(hook).state == "delivered"
    (came,) = receiver.received
    assert Verifier(secret).verify(came.body, came.headers)["type"] == "webhook.test"
    receiver.status = 500
    failed = world.webhooks.test(hook)
    assert (failed.state, failed.error, failed.next_at) == ("failed", "answered 500", None)
    world.webhooks.delete(hook)
    assert world.states() == []


def test_old_deliveries_are_forgotten_and_waiting_ones_are_not(world, receiver):
    hook, _ = world.add(receiver)
    world.webhooks.test(hook)
    receiver.status = 500
    world.happen()
    world.settle(("delivered", 1), ("pending", 1))
    world.clock.at += timedelta(days=20)
    world.deliverer.delete_old()
    assert world.states() == [("pending", 1)]


# ---------------------------------------------------------------- formats


def test_a_chat_room_of_slack_reads_nothing_as_markup():
    data = {"model": "har", "version": "2", "device": "pi-1", "note": EVIL, "empty": ""}
    body = json.loads(make_body("slack", "device.rolled_back", data, Clock().at))
    assert body["text"] == "har@2 on pi-1: update rolled back"
    (block,) = body["blocks"]
    assert block["text"]["type"] == "plain_text"
    assert "note: <!channel>" in block["text"]["text"]
    assert "\x1b" not in block["text"]["text"]
    named = json.loads(
        make_body("slack", "device.rolled_back", {**data, "model": "<a>&"}, Clock().at)
    )
    assert named["text"].startswith("&lt;a&gt;&amp;@2")


def test_a_card_of_teams_reads_nothing_as_markup():
    data = {"model": "har", "version": "2", "reason": {"code": "trial.latency", "detail": EVIL}}
    body = json.loads(make_body("teams", "device.rejected", data, Clock().at))
    assert body["type"] == "message"
    (attachment,) = body["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert {one["type"] for one in card["body"]} == {"RichTextBlock"}
    text = [run["text"] for one in card["body"] for run in one["inlines"]]
    assert text[0] == "har@2: update rejected"
    assert any("trial.latency <!channel>" in one for one in text)


@pytest.mark.parametrize("form", ["edgectl", "slack", "teams"])
def test_a_message_has_bounds(form):
    data = {f"field{number}": "x" * 5000 for number in range(100)}
    if form != "edgectl":
        assert len(make_body(form, "gate.failed", data, Clock().at)) < 40_000


# ---------------------------------------------------------------- addresses

NOT_PUBLIC = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "fec0::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "2002:7f00:1::",
    "64:ff9b::7f00:1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_the_server_s_own_network_is_not_reached(address):
    assert not addresses.is_public(address)
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(Refused) as refused:
        addresses.check_url(f"https://{host}/x", private=False)
    assert refused.value.code == "webhook.address"
    assert make_sender(private=False)(f"https://{host}/x", {}, b"{}").status is None


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_addresses_of_the_internet_are(address):
    assert addresses.is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/x",
        "ftp://hooks.example/x",
        "file:///etc/passwd",
        "https://",
        "https://user:word@hooks.example/",
        "https://hooks.example/#x",
        "https://hooks.example:99999/",
        "https://[::1/",
        "https://hö.example/",
        "https://hooks.example/a b",
        "https://hooks.example/\r\nx: y",
    ],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(Refused) as refused:
        addresses.check_url(url, private=False)
    assert refused.value.code == "webhook.url"


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1"])
def test_a_name_is_judged_by_what_it_leads_to_when_the_connection_is_made(host, receiver):
    """Other spellings of loopback are names to the first check: the second one sees them."""
    port = receiver.url.rsplit(":", 1)[1].split("/")[0]
    outcome = make_sender(private=False)(f"https://{host}:{port}/hook", {}, b"{}")
    assert outcome.error
    assert "is not an address of the Internet" in outcome.error
    assert receiver.received == []


def test_what_was_looked_at_is_what_is_connected_to(monkeypatch, receiver):
    """DNS rebinding: the name is looked up once, and what was looked at is connected to."""
    asked = []
    looked_up = socket.getaddrinfo
    port = int(receiver.url.rsplit(":", 1)[1].split("/")[0])

    def answers(host, *args, **named):
        asked.append(host)
        if host != "hooks.example":
            return looked_up(host, *args, **named)
        private = "10.0.0.1" if asked.count(host) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (private, port))]

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    outcome = make_sender(private=False)(f"https://hooks.example:{port}/hook", {}, b"{}")
    assert outcome.error == "hooks.example is not an address of the Internet"
    assert asked == ["hooks.example"]
    assert receiver.received == []


# ---------------------------------------------------------------- the API


def test_the_secret_is_shown_once_and_neither_it_nor_the_address_is_kept_readable(
    services, client, people, receiver
):
    address = f"{receiver.url}/services/T000/B000/the-password"
    body = {"name": "room", "url": address, "events": ["gate.failed"], "format": "slack"}
    answer = client.post("/api/v1/webhooks", json=body, headers=people.admin)
    assert answer.status_code == 201, answer.text
    created = answer.json()
    secret, hook = created["secret"], created["webhook"]["id"]
    assert secret.startswith("whsec_")
    shown = client.get(f"/api/v1/webhooks/{hook}", headers=people.admin).json()
    assert shown["url"] == address
    listed = client.get("/api/v1/webhooks", headers=people.admin).text
    assert secret not in listed
    assert secret.removeprefix("whsec_") not in listed
    with services.database.read() as session:
        row = session.get_one(Webhook, hook)
        assert "the-password" not in row.url
    said = [entry_of(row) for row in services.audit.rows(0, 1000)]
    (entry,) = [one for one in said if one.action == "create_webhook"]
    assert (entry.object, entry.details["name"]) == (hook, "room")
    assert "the-password" not in str(said)
    assert secret not in str(said)
    files = services.settings.data_path.rglob("*.sqlite*")
    assert all(b"the-password" not in file.read_bytes() for file in files)
    key = services.settings.data_path / "keys" / "secrets.pem"
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_webhook_by_the_api(client, people, receiver):
    body = {"name": "ops", "url": receiver.url, "events": ["gate.failed", "gate.failed"]}
    hook = client.post("/api/v1/webhooks", json=body, headers=people.admin).json()["webhook"]["id"]
    again = client.post("/api/v1/webhooks", json=body, headers=people.admin)
    assert (again.status_code, again.json()["code"]) == (409, "webhook.exists")
    at = f"/api/v1/webhooks/{hook}"
    changed = client.patch(at, json={"name": "ops 2", "format": "teams"}, headers=people.admin)
    assert changed.json()["name"] == "ops 2"
    assert changed.json()["events"] == ["gate.failed"]
    tested = client.post(f"{at}/test", headers=people.admin).json()
    assert (tested["state"], tested["status"]) == ("delivered", 200)
    page = client.get(f"{at}/deliveries?state=delivered", headers=people.admin).json()
    assert [one["id"] for one in page["items"]] == receiver.ids
    assert client.get(f"{at}/deliveries?state=failed", headers=people.admin).json()["total"] == 0
    assert client.delete(at, headers=people.admin).status_code == 204
    for method, path in (("GET", at), ("DELETE", at), ("POST", f"{at}/test")):
        gone = client.request(method, path, headers=people.admin)
        assert (gone.status_code, gone.json()["code"]) == (404, "webhook.unknown")


@pytest.mark.parametrize(
    "wrong",
    [
        {"events": []},
        {"events": ["device.exploded"]},
        {"format": "fax"},
        {"name": ""},
        {"name": "\x1b[31m"},
        {"secret": "whsec_mine"},
        {"url": "https://x/" + "x" * 3000},
        {"url": "file:///etc/passwd"},
    ],
)
def test_what_is_wrong_is_refused(client, people, wrong):
    body = {"name": "ops", "url": "https://hooks.example/x", "events": ["gate.failed"], **wrong}
    assert client.post("/api/v1/webhooks", json=body, headers=people.admin).status_code == 422


def test_there_is_a_limit(client, people):
    body = {"url": "https://hooks.example/x", "events": ["gate.failed"]}
    codes = [
        client.post("/api/v1/webhooks", json={**body, "name": f"n{n}"}, headers=people.admin)
        for n in range(33)
    ]
    assert [one.status_code for one in codes] == [201] * 32 + [409]
    assert codes[-1].json()["code"] == "webhook.limit"
