"""People, their sessions and their tokens.

Rules: passwords are kept as argon2id and nothing else; of tokens and session cookies only the
SHA-256 of the secret part is kept (they are 256 random bits, a slow hash would add nothing). A
token never does more than its owner may now, and a token made with it lives no longer than it does.
Wrong name, wrong password and deleted user look the same from outside, and take as long. Attempts
to log in are counted in memory, within bounds.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple, cast

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from edgectl_server.errors import Forbidden, NotFound, Refused, TooMany, Unauthorized
from edgectl_server.schemas import Role
from edgectl_server.storage.database import Database
from edgectl_server.storage.files import write_durably
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import ApiToken, LoginSession, User

__all__ = ["ROLES", "Auth", "Principal", "SessionStarted", "TokenIssued"]

ROLES: tuple[Role, ...] = ("viewer", "operator", "admin")
"""Ascending: each may do what those before it may."""

ATTEMPTS_PER_MINUTE = 10
"""Of one name from one address."""
ATTEMPTS_PER_MINUTE_PER_ADDRESS = 60
_ATTEMPT_KEYS_MAX = 4096
_MINUTE_S = 60.0
_USED_EVERY = timedelta(seconds=60)  # `last_used_at` is no finer than this
_PASSWORD_CHARACTERS_MAX = 1024
_TOKEN_S_MAX = 10 * 366 * 86400
_PASSWORD_CHARACTERS_MIN = 8
_TOKEN = re.compile(r"edgectl_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_USER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TOKEN_SORT = {
    "created_at": ApiToken.created_at,
    "last_used_at": ApiToken.last_used_at,
    "name": ApiToken.name,
    "user": ApiToken.user,
}


class Principal(NamedTuple):
    """Who is asking."""

    user: str
    role: Role
    csrf: str | None = None
    """Of a session; None with a token."""
    expires_at: datetime | None = None
    """Of a token that ends; None with a session, which a person has opened with the password."""


class SessionStarted(NamedTuple):
    """A new session; `cookie` is shown once."""

    cookie: str
    principal: Principal


class TokenIssued(NamedTuple):
    """A new token; `text` is shown once."""

    text: str
    row: ApiToken


class Auth:
    """Checks who is asking, and changes who may."""

    def __init__(
        self,
        database: Database,
        now: Callable[[], datetime],
        *,
        session_s: int = 12 * 3600,
        hasher: PasswordHasher | None = None,
    ) -> None:
        self._database = database
        self._now = now
        self._session = timedelta(seconds=session_s)
        self._hasher = hasher or PasswordHasher()
        self._hashing = threading.BoundedSemaphore(2)  # 64 MiB each
        self._nobody = self._hasher.hash(secrets.token_hex(16))
        self._attempts = _Attempts()

    # ------------------------------------------------------------ users

    def ensure_admin(self, password_file: Path) -> str | None:
        """Make the user ``admin`` when there is no user at all.

        The password is in `password_file` before the user exists, so that it cannot be lost.

        Returns:
            The generated password, or None when there was a user.
        """
        with self._database.read() as session:
            if session.scalar(select(User.name).limit(1)) is not None:
                return None
        password = secrets.token_urlsafe(18)
        write_durably(password_file, f"{password}\n".encode(), mode=0o600)
        self.set_user("admin", password, "admin")
        return password

    def set_user(self, name: str, password: str, role: Role) -> None:
        """Make a user, or change the password and role of one; ends that user's sessions.

        Raises:
            Refused: ``auth.user`` or ``auth.password``.
        """
        if not _USER.fullmatch(name):
            raise Refused(
                "auth.user", f"{name[:80]!r} is not a user name: expected {_USER.pattern}"
            )
        if not _PASSWORD_CHARACTERS_MIN <= len(password) <= _PASSWORD_CHARACTERS_MAX:
            raise Refused(
                "auth.password",
                f"a password has {_PASSWORD_CHARACTERS_MIN} characters or more, "
                f"at most {_PASSWORD_CHARACTERS_MAX}",
            )
        hashed = self._hasher.hash(password)
        with self._database.write() as session:
            user = session.get(User, name, with_for_update=True)
            if user is None:
                session.add(
                    User(name=name, password_hash=hashed, role=role, created_at=self._now())
                )
            else:
                user.password_hash, user.role = hashed, role
                session.execute(delete(LoginSession).where(LoginSession.user == name))

    def delete_user(self, name: str) -> None:
        """Delete a user with all sessions and tokens; raise `NotFound` ``auth.user``."""
        with self._database.write() as session:
            user = session.get(User, name)
            if user is None:
                raise NotFound("auth.user", f"there is no user {name!r}")
            session.delete(user)

    def check_password(self, name: str, password: str, address: str) -> Principal:
        """Return the principal of a name and password.

        Args:
            name: as sent.
            password: as sent.
            address: of the client, for counting attempts.

        Raises:
            TooMany: ``auth.attempts``.
            Unauthorized: ``auth.login``.
        """
        source = _source(address)
        self._attempts.count(name[:64], source)
        with self._database.read() as session:
            user = session.get(User, name) if _USER.fullmatch(name) else None
        right = False
        if len(password) <= _PASSWORD_CHARACTERS_MAX:
            with self._hashing:
                right = self._verify(user.password_hash if user else self._nobody, password)
        if user is None or not right:
            raise Unauthorized(
                "auth.login",
                "wrong user name or password",
                hint="the first password of admin is in the file admin-password of the data folder",
            )
        self._attempts.forget(name, source)
        return Principal(user.name, cast("Role", user.role))

    def _verify(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (VerificationError, InvalidHashError, UnicodeEncodeError):
            return False

    # ------------------------------------------------------------ sessions

    def start_session(self, user: str) -> SessionStarted:
        """Begin a browser's session for `user`, whose password has been checked."""
        cookie, csrf, at = secrets.token_urlsafe(32), secrets.token_urlsafe(24), self._now()
        with self._database.write() as session:
            session.execute(delete(LoginSession).where(LoginSession.expires_at <= at))
            role = _role(session, user)
            session.add(
                LoginSession(
                    secret_sha256=_sha256(cookie),
                    user=user,
                    csrf=csrf,
                    created_at=at,
                    expires_at=at + self._session,
                )
            )
        return SessionStarted(cookie, Principal(user, role, csrf))

    def end_session(self, cookie: str) -> None:
        """End a session; does nothing when there is none."""
        with self._database.write() as session:
            session.execute(
                delete(LoginSession).where(LoginSession.secret_sha256 == _sha256(cookie))
            )

    def principal_of_session(self, cookie: str, *, csrf: str | None) -> Principal | None:
        """Return whose session it is, or None.

        Args:
            cookie: as sent.
            csrf: the header as sent, empty when missing; None when the request changes nothing.

        Raises:
            Forbidden: ``auth.csrf``.
        """
        with self._database.read() as session:
            found = session.execute(
                select(LoginSession, User.role)
                .join(User, User.name == LoginSession.user)
                .where(LoginSession.secret_sha256 == _sha256(cookie))
            ).one_or_none()
        if found is None or found[0].expires_at <= self._now():
            return None
        row, role = found
        if csrf is not None and not hmac.compare_digest(csrf.encode(), row.csrf.encode()):
            raise Forbidden(
                "auth.csrf",
                "a change with the session cookie needs the header X-CSRF-Token",
                hint="send the value of `csrf` that GET /api/v1/me gives, or use a token",
            )
        return Principal(row.user, cast("Role", role), row.csrf)

    # ------------------------------------------------------------ tokens

    def create_token(
        self, principal: Principal, name: str, role: Role, expires_in_s: int | None
    ) -> TokenIssued:
        """Make a token for the principal's own user, with at most the principal's role.

        A token that is made with a token ends with that one, or before.

        Raises:
            Forbidden: ``auth.role``.
            Refused: ``auth.expiry``.
        """
        if ROLES.index(role) > ROLES.index(principal.role):
            raise Forbidden(
                "auth.role", f"{principal.user} has the role {principal.role}, not {role}"
            )
        if expires_in_s is not None and expires_in_s > _TOKEN_S_MAX:
            raise Refused(
                "auth.expiry",
                f"a token lives {_TOKEN_S_MAX} seconds at most",
                hint="leave expires_in_s out for a token that lives until it is deleted",
            )
        identity, secret, at = secrets.token_hex(8), secrets.token_urlsafe(32), self._now()
        ends = None if expires_in_s is None else at + timedelta(seconds=expires_in_s)
        if principal.expires_at is not None:
            ends = min(ends or principal.expires_at, principal.expires_at)
        row = ApiToken(
            id=identity,
            user=principal.user,
            name=name,
            role=role,
            secret_sha256=_sha256(secret),
            created_at=at,
            expires_at=ends,
            last_used_at=None,
        )
        with self._database.write() as session:
            session.add(row)
        return TokenIssued(f"edgectl_{identity}_{secret}", row)

    def principal_of_token(self, text: str) -> Principal | None:
        """Return whose token it is, or None."""
        match = _TOKEN.fullmatch(text)
        if match is None:
            return None
        with self._database.read() as session:
            found = session.execute(
                select(ApiToken, User.role)
                .join(User, User.name == ApiToken.user)
                .where(ApiToken.id == match[1])
            ).one_or_none()
        if found is None or not hmac.compare_digest(found[0].secret_sha256, _sha256(match[2])):
            return None
        row, role = found
        at = self._now()
        if row.expires_at is not None and row.expires_at <= at:
            return None
        if row.last_used_at is None or at - row.last_used_at >= _USED_EVERY:
            self._note_use(row.id, at)
        least = ROLES[min(ROLES.index(row.role), ROLES.index(role))]
        return Principal(row.user, least, expires_at=row.expires_at)

    def _note_use(self, identity: str, at: datetime) -> None:
        with self._database.write() as session:
            row = session.get(ApiToken, identity)
            if row is not None:
                row.last_used_at = at

    def tokens(self, principal: Principal, paging: PageQuery) -> tuple[Sequence[ApiToken], int]:
        """Return a page of the principal's tokens (an admin's: of all) and the number of all."""
        wanted = select(ApiToken).order_by(
            *order(paging.sort, _TOKEN_SORT, default="-created_at", last=ApiToken.id)
        )
        if principal.role != "admin":
            wanted = wanted.where(ApiToken.user == principal.user)
        if paging.q:
            wanted = wanted.where(match(paging.q, (ApiToken.name, ApiToken.user)))
        with self._database.read() as session:
            return fetch_page(session, wanted, paging)

    def delete_token(self, principal: Principal, identity: str) -> None:
        """Delete a token; raise `NotFound` ``auth.token`` also for somebody else's."""
        with self._database.write() as session:
            row = session.get(ApiToken, identity)
            if row is None or (row.user != principal.user and principal.role != "admin"):
                raise NotFound("auth.token", f"there is no token {identity[:32]!r}")
            session.delete(row)


class _Attempts:
    """Counts attempts by (name, address) and by address over the last minute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def count(self, name: str, address: str) -> None:
        """Count one attempt; raise `TooMany` when there were too many."""
        with self._lock:
            self._count(("", address), ATTEMPTS_PER_MINUTE_PER_ADDRESS)
            self._count((name, address), ATTEMPTS_PER_MINUTE)

    def forget(self, name: str, address: str) -> None:
        """A right password ends the count for its name."""
        with self._lock:
            self._times.pop((name, address), None)

    def _count(self, key: tuple[str, str], most: int) -> None:
        at = time.monotonic()
        times = self._times.setdefault(key, deque())
        self._times.move_to_end(key)
        while times and times[0] <= at - _MINUTE_S:
            times.popleft()
        if len(times) >= most:
            wait_s = int(times[0] + _MINUTE_S - at) + 1
            raise TooMany(
                "auth.attempts",
                "too many attempts to log in",
                hint=f"wait {wait_s} seconds",
                data={"retry_after_s": wait_s},
            )
        times.append(at)
        while len(self._times) > _ATTEMPT_KEYS_MAX:
            self._times.popitem(last=False)


def _source(address: str) -> str:
    """Return whose attempts are counted together: an IPv6 client has a whole /64 to itself."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:  # noqa: PLR2004 - the version of IP
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def _role(session: Session, user: str) -> Role:
    row = session.get(User, user)
    if row is None:
        raise Unauthorized("auth.login", "wrong user name or password")
    return cast("Role", row.role)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
