"""Users from a provider, on SQLite and PostgreSQL."""

import threading

import pytest

from edgectl_server.auth import Auth
from edgectl_server.errors import ServerError
from edgectl_server.openid.people import People
from edgectl_server.storage.tables import OpenIdPerson, User
from server.core.conftest import QUICK

HERE = "https://login.example.org"
MAPPING = {"ops": "operator", "chiefs": "admin"}


@pytest.fixture
def people(database, clock):
    return People(database, clock)


@pytest.fixture
def auth(database, clock):
    return Auth(database, clock, hasher=QUICK)


def admit(people, subject="1", called="Ana", *, values=("ops",), role="operator", issuer=HERE):
    return people.admit(issuer, subject, called=called, values=values, role=role)


def test_the_same_subject_of_two_providers_is_two_people(people):
    assert admit(people) == "ana@sso"
    assert admit(people, issuer="https://other.example.org") == "ana~2@sso"
    assert admit(people, called="Renamed") == "ana@sso"


def test_names(people):
    """Short, of few letters, and never somebody else's."""
    for number, (called, name) in enumerate(
        [
            ("Ana María", "ana-mar-a@sso"),
            ("ana@example.org", "ana@sso"),
            ("ana@other.example.org", "ana~2@sso"),
            ("ana~2", "ana-2@sso"),
            ("@", "somebody@sso"),
            ("\u202e\0", "somebody~2@sso"),
            ("../../etc", "etc@sso"),
            ("x" * 500, "x" * 40 + "@sso"),
        ]
    ):
        assert admit(people, str(number), called) == name


def test_a_name_with_the_suffix_cannot_be_made_by_hand(people, auth):
    name = admit(people)
    with pytest.raises(ServerError) as caught:
        auth.set_user(name, "correct horse battery", "admin")
    assert caught.value.code == "auth.user"


def test_first_logins_at_once_make_one_user(people, database):
    names = []
    threads = [threading.Thread(target=lambda: names.append(admit(people))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == ["ana@sso"] * 8
    with database.read() as session:
        assert session.query(User).count() == 1


def test_a_deleted_user_is_a_new_one_at_the_next_login(people, auth, database):
    name = admit(people)
    cookie = auth.start_session(name).cookie
    auth.delete_user(name)
    assert auth.principal_of_session(cookie, csrf=None) is None
    with database.read() as session:
        assert session.query(OpenIdPerson).count() == 0
    assert admit(people) == name
    assert auth.principal_of_session(cookie, csrf=None) is None


def test_the_mapping_is_applied_to_all(people, auth):
    cookies = {
        admit(people, number, f"p{number}", values=values, role=role): None
        for number, values, role in (("1", ("ops",), "operator"), ("2", ("chiefs",), "admin"))
    }
    auth.set_user("local", "correct horse battery", "admin")
    for name in (*cookies, "local"):
        cookies[name] = auth.start_session(name).cookie

    def roles():
        found = {name: auth.principal_of_session(one, csrf=None) for name, one in cookies.items()}
        return {name: one and one.role for name, one in found.items()}

    assert people.apply(HERE, MAPPING, "") == 0
    assert roles() == {"p1@sso": "operator", "p2@sso": "admin", "local": "admin"}
    assert people.apply(HERE, {"ops": "viewer"}, "") == 1
    assert roles() == {"p1@sso": "viewer", "p2@sso": None, "local": "admin"}
    assert people.apply("", MAPPING, "viewer") == 1
    assert roles() == {"p1@sso": None, "p2@sso": None, "local": "admin"}
