"""People, their sessions and their tokens.

Rules: passwords are kept as argon2id and nothing else; of tokens and session cookies only the
SHA-256 of the secret part is kept (they are 256 random bits, a slow hash would add nothing). A
token never does more than its owner may now, and no more than its scopes name. A token made with
it has no scope that it has not, lives no longer than it does, and is deleted with it: a chain of
them is short, as SQLite deletes no more than 1000 levels at once. Wrong name,
wrong password and deleted user look the same from outside, and take as long.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple, cast

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import ARGON2_VERSION
from sqlalchemy import delete, not_, or_, select
from sqlalchemy.orm import Session

from edgectl_server.attempts import Attempts, source_of
from edgectl_server.audit import describe
from edgectl_server.errors import Forbidden, NotFound, Refused, Unauthorized
from edgectl_server.schemas import Role, Scope
from edgectl_server.storage.database import Database
from edgectl_server.storage.files import write_durably
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import ApiToken, LoginSession, User

__all__ = [
    "ROLES",
    "SCOPES",
    "Auth",
    "Principal",
    "SessionStarted",
    "TokenIssued",
    "check_user_name",
]

ROLES: tuple[Role, ...] = ("viewer", "operator", "admin")
"""Ascending: each may do what those before it may."""

_VIEWER_SCOPES: tuple[Scope, ...] = ("read", "metrics", "tokens")
_OPERATOR_SCOPES: tuple[Scope, ...] = (
    *_VIEWER_SCOPES,
    "models:write",
    "rollouts:write",
    "devices:write",
    "trust:write",
)
SCOPES: dict[Role, tuple[Scope, ...]] = {
    "viewer": _VIEWER_SCOPES,
    "operator": _OPERATOR_SCOPES,
    "admin": (*_OPERATOR_SCOPES, "admin"),
}
"""What each role may, in scopes."""
_USED_EVERY = timedelta(seconds=60)  # `last_used_at` is no finer than this
_PASSWORD_CHARACTERS_MAX = 1024
_TOKEN_S_MAX = 10 * 366 * 86400
CHAIN_MAX = 100
"""Tokens each of which was made with the one before."""
_KEEP_EXPIRED = timedelta(days=30)
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
    token: str | None = None
    """Id of the token; None with a session."""
    scopes: frozenset[Scope] | None = None
    """Of a token; None with a session: whatever the role may."""
    via: str = ""
    """How the audit log names the session or the token."""
    authenticated_at: datetime | None = None
    """Of a session by single sign-on for which the provider was made to ask who it is."""


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
        self._nobody = _of_nobody(self._hasher)
        self._attempts = Attempts()

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

        For the machine of the server itself: it is not asked whether an admin remains, and who was
        disabled may log in again.

        Raises:
            Refused: ``auth.user`` or ``auth.password``.
        """
        check_user_name(name)
        hashed = self.hash_password(password)
        with self._database.write() as session:
            user = session.get(User, name, with_for_update=True)
            if user is None:
                session.add(
                    User(name=name, password_hash=hashed, role=role, created_at=self._now())
                )
            else:
                user.password_hash, user.role, user.disabled_at = hashed, role, None
                session.execute(delete(LoginSession).where(LoginSession.user == name))

    def delete_user(self, name: str) -> None:
        """Delete a user with all sessions and tokens; raise `NotFound` ``auth.user``."""
        with self._database.write() as session:
            user = session.get(User, name)
            if user is None:
                raise NotFound("auth.user", f"there is no user {name!r}")
            session.delete(user)

    def hash_password(self, password: str) -> str:
        """Return what is kept of a password; raise `Refused` ``auth.password``."""
        if not _PASSWORD_CHARACTERS_MIN <= len(password) <= _PASSWORD_CHARACTERS_MAX:
            raise Refused(
                "auth.password",
                f"a password has {_PASSWORD_CHARACTERS_MIN} characters or more, "
                f"at most {_PASSWORD_CHARACTERS_MAX}",
                hint="take a longer one",
            )
        with self._hashing:
            return self._hasher.hash(password)

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
        source = source_of(address)
        self._attempts.count(name[:64], source)
        with self._database.read() as session:
            user = session.get(User, name) if _USER.fullmatch(name) else None
        right = False
        if len(password) <= _PASSWORD_CHARACTERS_MAX:
            with self._hashing:
                right = self._verify(user.password_hash if user else self._nobody, password)
        if user is None or not right or user.disabled_at is not None:
            # Only a name that exists: what people type into the wrong field is their password.
            describe(object=user.name if user else "")
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

    def start_session(
        self, user: str, *, authenticated_at: datetime | None = None
    ) -> SessionStarted:
        """Begin a browser's session for `user`, whose login has been checked.

        Args:
            user: who.
            authenticated_at: when the provider of single sign-on has asked who it is, if it was
                made to; None otherwise.
        """
        cookie, csrf, at = secrets.token_urlsafe(32), secrets.token_urlsafe(24), self._now()
        via = _via_session(_sha256(cookie))
        describe(actor=user, via=via, changes=True)
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
                    authenticated_at=authenticated_at,
                )
            )
        return SessionStarted(cookie, Principal(user, role, csrf, via=via))

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
                .where(LoginSession.secret_sha256 == _sha256(cookie), User.disabled_at.is_(None))
            ).one_or_none()
        if found is None or found[0].expires_at <= self._now():
            return None
        row, role = found
        via = _via_session(row.secret_sha256)
        if csrf is not None and not hmac.compare_digest(csrf.encode(), row.csrf.encode()):
            describe(actor=row.user, via=via)
            raise Forbidden(
                "auth.csrf",
                "a change with the session cookie needs the header X-CSRF-Token",
                hint="send the value of `csrf` that GET /api/v1/me gives, or use a token",
            )
        return Principal(
            row.user,
            cast("Role", role),
            row.csrf,
            via=via,
            authenticated_at=row.authenticated_at,
        )

    # ------------------------------------------------------------ tokens

    def create_token(
        self,
        principal: Principal,
        name: str,
        role: Role | None,
        expires_in_s: int | None,
        scopes: Collection[Scope] | None = None,
    ) -> TokenIssued:
        """Make a token for the principal's own user.

        A token that is made with a token ends with that one, or before.

        Args:
            principal: who makes it.
            name: for people.
            role: at most the principal's; None: the least that `scopes` need.
            expires_in_s: None: when it is deleted.
            scopes: at most the principal's; None: all that the role may and the principal has.

        Raises:
            Forbidden: ``auth.role`` or ``auth.scope``: more than the principal may; ``auth.chain``:
                its token was made with one that was made with one, and so on.
            Refused: ``auth.expiry``, or ``auth.scope``: the role may not do that.
        """
        role = role or _least_role(scopes or ())
        if ROLES.index(role) > ROLES.index(principal.role):
            raise Forbidden(
                "auth.role", f"{principal.user} has the role {principal.role}, not {role}"
            )
        granted = _granted(role, scopes, principal.scopes)
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
            scopes=granted,
            made_by=principal.token,
            secret_sha256=_sha256(secret),
            created_at=at,
            expires_at=ends,
            last_used_at=None,
        )
        describe(
            actor=principal.user,
            via=principal.via or "login",
            object=identity,
            changes=True,
            name=name,
            role=role,
            scopes=granted,
            expires_at=ends,
        )
        with self._database.write() as session:
            _check_chain(session, principal.token)
            _forget_expired(session, at)
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
                .where(ApiToken.id == match[1], User.disabled_at.is_(None))
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
        return Principal(
            row.user,
            least,
            expires_at=row.expires_at,
            token=row.id,
            scopes=frozenset(row.scopes),
            via=f"token/{row.id}",
        )

    def _note_use(self, identity: str, at: datetime) -> None:
        with self._database.write() as session:
            row = session.get(ApiToken, identity)
            if row is not None:
                row.last_used_at = at

    def tokens(
        self,
        principal: Principal,
        paging: PageQuery,
        *,
        user: str | None = None,
        valid: bool | None = None,
    ) -> tuple[Sequence[ApiToken], int]:
        """Return a page of the principal's tokens (an admin's: of all) and the number of all.

        Args:
            principal: who asks.
            paging: `q` is part of a name, or of a user's.
            user: only of this one.
            valid: not expired, or expired.
        """
        wanted = select(ApiToken).order_by(
            *order(paging.sort, _TOKEN_SORT, default="-created_at", last=ApiToken.id)
        )
        if principal.role != "admin":
            wanted = wanted.where(ApiToken.user == principal.user)
        if user is not None:
            wanted = wanted.where(ApiToken.user == user)
        if valid is not None:
            good = or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > self._now())
            wanted = wanted.where(good if valid else not_(good))
        if paging.q:
            wanted = wanted.where(match(paging.q, (ApiToken.name, ApiToken.user)))
        with self._database.read() as session:
            return fetch_page(session, wanted, paging)

    def delete_token(self, principal: Principal, identity: str) -> None:
        """Delete a token.

        Raises:
            NotFound: ``auth.token``, also for somebody else's.
            Forbidden: ``auth.scope``: with a token that may less than the one to be deleted.
        """
        with self._database.write() as session:
            row = session.get(ApiToken, identity)
            if row is None or (row.user != principal.user and principal.role != "admin"):
                raise NotFound("auth.token", f"there is no token {identity[:32]!r}")
            stronger = principal.scopes is not None and not set(row.scopes) <= principal.scopes
            if stronger and row.id != principal.token:
                raise Forbidden(
                    "auth.scope",
                    "this token may not revoke one that may more",
                    hint="log in, and revoke it as yourself",
                )
            describe(user=row.user, name=row.name)
            session.delete(row)  # and with it what was made with it


def check_user_name(name: str) -> None:
    """Raise `Refused` ``auth.user`` for what is no name of a user with a password."""
    if not _USER.fullmatch(name):
        raise Refused(
            "auth.user",
            f"{name[:80]!r} is not a user name: expected {_USER.pattern}",
            hint="small letters and digits, such as ana or ana.silva",
        )


def _of_nobody(hasher: PasswordHasher) -> str:
    """Return what has the form of a hash by `hasher`, and is random: that of no password.

    Verifying against it takes as long as against any other; making it takes no time at each start.
    """

    def part(length: int) -> str:
        return base64.b64encode(secrets.token_bytes(length)).decode().rstrip("=")

    costs = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v={ARGON2_VERSION}${costs}${part(hasher.salt_len)}${part(hasher.hash_len)}"


def _role(session: Session, user: str) -> Role:
    row = session.get(User, user)
    if row is None:
        raise Unauthorized("auth.login", "wrong user name or password")
    if row.disabled_at is not None:
        raise Forbidden(
            "auth.disabled", f"{user} is disabled", hint="ask somebody with the role admin"
        )
    return cast("Role", row.role)


def _least_role(scopes: Collection[Scope]) -> Role:
    return next(role for role in ROLES if set(scopes) <= set(SCOPES[role]))


def _granted(
    role: Role, scopes: Collection[Scope] | None, owned: frozenset[Scope] | None
) -> list[Scope]:
    may = SCOPES[role]
    if scopes is None:
        return [scope for scope in may if owned is None or scope in owned]
    wanted = {*scopes, *(("read",) if set(scopes) - {"tokens", "metrics"} else ())}
    beyond = sorted(wanted - set(may))
    if beyond:
        raise Refused(
            "auth.scope",
            f"the role {role} may not {', '.join(beyond)}; it may: {', '.join(may)}",
            hint="give the token a higher role, or fewer scopes",
        )
    if owned is not None and not wanted <= owned:
        raise Forbidden(
            "auth.scope",
            f"this token may not {', '.join(sorted(wanted - owned))}, nor may what it makes",
            hint="log in, and make the token as yourself",
        )
    return [scope for scope in may if scope in wanted]


def _check_chain(session: Session, token: str | None) -> None:
    """Refuse a token that would be the end of a long chain; raise `Forbidden` ``auth.chain``."""
    for _ in range(CHAIN_MAX):
        row = None if token is None else session.get(ApiToken, token)
        if row is None:
            return
        token = row.made_by
    raise Forbidden(
        "auth.chain",
        f"this token is the last of {CHAIN_MAX}, each made with the one before",
        hint="log in, and make the token as yourself",
    )


def _forget_expired(session: Session, now: datetime) -> None:
    """Delete tokens that have expired long ago; those first with which none was made."""
    makers = select(ApiToken.made_by).where(ApiToken.made_by.is_not(None))
    session.execute(
        delete(ApiToken)
        .where(ApiToken.expires_at < now - _KEEP_EXPIRED, ApiToken.id.not_in(makers))
        .execution_options(synchronize_session=False)
    )


def _via_session(secret_sha256: str) -> str:
    return f"session/{secret_sha256[:16]}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
