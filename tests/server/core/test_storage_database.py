"""The database on SQLite and on PostgreSQL: migrations are the models, writers do not collide."""

import subprocess
import sys

import pytest
import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import select, text

from edgectl_server.clock import now
from edgectl_server.errors import Unavailable
from edgectl_server.storage.database import _MIGRATIONS, Database
from edgectl_server.storage.tables import (
    ApiToken,
    Base,
    MessageReceiptRow,
    Model,
    ModelVersion,
    User,
)

COUNTER = """
import sys
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import User
database = Database(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with database.write() as session:
        user = session.get(User, "counter", with_for_update=True)
        user.role = str(int(user.role) + 1)
database.close()
"""


def user(name: str, role: str = "viewer") -> User:
    return User(name=name, password_hash="-", role=role, created_at=now())


def test_migrations_make_the_models(database):
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_twice_changes_nothing(database):
    with database.write() as session:
        session.add(user("anna"))
    database.migrate()
    with database.read() as session:
        assert session.get(User, "anna") is not None


def test_a_start_that_finds_all_up_to_date_migrates_nothing(database, monkeypatch):
    with database.read() as session:
        there = session.scalar(text("SELECT version_num FROM alembic_version"))
    assert there == ScriptDirectory(str(_MIGRATIONS)).get_current_head()
    monkeypatch.setattr(Database, "_migrate", lambda _self: pytest.fail("migrated"))
    database.migrate()


def test_what_an_older_version_has_taken_in_is_not_missing_afterwards(database_url, monkeypatch):
    database = Database(database_url)
    upgrade = command.upgrade
    with monkeypatch.context() as older:
        older.setattr(command, "upgrade", lambda config, _: upgrade(config, "0028_accuracy"))
        database.migrate()
    samples = [
        {"boot": boot, "seq": seq, "at": now(), "sample": "{}"}
        for boot, seq in ((1, 1), (1, 2), (2, 6), (2, 7))
    ]
    insert = "INSERT INTO system_sample VALUES ('pi-1', :boot, :seq, :at, :at, :sample)"
    with database.write() as session:
        moment = sqlalchemy.bindparam("at", type_=sqlalchemy.DateTime(timezone=True))
        session.execute(text(insert).bindparams(moment), samples)
    database.migrate()
    with database.read() as session:
        rows = session.scalars(select(MessageReceiptRow).order_by(MessageReceiptRow.boot)).all()
    assert [(one.device, one.boot, one.last, one.received) for one in rows] == [
        ("pi-1", 1, 2, 2),
        ("pi-1", 2, 7, 7),
    ]
    assert [(one.gaps, one.duplicates, one.forgotten) for one in rows] == [([], 0, 0)] * 2
    database.close()


def test_an_unknown_revision_is_refused(database):
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999_future'"))
    with pytest.raises(Unavailable) as caught:
        database.migrate()
    assert caught.value.code == "database.newer"
    with database.read() as session:
        assert session.scalar(text("SELECT version_num FROM alembic_version")) == "9999_future"


def test_servers_may_start_at_once(database_url):
    code = (
        "import sys\n"
        "from edgectl_server.storage.database import Database\n"
        "database = Database(sys.argv[1])\ndatabase.migrate()\ndatabase.close()\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, database_url], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()


def test_a_migration_that_is_cut_off_has_changed_nothing(database_url):
    database = Database(database_url)
    _, last = database.revisions()

    def cut(_connection, _cursor, statement, parameters, *_):
        if "alembic_version" in statement and last in statement + str(parameters):
            raise RuntimeError

    sqlalchemy.event.listen(database.engine, "before_cursor_execute", cut)
    with pytest.raises(RuntimeError):
        database.migrate()
    sqlalchemy.event.remove(database.engine, "before_cursor_execute", cut)
    with database.engine.connect() as connection:
        assert sqlalchemy.inspect(connection).get_table_names() == []
    database.migrate()
    assert database.revisions() == (last, last)
    database.close()


def test_no_database_is_said_plainly(tmp_path):
    database = Database(f"postgresql+psycopg:///nothing?host={tmp_path}")
    with pytest.raises(Unavailable) as caught:
        database.migrate()
    assert caught.value.code == "database.unavailable"
    database.close()
    with pytest.raises(Unavailable) as caught:
        Database("mysql://localhost/nothing")
    assert caught.value.code == "database.unsupported"


def test_four_processes_read_modify_write(database, database_url):
    with database.write() as session:
        session.add(user("counter", "0"))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COUNTER, database_url, "50"], stderr=subprocess.PIPE
        )
        for _ in range(4)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    with database.read() as session:
        counter = session.get(User, "counter")
        assert counter is not None
        assert counter.role == "200"


def test_an_error_rolls_back_and_a_read_changes_nothing(database):
    class Interrupted(Exception):
        pass

    def fail() -> None:
        with database.write() as session:
            session.add(user("anna"))
            session.flush()
            raise Interrupted

    with pytest.raises(Interrupted):
        fail()
    with database.read() as session:
        session.add(user("berta"))
        session.flush()
    with database.read() as session:
        assert session.query(User).count() == 0


def test_a_reader_does_not_wait_for_a_writer(database):
    with database.write() as session:
        session.add(user("anna"))
        session.flush()
        with database.read() as reader:
            assert reader.get(User, "anna") is None
    with database.read() as reader:
        assert reader.get(User, "anna") is not None


def test_foreign_keys_hold(database):
    def orphan() -> None:
        with database.write() as session:
            session.add(
                ModelVersion(
                    model="nothing",
                    version="1",
                    state="ready",
                    content="-",
                    source="-",
                    source_size=1,
                    source_name="-",
                    options={},
                    created_at=now(),
                    created_by="-",
                )
            )

    with pytest.raises(sqlalchemy.exc.IntegrityError):
        orphan()
    with database.write() as session:
        session.add(user("anna"))
    with database.write() as session:
        session.add(
            ApiToken(id="t", user="anna", name="-", role="-", secret_sha256="-", created_at=now())
        )
    with database.write() as session:
        session.delete(session.get(User, "anna"))
    with database.read() as session:
        assert session.get(ApiToken, "t") is None


def test_times_come_back_in_utc(database):
    at = now()
    with database.write() as session:
        session.add(Model(name="har", created_at=at, created_by="-"))
    with database.read() as session:
        model = session.get(Model, "har")
        assert model is not None
        assert model.created_at == at
        assert model.created_at.utcoffset().total_seconds() == 0


def test_sqlite_is_set_up_as_decided(sqlite_url):
    database = Database(sqlite_url)
    database.migrate()
    with database.read() as session:
        pragmas = {
            name: session.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "foreign_keys", "busy_timeout", "auto_vacuum")
        }
    database.close()
    assert pragmas == {
        "journal_mode": "wal",
        "foreign_keys": 1,
        "busy_timeout": 15000,
        "auto_vacuum": 2,
    }
