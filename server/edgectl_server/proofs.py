"""Proofs that whoever uses a login is still its owner, for changes that outlast a stolen one.

Rules: a session or a token alone does not change users. Its owner gives the password again, or logs
in again at the provider of single sign-on, and gets a proof: a secret of its own that goes into the
header `HEADER` of a change, is good for this very session or token, and for `PROOF_S`. For a token,
that login was in a browser, and a code was carried over (`edgectl_server.openid.handover`). Only
its SHA-256 is kept. No cookie brings it along, so another site's page has none; a script that got
into ours has none either, until somebody types the password. A wrong password is counted as at a
login, and besides for the session or token, wherever it comes from.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import delete
from sqlalchemy.orm import Session

from edgectl_server.attempts import Attempts
from edgectl_server.audit import describe
from edgectl_server.auth import Auth, Principal
from edgectl_server.errors import Forbidden, Unauthorized
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import LoginProof, User

__all__ = ["HEADER", "PROOF_S", "ProofGiven", "Proofs", "end_proofs", "is_fresh"]

HEADER = "X-Edgectl-Proof"
PROOF_S = 300
WRONG_MAX = 5
"""Wrong passwords of one session or token, in a row and within `WRONG_S`."""
WRONG_S = 900.0
_NO_BOUND = 2**31
_SECRET_CHARACTERS_MAX = 128


class ProofGiven(NamedTuple):
    """A new proof; `text` is shown once."""

    text: str
    expires_at: datetime


class Proofs:
    """Gives proofs, and says which are good."""

    def __init__(self, database: Database, auth: Auth, now: Callable[[], datetime]) -> None:
        self._database = database
        self._auth = auth
        self._now = now
        self._wrong = Attempts(most=WRONG_MAX, most_of_address=_NO_BOUND, within_s=WRONG_S)

    def by_password(self, principal: Principal, password: str, address: str) -> ProofGiven:
        """Return a proof for the principal's login, whose owner has given the password.

        Args:
            principal: who asks.
            password: as sent.
            address: of the client.

        Raises:
            TooMany: ``auth.attempts``.
            Forbidden: ``auth.own_password``, or ``auth.sign_on``: this user has no password.
        """
        describe(object=principal.user)
        if not self._has_password(principal.user):
            raise Forbidden(
                "auth.sign_on",
                f"{principal.user} logs in by single sign-on and has no password here",
                hint="log in again from the settings page, at the provider",
            )
        self._wrong.count(principal.via, "")
        try:
            self._auth.check_password(principal.user, password, address)
        except Unauthorized as error:
            # Not 401: the login is good, and a page would take that for its end.
            raise Forbidden(
                "auth.own_password",
                f"this is not the password of {principal.user}",
                hint=f"give your own password; after {WRONG_MAX} wrong ones this login has to wait",
            ) from error
        self._wrong.forget(principal.via, "")
        return self._give(principal)

    def by_sign_on(self, principal: Principal) -> ProofGiven:
        """Return a proof for a session before which the provider has just asked who it is.

        Raises:
            Forbidden: ``auth.again``.
        """
        self.check_signed_on(principal)
        return self._give(principal)

    def by_browser(self, principal: Principal) -> ProofGiven:
        """Return a proof for a login whose owner has brought a code of such a session.

        Args:
            principal: of the login; the code was taken, and is of this user.
        """
        describe(object=principal.user, by="browser")
        return self._give(principal)

    def check_signed_on(self, principal: Principal) -> None:
        """Raise `Forbidden` ``auth.again`` unless the provider has just asked who this is."""
        describe(object=principal.user)
        if not is_fresh(principal.authenticated_at, self._now()):
            raise Forbidden(
                "auth.again",
                "this needs your password, or a login at the provider of single sign-on "
                f"within the last {PROOF_S // 60} minutes",
                hint="log in again from the settings page, at the provider",
            )

    def check(self, principal: Principal, text: str) -> None:
        """Raise `Forbidden` ``auth.proof`` unless `text` is a good proof of this login."""
        good = False
        if 0 < len(text) <= _SECRET_CHARACTERS_MAX:
            with self._database.read() as session:
                row = session.get(LoginProof, _sha256(text))
                good = (
                    row is not None
                    and (row.user, row.via) == (principal.user, principal.via)
                    and row.expires_at > self._now()
                )
        if not good:
            raise Forbidden(
                "auth.proof",
                "this change needs your own password again",
                hint=f"POST /api/v1/session/proof gives a proof for the header {HEADER}; "
                f"it is good for {PROOF_S // 60} minutes",
            )

    def _has_password(self, user: str) -> bool:
        with self._database.read() as session:
            row = session.get(User, user)
            return row is not None and bool(row.password_hash)

    def _give(self, principal: Principal) -> ProofGiven:
        text, at = secrets.token_urlsafe(32), self._now()
        ends = at + timedelta(seconds=PROOF_S)
        if principal.expires_at is not None:
            ends = min(ends, principal.expires_at)
        with self._database.write() as session:
            session.execute(delete(LoginProof).where(LoginProof.expires_at <= at))
            session.add(
                LoginProof(
                    secret_sha256=_sha256(text),
                    user=principal.user,
                    via=principal.via,
                    expires_at=ends,
                )
            )
        return ProofGiven(text, ends)


def is_fresh(authenticated_at: datetime | None, now: datetime) -> bool:
    """Say whether the provider has asked within `PROOF_S`; None: it was not made to."""
    return authenticated_at is not None and authenticated_at >= now - timedelta(seconds=PROOF_S)


def end_proofs(session: Session, user: str) -> None:
    """Make all proofs of `user` worthless."""
    session.execute(delete(LoginProof).where(LoginProof.user == user))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
