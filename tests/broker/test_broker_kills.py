"""kill -9 again and again while the broker works: what it has acknowledged is there afterwards.

One state lives through all kills. Before each, a publisher goes as fast as it can (some topics are
retained, overwritten and cleared), one session is away, another receives and acknowledges half;
some kills come at a random moment, some before a random statement of SQLite. Then the file is
examined and a new process asked for everything. What was sent and not acknowledged may be there or
not; nothing older than what was acknowledged may be.

With ``EDGECTL_KILL_ROUNDS=500``, and ``--timeout=0`` for pytest, it is a long run.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import threading

import mqtt5
from mqtt5 import QoS

from broker.clients import Raw

ROUNDS = int(os.environ.get("EDGECTL_KILL_ROUNDS", "8"))
SEED = int(os.environ.get("EDGECTL_KILL_SEED", "0")) or random.SystemRandom().randrange(2**32)
TOPICS = 12
WINDOW = 20
ROUND_MESSAGES_MAX = 1500  # fewer than a queue holds: for what it cannot hold nothing is promised
HOUR_S = 3600
SESSIONS = ("away", "present")


class Ledger:
    """What was sent and acknowledged; payloads begin with a number that rises."""

    def __init__(self):
        self.number = 0
        self.owed = []  # acknowledged since the last kill, in order
        self.retained = {}  # topic: (number, payload) of the last acknowledged and what followed
        self.given = set()  # what the session that is present has acknowledged

    def note_sent(self, topic, payload, *, retain):
        self.number += 1
        entry = (self.number, payload and b"%d " % self.number + payload)
        if retain:
            self.retained.setdefault(topic, [(0, b"")]).append(entry)
        return entry

    def note_acknowledged(self, topic, entry, *, retain):
        if entry[1]:
            self.owed.append(number_of(entry[1]))
        if retain:
            known = self.retained[topic]
            del known[: known.index(entry)]


def number_of(payload):
    return int(payload.split(b" ", 1)[0])


def publish_until_killed(broker, ledger, chance):
    """Publish with a window until the connection breaks; note each acknowledgement."""
    with Raw(broker) as client:
        assert client.connect("publisher", username="server").reason_code == 0
        flying, sent = {}, 0
        try:
            while True:
                while len(flying) < WINDOW and sent < ROUND_MESSAGES_MAX:
                    sent += 1
                    retain = chance.random() < 0.5
                    topic = f"{'r' if retain else 'q'}/{chance.randrange(TOPICS)}"
                    clear = retain and chance.random() < 0.2
                    payload = b"" if clear else b"x" * chance.choice([1, 100, 10_000])
                    entry = ledger.note_sent(topic, payload, retain=retain)
                    flying[sent] = (topic, entry, retain)
                    client.send(
                        mqtt5.PublishPacket(
                            topic, entry[1], qos=QoS.AT_LEAST_ONCE, retain=retain, packet_id=sent
                        )
                    )
                answer = client.receive()
                if answer is None:
                    return
                topic, entry, retain = flying.pop(answer.packet_id)
                assert int(answer.reason_code) < 0x80, answer
                ledger.note_acknowledged(topic, entry, retain=retain)
        except OSError:
            return


def receive_until_killed(client, ledger, chance):
    """Receive, and acknowledge half: in order, as MQTT wants it."""
    waiting = []
    try:
        while (packet := client.receive()) is not None:
            if not isinstance(packet, mqtt5.PublishPacket):
                continue
            waiting.append(packet)
            if len(waiting) < WINDOW // 2 and chance.random() < 0.5:
                continue
            first = waiting.pop(0)
            client.send(mqtt5.PubAckPacket(first.packet_id))
            if first.payload:
                ledger.given.add(number_of(first.payload))
    except OSError:
        return


def drain(client):
    """Receive and acknowledge all that a session holds; return the numbers."""
    numbers = []
    while found := [one for one in client.ping() if isinstance(one, mqtt5.PublishPacket)]:
        for one in found:
            client.send(mqtt5.PubAckPacket(one.packet_id))
            if one.payload:
                numbers.append(number_of(one.payload))
    return numbers


def resume(broker, name):
    client = Raw(broker)
    welcome = client.connect(name, clean_start=False, session_expiry_interval=HOUR_S)
    assert welcome.reason_code == 0
    return client, welcome.session_present


def check_file(state, scratch):
    """The file as the kill has left it is whole."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(state, scratch)
    connection = sqlite3.connect(scratch / "broker.sqlite3")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        connection.close()


def check_sessions(broker, ledger):
    owed = set(ledger.owed)
    for name in SESSIONS:
        client, present = resume(broker, name)
        with client:
            assert present, f"the session {name} is lost"
            numbers = drain(client)
            client.disconnect()
        assert numbers == sorted(set(numbers)), f"{name}: out of order"
        missing = owed - set(numbers) - (ledger.given if name == "present" else set())
        assert not missing, f"{name}: acknowledged and lost: {sorted(missing)[:10]}"
        assert not numbers or numbers[-1] <= ledger.number
    ledger.owed.clear()
    ledger.given.clear()


def check_retained(broker, ledger):
    with Raw(broker) as client:
        client.connect("late")
        client.subscribe("r/+", max_qos=QoS.AT_MOST_ONCE)
        found = {}
        while more := client.ping():
            found |= {one.topic: one.payload for one in more}
    for topic, known in ledger.retained.items():
        payload = found.get(topic, b"")
        assert payload in [content for _, content in known], f"{topic}: {payload[:20]!r}"
        ledger.retained[topic] = [(0, payload)]
    assert set(found) <= set(ledger.retained)


def one_kill(broker, ledger, chance, turn):
    """Subscribe to one filter, end the last turn's; work until the kill."""
    client, _ = resume(broker, "present")
    assert client.subscribe(f"s/{turn}") == [1]
    client.send(mqtt5.UnsubscribePacket(60_000, [f"s/{turn - 1}"]))
    while not isinstance(client.receive(), mqtt5.UnsubAckPacket):
        pass
    threads = [
        threading.Thread(target=publish_until_killed, args=(broker, ledger, chance)),
        threading.Thread(
            target=receive_until_killed, args=(client, ledger, random.Random(chance.random()))
        ),
    ]
    for thread in threads:
        thread.start()
    if turn % 2:
        broker.process.send_signal(signal.SIGUSR1)
        broker.process.wait(60)
    else:
        threading.Event().wait(chance.uniform(0.0, 0.3))
        broker.kill()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    client.die()


def test_nothing_acknowledged_is_lost_and_the_file_is_whole(killable, tmp_path):
    print(f"EDGECTL_KILL_SEED={SEED}")
    chance, ledger, acknowledged = random.Random(SEED), Ledger(), 0
    broker = killable()
    for name in SESSIONS:
        client, _ = resume(broker, name)
        assert client.subscribe("q/+", "r/+") == [1, 1]
        client.disconnect()
    broker.kill()
    for turn in range(ROUNDS):
        broker = killable(dies_at=chance.randint(1, 400))
        one_kill(broker, ledger, chance, turn)
        acknowledged += len(ledger.owed)
        check_file(broker.state, tmp_path / "copy")
        broker = killable()
        check_sessions(broker, ledger)
        check_retained(broker, ledger)
        with Raw(broker) as client:
            client.connect("asks", username="server")
            assert client.publish(f"s/{turn}", b"") == 0, "a subscription is lost"
            assert client.publish(f"s/{turn - 1}", b"") == 0x10, "an ended subscription is back"
        broker.kill()
    print(f"{acknowledged} acknowledged publications over {ROUNDS} kills, none lost")
    assert acknowledged > 0
