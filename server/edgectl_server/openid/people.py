"""Which user somebody from a provider is.

Rules: a person is the pair of issuer and subject (Core, 5.7), never a name or an e-mail address,
which change hands. Such a user's name ends with ``@sso``, which no local user's can: so neither
takes the other over, and the audit shows who came how. The user has no password. The role is set
anew at each login, and at each start of the server by the mapping as it is then; who has no role
any more loses sessions and tokens at once.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from edgectl_server.audit import note
from edgectl_server.openid.roles import role_of
from edgectl_server.schemas import Role
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import ApiToken, LoginSession, OpenIdPerson, User

__all__ = ["NO_PASSWORD", "SUFFIX", "People"]

SUFFIX = "@sso"
NO_PASSWORD = ""
"""In place of an argon2id hash: nothing verifies against it."""
_NAME_CHARACTERS_MAX = 40
_NOT_OF_NAMES = re.compile(r"[^a-z0-9._-]+")


class People:
    """The users who came from a provider."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        self._admitting = threading.Lock()  # two first logins of one person make one user

    def admit(
        self, issuer: str, subject: str, *, called: str, values: Sequence[str], role: Role
    ) -> str:
        """Return the name of the user, made at the first login; role and values are set anew.

        Args:
            issuer: as configured.
            subject: of a checked ID token.
            called: what the provider calls the person; only for the name of a new user.
            values: of the roles claim, those that the mapping names.
            role: that they give.
        """
        at = self._now()
        with self._admitting, self._database.write() as session:
            person = session.get(OpenIdPerson, (issuer, subject))
            if person is None:
                name = _free_name(session, called)
                user = User(name=name, password_hash=NO_PASSWORD, role=role, created_at=at)
                session.add(user)
                session.flush()
                made = {"issuer": issuer, "subject": subject, "role": role}
                note(session, "sign_on_user", name, made)
                session.add(
                    OpenIdPerson(
                        issuer=issuer,
                        subject=subject,
                        user=name,
                        claimed=list(values),
                        last_login_at=at,
                    )
                )
                return name
            _set_role(session, person.user, role)
            person.claimed, person.last_login_at = list(values), at
            return person.user

    def shut_out(self, issuer: str, subject: str) -> None:
        """End the sessions and tokens of a person whom no role is meant for any more."""
        with self._database.write() as session:
            person = session.get(OpenIdPerson, (issuer, subject))
            if person is not None:
                person.claimed = []
                _end_access(session, person.user)

    def apply(self, issuer: str, mapping: dict[str, Role], default: str) -> int:
        """Give everybody the role of the mapping as it is now; return how many lost all access.

        Args:
            issuer: the present provider, empty for none: people of another have no access.
            mapping: claim value → role.
            default: role of those whom it does not name; empty for none.
        """
        ended = 0
        with self._database.write() as session:
            for person in session.scalars(select(OpenIdPerson)):
                here = person.issuer == issuer
                role = role_of(person.claimed, mapping, default) if here else None
                if role is None:
                    ended += _end_access(session, person.user)
                else:
                    _set_role(session, person.user, role)
        return ended


def _end_access(session: Session, user: str) -> bool:
    """Delete sessions and tokens; say whether there were any."""
    # Without a password the user could only come back by the provider, which is asked again then.
    ended = [
        session.execute(delete(table).where(table.user == user)).rowcount  # type: ignore[attr-defined]
        for table in (LoginSession, ApiToken)
    ]
    session.get_one(User, user).role = "viewer"
    if any(ended):
        note(session, "sign_on_shut_out", user, {})
    return any(ended)


def _set_role(session: Session, name: str, role: Role) -> None:
    user = session.get_one(User, name)
    if user.role != role:
        note(session, "sign_on_role", name, {"role": role, "before": user.role})
        user.role = role


def _free_name(session: Session, called: str) -> str:
    stem = _NOT_OF_NAMES.sub("-", called.lower().partition("@")[0])[:_NAME_CHARACTERS_MAX]
    stem = stem.strip("-._") or "somebody"
    number = 1
    while True:
        # `~` is in no stem: nobody can choose to be called like the second of a name.
        name = f"{stem}{SUFFIX}" if number == 1 else f"{stem}~{number}{SUFFIX}"
        if session.get(User, name) is None:
            return name
        number += 1
