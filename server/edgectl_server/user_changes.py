"""Changes of who may log in, by an admin.

Rules: whoever asks has proved to be there (`edgectl_server.proofs`); the routes see to that. One
admin who may log in remains, whatever is changed, also by two at once: the rows of all admins are
locked in one order. What an admin does to the own user has to be meant. Passwords are made here and
shown once; who logs in by single sign-on has none, and gets the role from its provider.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from edgectl_server.audit import describe
from edgectl_server.auth import Auth, Principal, check_user_name
from edgectl_server.errors import Conflict, Forbidden, NotFound, Refused
from edgectl_server.proofs import end_proofs
from edgectl_server.schemas import Role, UserInfo
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import ApiToken, LoginSession, User
from edgectl_server.user_list import user_info

__all__ = ["UserMade", "Users"]

USERS_MAX = 10_000
_PASSWORD_BYTES = 18


class UserMade(NamedTuple):
    """A user with a new password, which is shown once."""

    info: UserInfo
    password: str


class Users:
    """Makes, changes and removes users."""

    def __init__(self, database: Database, auth: Auth, now: Callable[[], datetime]) -> None:
        self._database = database
        self._auth = auth
        self._now = now

    def create(self, name: str, role: Role) -> UserMade:
        """Make a user.

        Raises:
            Refused: ``auth.user``: no name for a user.
            Conflict: ``auth.exists``, or ``auth.users``: too many.
        """
        check_user_name(name)
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        hashed = self._auth.hash_password(password)
        describe(object=name)
        with self._database.write() as session:
            if (session.scalar(select(func.count()).select_from(User)) or 0) >= USERS_MAX:
                raise Conflict(
                    "auth.users", f"there are {USERS_MAX} users", hint="delete some first"
                )
            if session.get(User, name) is not None:
                raise Conflict(
                    "auth.exists",
                    f"there is a user {name} already",
                    hint="change that one, or take another name",
                )
            user = User(name=name, password_hash=hashed, role=role, created_at=self._now())
            session.add(user)
            session.flush()
            return UserMade(user_info(session, user, self._now()), password)

    def change(
        self,
        principal: Principal,
        name: str,
        *,
        role: Role | None,
        disabled: bool | None,
        myself: bool,
    ) -> UserInfo:
        """Give another role, or say whether somebody may log in; None: as it is.

        Who is disabled loses all sessions; the tokens open nothing until the user may log in again.

        Raises:
            NotFound: ``auth.user``.
            Forbidden: ``auth.myself``.
            Conflict: ``auth.last_admin``.
            Refused: ``auth.sign_on``: the role comes from the provider.
        """
        with self._database.write() as session:
            user = _locked(session, principal, name, myself=myself)
            describe(before={"role": user.role, "disabled": user.disabled_at is not None})
            if role is not None and role != user.role:
                if not user.password_hash:
                    raise Refused(
                        "auth.sign_on",
                        f"{name} logs in by single sign-on: the role comes from the provider",
                        hint="change the groups there, or `oidc_roles` of the server",
                    )
                if user.role == "admin":
                    _keep_an_admin(session, name)
                user.role = role
            if disabled is True and user.disabled_at is None:
                _keep_an_admin(session, name)
                user.disabled_at = self._now()
                _end_sessions(session, name)
            elif disabled is False:
                user.disabled_at = None
            end_proofs(session, name)
            session.flush()
            return user_info(session, user, self._now())

    def reset_password(self, principal: Principal, name: str, *, myself: bool) -> UserMade:
        """Make a new password for somebody and end all sessions; the old one opens nothing.

        Raises:
            NotFound: ``auth.user``.
            Forbidden: ``auth.myself``.
            Refused: ``auth.sign_on``.
        """
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        hashed = self._auth.hash_password(password)
        with self._database.write() as session:
            user = _locked(session, principal, name, myself=myself)
            _check_has_password(user)
            user.password_hash = hashed
            _end_sessions(session, name)
            session.flush()
            return UserMade(user_info(session, user, self._now()), password)

    def change_own_password(self, principal: Principal, password: str) -> None:
        """Take another password for the asking user; all sessions but the asking one end.

        Raises:
            Refused: ``auth.password`` or ``auth.sign_on``.
        """
        hashed = self._auth.hash_password(password)
        with self._database.write() as session:
            user = session.get_one(User, principal.user, with_for_update=True)
            _check_has_password(user)
            user.password_hash = hashed
            _end_sessions(session, principal.user, but=principal.csrf)

    def log_out(self, principal: Principal, name: str, *, tokens: bool, myself: bool) -> UserInfo:
        """End all sessions of somebody, and with `tokens` make all their tokens worthless.

        Raises:
            NotFound: ``auth.user``.
            Forbidden: ``auth.myself``.
        """
        with self._database.write() as session:
            user = _locked(session, principal, name, myself=myself)
            _end_sessions(session, name)
            if tokens:
                session.execute(delete(ApiToken).where(ApiToken.user == name))
            session.flush()
            return user_info(session, user, self._now())

    def delete(self, principal: Principal, name: str, *, myself: bool) -> None:
        """Remove somebody with all sessions and tokens; what they did stays in the audit log.

        Raises:
            NotFound: ``auth.user``.
            Forbidden: ``auth.myself``.
            Conflict: ``auth.last_admin``.
        """
        with self._database.write() as session:
            user = _locked(session, principal, name, myself=myself)
            _keep_an_admin(session, name)
            describe(role=user.role)
            session.delete(user)


def _locked(session: Session, principal: Principal, name: str, *, myself: bool) -> User:
    """Return the row of `name`, locked, and after those of all admins."""
    _admins(session)
    user = session.get(User, name, with_for_update=True)
    if user is None:
        raise NotFound("auth.user", f"there is no user {name[:80]!r}", hint="`edgectl users list`")
    if name == principal.user and not myself:
        raise Forbidden(
            "auth.myself",
            "this is your own user, and you may shut yourself out",
            hint="say `myself` if you mean it (`--myself` on the command line)",
        )
    return user


def _admins(session: Session) -> set[str]:
    """Return the admins who may log in, and let nobody change them until this ends."""
    wanted = select(User.name).where(User.role == "admin", User.disabled_at.is_(None))
    return set(session.scalars(wanted.order_by(User.name).with_for_update()))


def _keep_an_admin(session: Session, name: str) -> None:
    if _admins(session) == {name}:
        raise Conflict(
            "auth.last_admin",
            f"{name} is the last admin who may log in",
            hint="make somebody else an admin first",
        )


def _check_has_password(user: User) -> None:
    if not user.password_hash:
        raise Refused(
            "auth.sign_on",
            f"{user.name} logs in by single sign-on and has no password here",
            hint="passwords of single sign-on are changed at its provider",
        )


def _end_sessions(session: Session, name: str, but: str | None = None) -> None:
    ended = delete(LoginSession).where(LoginSession.user == name)
    session.execute(ended if but is None else ended.where(LoginSession.csrf != but))
    end_proofs(session, name)
