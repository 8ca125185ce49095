"""The audit log in both databases, and its heads outside of them."""

import json
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from edgectl_protocol.audit import ChainCheck, Finding, canonical, entry_hash, head_message
from edgectl_server import audit as audit_module
from edgectl_server.audit import Act, AuditLog, acting, describe, entry_of, note
from edgectl_server.audit_heads import AuditHeads
from edgectl_server.audit_spool import leave_act, local_actor
from edgectl_server.clock import now
from edgectl_server.errors import Unavailable
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Model

TABLE = "audit_entry"


@pytest.fixture
def log(database) -> AuditLog:
    return AuditLog(database, now)


@pytest.fixture
def heads(tmp_path, log) -> AuditHeads:
    return AuditHeads.open(tmp_path / "audit", log, now)


def act(**fields) -> Act:
    return Act(**{"actor": "ana", "action": "make_model", "changes": True, **fields})


def make_model(database, name: str) -> None:
    with database.write() as session:
        session.add(Model(name=name, created_at=now(), created_by="ana"))


def fill(database, rows: int) -> None:
    for number in range(rows):
        with acting(act(object=f"m{number}", details={"number": number})):
            make_model(database, f"m{number}")


def entries(log):
    return [entry_of(row) for row in log.rows(0, 1000)]


def check(log, heads=()) -> Finding | None:
    checked = ChainCheck(heads)
    for entry in entries(log):
        checked.add(entry)
    return checked.finish()


def tamper(database, *statements: str) -> None:
    """Do what somebody does who owns the database: the triggers are theirs, too."""
    with database.write() as session:
        if database.dialect == "sqlite":
            for change in ("update", "delete"):
                session.execute(text(f"DROP TRIGGER IF EXISTS audit_entry_{change}"))
        else:
            session.execute(text(f"DROP TRIGGER IF EXISTS audit_entry_refuse ON {TABLE}"))
        for statement in statements:
            session.execute(text(statement))


def test_a_change_and_its_row_are_one_transaction(database, log):
    with acting(act(object="a", address="192.0.2.1", via="token/1")) as done:
        make_model(database, "a")
    assert done.recorded
    (entry,) = entries(log)
    assert (entry.number, entry.actor, entry.object, entry.outcome) == (1, "ana", "a", "done")
    assert (entry.address, entry.via, entry.action) == ("192.0.2.1", "token/1", "make_model")
    with acting(act(object="a")) as failing, pytest.raises(DBAPIError):
        make_model(database, "a")
    assert not failing.recorded
    assert len(entries(log)) == 1  # neither the change nor its row


def test_what_cannot_be_written_down_does_not_happen(database, log):
    tamper(database, "DELETE FROM audit_head")
    with acting(act()), suppress(Exception):
        make_model(database, "a")
    with database.read() as session:
        assert session.get(Model, "a") is None


def test_one_act_is_one_row_however_many_transactions(database, log):
    with acting(act(object="first")):
        make_model(database, "a")
        describe(late=True)
        make_model(database, "b")
    with acting(act(changes=False)), acting(act(actor="")):
        make_model(database, "c")  # somebody unknown: not yet
    assert [entry.object for entry in entries(log)] == ["first"]


def test_what_the_server_does_by_itself(database, log):
    with database.write() as session:
        note(session, "issue_orders", "r1", {"orders": 3})
        session.add(Model(name="a", created_at=now(), created_by="-"))
    (entry,) = entries(log)
    assert (entry.actor, entry.via, entry.details) == ("server", "server", {"orders": 3})


def test_what_commands_have_left_is_taken_in_once_and_in_order(database, log, tmp_path):
    directory = tmp_path / "audit" / "pending"
    assert log.take_in(directory) == 0
    at = datetime(2026, 11, 23, 3, 48, tzinfo=UTC)
    for number in range(3):
        moment = at + timedelta(microseconds=number)
        leave_act(directory, "keys_rotate", f"role{number}", {"threshold": 2}, moment)
    for path in directory.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    (directory / "9-garbage.json").write_bytes(b"{")
    (directory / "9-huge.json").write_bytes(b'"' + b"x" * 100_000)
    (directory / ".half.part").write_bytes(b"{")  # being written
    assert log.take_in(directory) == 5
    assert log.take_in(directory) == 0
    written = entries(log)
    assert [entry.object for entry in written] == ["role0", "role1", "role2", "", ""]
    assert {entry.actor for entry in written[:3]} == {local_actor()}
    assert written[0].via == "command"
    assert written[0].details["done_at"] == at.isoformat()
    assert [entry.action for entry in written[3:]] == ["unreadable"] * 2
    assert check(log) is None


def test_whatever_was_sent_fits_into_a_row(database, log):
    hostile = "\0\x1b[2J\ud800\n" + "x" * 10_000
    details = {
        "text": hostile,
        "number": 10**30,
        "fraction": 0.1,
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "deep": [[[[[[1]]]]]],
        hostile: None,
    }
    log.end(act(actor=hostile, object=hostile, address=hostile, details=details), "refused")
    log.end(act(details={"many": ["x" * 500] * 60}), "done")
    assert check(log) is None
    first, second = entries(log)
    assert "\0" not in first.actor
    assert len(first.actor) == 128
    assert first.details["number"] == str(10**30)
    assert len(canonical(first.details)) < audit_module.DETAILS_BYTES_MAX
    assert second.details["too_long"] is True


def test_refusals_are_counted_when_they_are_many(log, monkeypatch):
    at = 0.0
    monkeypatch.setattr(audit_module.time, "monotonic", lambda: at)
    for _ in range(500):
        log.end(act(actor="", changes=False), "refused", code="auth.login")
    log.end(act(actor="bob"), "refused")  # others have their own
    assert len(entries(log)) == audit_module.REFUSALS_BURST + 1
    at = 20.0
    log.end(act(actor=""), "refused")
    newest = entries(log)[-1]
    assert newest.details["more_before"] == 500 - audit_module.REFUSALS_BURST
    log.end(act(actor=""), "failed")  # what failed is ours, and always there
    assert entries(log)[-1].outcome == "failed"


def test_our_own_code_cannot_change_rows(database, log):
    fill(database, 2)
    for statement in (f"DELETE FROM {TABLE}", f"UPDATE {TABLE} SET actor = 'eve'"):
        with pytest.raises(DBAPIError, match="only added to"), database.write() as session:
            session.execute(text(statement))
    assert check(log) is None


@pytest.mark.parametrize(
    ("statements", "fault", "number"),
    [
        ([f"DELETE FROM {TABLE} WHERE number = 3"], "missing", 3),
        ([f"UPDATE {TABLE} SET actor = 'eve' WHERE number = 3"], "changed", 3),
        ([f"UPDATE {TABLE} SET details = 'no JSON' WHERE number = 3"], "changed", 3),
        ([f"UPDATE {TABLE} SET outcome = 'refused' WHERE number = 5"], "changed", 5),
        ([f"DELETE FROM {TABLE} WHERE number > 3"], "truncated", 4),
        (
            [
                f"DELETE FROM {TABLE} WHERE number > 3",
                (
                    f"UPDATE audit_head SET number = 3, hash = (SELECT hash FROM {TABLE} "
                    "WHERE number = 3)"
                ),
            ],
            "truncated",
            4,
        ),
        (
            [
                f"UPDATE {TABLE} SET number = 100 WHERE number = 2",
                f"UPDATE {TABLE} SET number = 2 WHERE number = 3",
                f"UPDATE {TABLE} SET number = 3 WHERE number = 100",
            ],
            "changed",
            2,
        ),
        (
            [
                f"UPDATE {TABLE} SET number = number + 100 WHERE number > 2",
                f"UPDATE {TABLE} SET number = number - 99 WHERE number > 100",
                (
                    f"INSERT INTO {TABLE} SELECT 3, at, 'eve', via, address, action, object,"
                    f" outcome, details, previous, hash FROM {TABLE} WHERE number = 2"
                ),
            ],
            "changed",
            3,
        ),
    ],
    ids=["delete", "change", "garbage", "outcome", "cut", "cut-and-head", "reorder", "insert"],
)
def test_whoever_changes_rows_is_found(database, log, tmp_path, statements, fault, number):  # noqa: PLR0917
    heads = AuditHeads.open(tmp_path / "audit", log, now)
    fill(database, 6)
    heads.anchor()
    tamper(database, *statements)
    finding = check(log, heads.heads())
    assert finding is not None
    assert (finding.fault, finding.number) == (fault, number)


def test_whoever_makes_a_whole_new_chain_is_found_by_the_heads(database, log, heads, caplog):
    fill(database, 6)
    heads.anchor()
    before = entries(log)
    tamper(database, f"DELETE FROM {TABLE}", "UPDATE audit_head SET number = 0, hash = ''")
    tamper(database, f"UPDATE audit_head SET hash = '{'0' * 64}'")
    fill_anew = [entry.object for entry in before if entry.number != 4]
    for name in fill_anew:
        log.end(act(object=name), "done")
    assert check(log) is None  # the new chain is a good one
    assert heads.anchor() is False  # or else it would vouch for the new rows
    assert "signed at" in heads.alarm
    assert "somebody has changed it" in caplog.text
    finding = check(log, heads.heads())
    assert finding is not None
    assert (finding.fault, finding.number) == ("truncated", 6)
    log.end(act(object="more"), "done")
    finding = check(log, heads.heads())
    assert finding is not None
    assert (finding.fault, finding.number) == ("rewritten", 1)


def test_heads_are_signed_and_only_appended(tmp_path, database, log, heads):
    assert heads.anchor() is False  # nothing to sign
    fill(database, 2)
    assert heads.anchor() is True
    assert heads.anchor() is False
    (file,) = (tmp_path / "audit" / "heads").iterdir()
    first = file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "audit" / "key.pem").stat().st_mode & 0o777 == 0o600
    log.end(act(), "done")
    again = AuditHeads.open(tmp_path / "audit", log, now)
    assert again.anchored == 2
    assert again.anchor() is True
    assert file.read_bytes().startswith(first)
    assert check(log, again.heads()) is None
    for head in again.heads():
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(head.key))
        assert head.key == heads.public_key
        key.verify(bytes.fromhex(head.signature), head_message(head))
        other = msgspec.structs.replace(head, number=head.number + 1)
        with pytest.raises(InvalidSignature):
            key.verify(bytes.fromhex(head.signature), head_message(other))


def test_a_line_that_a_power_loss_has_cut_is_no_end(tmp_path, database, log, heads):
    fill(database, 1)
    heads.anchor()
    (file,) = (tmp_path / "audit" / "heads").iterdir()
    whole = file.read_bytes()
    for length in (1, 50, len(whole) - 1):
        file.write_bytes(whole + whole[:length])
        assert len(list(heads.heads())) == 1
        again = AuditHeads.open(tmp_path / "audit", log, now)
        assert again.anchored == 1
        assert file.read_bytes() == whole
    file.write_bytes(b"garbage\n" + whole)
    with pytest.raises(Unavailable) as caught:
        list(heads.heads())
    assert caught.value.code == "audit.heads"


def test_writers_at_once_make_one_chain(database_url, database):
    """Two servers on one database, each with several threads."""
    servers = [Database(database_url) for _ in range(2)]
    logs = [AuditLog(server, now) for server in servers]
    problems: list[Exception] = []

    def work(server: Database, name: str) -> None:
        try:
            for number in range(12):
                with acting(act(object=f"{name}-{number}")):
                    make_model(server, f"{name}-{number}")
        except Exception as error:  # noqa: BLE001 - for the main thread
            problems.append(error)

    threads = [
        threading.Thread(target=work, args=(server, f"t{index}-{which}"))
        for index, server in enumerate(servers)
        for which in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert check(logs[0]) is None
    written = entries(logs[0])
    assert [entry.number for entry in written] == list(range(1, 73))
    assert len({entry.object for entry in written}) == 72
    for server in servers:
        server.close()


def test_a_transaction_that_holds_the_head_lets_others_work(database, database_url):
    """The head is locked at the very end, so that locks are taken in one order by everybody."""
    AuditLog(database, now)
    fill(database, 1)
    other = Database(database_url)
    AuditLog(other, now)
    order = []

    def second() -> None:
        with acting(act(object="second")):
            make_model(other, "second")
        order.append("second")

    with acting(act(object="first")), database.write() as session:
        session.add(Model(name="first", created_at=now(), created_by="ana"))
        session.flush()
        thread = threading.Thread(target=second)
        thread.start()
        if database.dialect == "postgresql":  # SQLite has one writer at a time anyway
            thread.join(60)
            assert order == ["second"]
    thread.join()
    other.close()


def test_the_hash_can_be_computed_from_the_row_alone(database, log):
    fill(database, 1)
    (row,) = log.rows(0, 10)
    assert json.loads(row.details) == {"number": 0}
    assert entry_hash(entry_of(row)) == row.hash
