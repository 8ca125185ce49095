"""After a restore: devices that have seen more refuse nothing of the new, and the old stays out."""

import shutil
from datetime import timedelta

import pytest
from tuf.api.exceptions import BadVersionNumberError

from databases import open_migrated
from edgectl_protocol.messages import ReportedState
from edgectl_server.audit import AuditLog
from edgectl_server.backup.resumption import (
    AHEAD_MIN,
    Restored,
    ahead_of,
    forget_restored,
    read_restored,
    resume_rows,
)
from edgectl_server.errors import Unavailable
from edgectl_server.order_answers import is_overtaken, knows_order
from edgectl_server.signing.folder import parse_metadata_file
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.repository import Repository
from edgectl_server.storage.tables import (
    AuditEntryRow,
    DesiredSlot,
    Device,
    EnrolToken,
    LoginSession,
    Model,
    ModelVersion,
    Retained,
    Rollout,
    RolloutDevice,
    User,
)
from edgectl_server.version_rows import counter_of
from server.signing.devices import NOW, ClientDevice, Published, target


@pytest.fixture
def forgotten(tmp_path):
    """A repository put back to an older state, and a device that has seen the newer one."""
    keys = Keys.open(tmp_path / "keys")
    repository = Repository.open(tmp_path / "tuf", keys, NOW)
    repository.add_targets([target("models/har/1/int8")], NOW)
    shutil.copytree(tmp_path / "tuf", tmp_path / "backup")
    device = ClientDevice(tmp_path / "device", repository.first_root)
    for number in range(2, 6):
        repository.add_targets([target(f"models/har/{number}/int8")], NOW)
    assert device.look_up(Published(repository.metadata()), "models/har/5/int8", NOW)
    shutil.rmtree(tmp_path / "tuf")
    (tmp_path / "backup").rename(tmp_path / "tuf")
    return Repository.open(tmp_path / "tuf", keys, NOW), device


def test_without_going_ahead_a_device_refuses_the_older_metadata(forgotten):
    repository, device = forgotten
    with pytest.raises(BadVersionNumberError):
        device.look_up(Published(repository.metadata()), "models/har/1/int8", NOW)


def test_ahead_a_device_takes_it_and_what_comes_then(forgotten):
    repository, device = forgotten
    repository.number_ahead(AHEAD_MIN, NOW)
    repository.number_ahead(AHEAD_MIN, NOW)  # as after a crash in between
    assert device.look_up(Published(repository.metadata()), "models/har/1/int8", NOW)
    assert device.look_up(Published(repository.metadata()), "models/har/5/int8", NOW) is None
    repository.add_targets([target("models/har/6/int8")], NOW)
    assert device.look_up(Published(repository.metadata()), "models/har/6/int8", NOW)
    assert repository.root_version == 1


def test_numbers_go_ahead_by_more_than_one_a_second():
    assert ahead_of(NOW, NOW) == AHEAD_MIN
    assert ahead_of(NOW, NOW + timedelta(days=30)) == AHEAD_MIN + 30 * 86400
    assert ahead_of(NOW, NOW - timedelta(days=30)) == AHEAD_MIN  # a clock that was wrong
    # The name of a metadata file has room for it, once a year for a long time.
    version = 25 * ahead_of(NOW, NOW + timedelta(days=365))
    assert parse_metadata_file(f"{version}.snapshot.json") == ("snapshot", version)


def device_row(name, **given):
    return Device(
        id=name,
        **{
            "state": "enrolled",
            "public_key_sha256": "0",
            "certificate_serial": "1",
            "certificate_expires_at": NOW,
            "certificate_pem": "",
            "earlier_serials": [],
            "enrol_token": "",
            "enrolled_at": NOW,
            "online": False,
            "boot": 1,
            "seq": 1,
            "order_counter": 9,
            "order_nonces": {"8": "8" * 32, "9": "9" * 32},
            "order": {"payload": ""},
            "order_expires_at": NOW,
            "reported": {},
            "agent_version": "",
            **given,
        },
    )


def rollout_row(name, state, **given):
    return Rollout(
        id=name,
        **{
            "model": "har",
            "version_id": 2,
            "state": state,
            "selector": {},
            "policy": {},
            "revision": 0,
            "failures_acknowledged": 0,
            "note": "",
            "due_at": NOW,
            "created_at": NOW,
            "created_by": "ana",
            **given,
        },
    )


@pytest.fixture
def database(sqlite_url, tmp_path):
    found = open_migrated(sqlite_url)
    AuditLog(found, lambda: NOW)
    with found.write() as session:
        session.add(Model(name="har", created_at=NOW, created_by="ana"))
        session.add(User(name="ana", password_hash="", role="admin", created_at=NOW))
        session.flush()
        for number in (1, 2):
            session.add(version_row(number))
        for name in ("fresh", "done", "ordered"):
            session.add(device_row(name))
        session.flush()
        session.add(rollout_row("running", "running"))
        session.add(rollout_row("finished", "completed", finished_at=NOW))
        session.flush()
        for name, state, before in (
            ("done", "committed", 1),
            ("ordered", "in_progress", 1),
            ("fresh", "in_progress", None),
        ):
            session.add(
                RolloutDevice(
                    rollout="running",
                    device=name,
                    state=state,
                    previous_version_id=before,
                    order_counter=9,
                    updated_at=NOW,
                )
            )
            session.add(
                DesiredSlot(
                    device=name,
                    slot="har",
                    version_id=2,
                    rollout="running",
                    updated_at=NOW,
                    ranking=["sha256:0"],
                )
            )
        session.add(
            EnrolToken(id="t", key="k", uses_left=1, expires_at=NOW, created_at=NOW, created_by="a")
        )
        session.add(
            LoginSession(secret_sha256="s", user="ana", csrf="c", created_at=NOW, expires_at=NOW)
        )
        session.add(Retained(key="k", kind="blob", size=1, complete=True, created_at=NOW))
    yield found
    found.close()


def version_row(number):
    return ModelVersion(
        id=number,
        model="har",
        version=str(number),
        state="ready",
        content="",
        source="",
        source_size=0,
        source_name="",
        options={},
        created_at=NOW,
        created_by="ana",
    )


def restored(carry_on=False):
    return Restored(
        made_at=NOW - timedelta(days=1), restored_at=NOW, carry_on=carry_on, ahead=AHEAD_MIN
    )


def test_nothing_moves_by_itself_and_what_may_have_ended_has(database):
    resume_rows(database, restored(), NOW)
    resume_rows(database, restored(), NOW)  # as after a crash
    with database.read() as session:
        running = session.get_one(Rollout, "running")
        assert (running.state, running.finished_at) == ("paused", None)
        assert "resume or abort" in running.note
        assert session.get_one(Rollout, "finished").state == "completed"
        states = {row.device: (row.state, row.order_counter) for row in rows(session)}
        assert states == {
            "done": ("committed", 9),
            "ordered": ("pending", None),
            "fresh": ("pending", None),
        }
        assert session.get_one(DesiredSlot, ("ordered", "har")).version_id == 1
        assert session.get(DesiredSlot, ("fresh", "har")) is None
        assert session.get_one(DesiredSlot, ("done", "har")).version_id == 2
        for device in session.query(Device):
            assert (device.order, device.order_expires_at) == (None, None), "none is published"
        assert session.get(EnrolToken, "t") is None
        assert session.query(LoginSession).count() == 0
        assert session.get_one(Retained, "k").complete is False
        noted = session.query(AuditEntryRow).filter_by(action="restore").all()
        assert len(noted) == 2


def rows(session):
    return session.query(RolloutDevice).all()


def test_microcontrollers_take_what_is_pushed_after_it(database):
    """They install nothing at or below the counter of what they run: a forgotten version's."""
    with database.read() as session:
        assert counter_of(session, 2) == 2
    forgotten = 2 + 5
    resume_rows(database, restored(), NOW)
    with database.read() as session:
        first = counter_of(session, 3)
    assert first > forgotten + AHEAD_MIN // 2
    resume_rows(database, restored(), NOW)  # once more, some day
    with database.read() as session:
        assert counter_of(session, 4) > first + AHEAD_MIN // 2


def test_where_nothing_can_have_happened_all_goes_on(database):
    resume_rows(database, restored(carry_on=True), NOW)
    with database.read() as session:
        assert session.get_one(Rollout, "running").state == "running"
        assert {row.state for row in rows(session)} == {"committed", "in_progress"}
        assert session.get_one(Device, "ordered").order is not None
        assert session.get(EnrolToken, "t") is not None
        assert session.get_one(Device, "ordered").order_counter == 9 + AHEAD_MIN


def test_an_answer_to_a_forgotten_order_is_no_attack_and_a_forged_one_still_is(database):
    resume_rows(database, restored(), NOW)
    with database.read() as session:
        device = session.get_one(Device, "done")
    assert knows_order(device, 9, "9" * 32) is True
    assert knows_order(device, 9, "a" * 32) is False
    assert knows_order(device, 12, "a" * 32) is None
    assert knows_order(device, 9 + AHEAD_MIN, "a" * 32) is None
    assert knows_order(device, 10 + AHEAD_MIN, "a" * 32) is False
    device.order_counter += 1
    device.order_nonces[str(device.order_counter)] = "b" * 32
    assert knows_order(device, device.order_counter, "b" * 32) is True
    assert knows_order(device, device.order_counter, "a" * 32) is False
    assert knows_order(device, 12, "a" * 32) is None


@pytest.mark.parametrize(
    ("accepted", "nonce", "overtaken"),
    [(9, "9" * 32, False), (8, "8" * 32, False), (0, None, False), (12, "c" * 32, True)],
)
def test_who_has_had_a_forgotten_order_needs_a_new_one(database, accepted, nonce, overtaken):
    resume_rows(database, restored(carry_on=True), NOW)
    with database.read() as session:
        device = session.get_one(Device, "ordered")
    reported = ReportedState(
        device="ordered",
        online=True,
        boot=1,
        seq=1,
        slots={},
        order_counter=accepted,
        order_nonce=nonce,
    )
    assert is_overtaken(device, reported) is overtaken


def test_the_mark_stays_until_all_is_done(tmp_path):
    assert read_restored(tmp_path) is None
    restored().write(tmp_path)
    assert read_restored(tmp_path) == restored()
    forget_restored(tmp_path)
    assert read_restored(tmp_path) is None
    (tmp_path / "restored.json").write_text("{")
    with pytest.raises(Unavailable, match=r"restored\.json"):
        read_restored(tmp_path)
