"""Give the login of a browser to a command line, by a code that a person carries over.

``edgectl login --sso`` draws a verifier and prints the address of a page with its SHA-256. Whoever
is logged in there, and wants it, presses a button and gets a code; the command line sends code and
verifier and gets an API token of that user. Rules: the code alone is worth nothing (whoever reads
it over a shoulder lacks the verifier), the address alone neither (the button needs the session and
its CSRF token, never a token); it is used once, within `CODE_S`, while that session lasts, and the
role is the user's at the moment of exchange.

A code is for one purpose, which the page names. One for a *proof* makes no token: it shows, for
the token that its command line has already, that the token's owner has just logged in again at the
provider (`edgectl_server.proofs`). It is of the token's user or of no use, and ends with the
minutes that the session's own proof would have.

It works over SSH, where the browser is on another machine, and with any way of logging in. What it
cannot prevent is that somebody is talked into sending a stranger the code that the stranger's
address has shown: the page says so in plain words.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Literal, NamedTuple, cast

from sqlalchemy import select

from edgectl_server.auth import Principal
from edgectl_server.errors import Forbidden, Unauthorized
from edgectl_server.openid.pending import Pending
from edgectl_server.openid.sign_on import s256
from edgectl_server.proofs import is_fresh
from edgectl_server.schemas import Role
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import LoginSession, User

__all__ = ["CODE_S", "Handover"]

CODE_S = 300
Purpose = Literal["login", "proof"]


class _Offer(NamedTuple):
    challenge: str
    user: str
    csrf: str
    purpose: Purpose


class _Behind(NamedTuple):
    """The session behind a code, as it is now."""

    user: str
    role: Role
    authenticated_at: datetime | None


class Handover:
    """Codes that were shown and not yet used."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        self._offers: Pending[_Offer] = Pending(now, lasts_s=CODE_S, entries_per_source_max=8)

    def offer(self, principal: Principal, challenge: str, purpose: Purpose = "login") -> str:
        """Return a code for the command line that knows what `challenge` was made of.

        Args:
            principal: of the browser; for a proof it has been looked at already.
            challenge: of the command line.
            purpose: what the code is good for.

        Raises:
            Forbidden: ``auth.session``: asked with a token, which could make itself live longer.
        """
        if principal.csrf is None:
            raise Forbidden(
                "auth.session",
                "only a person who is logged in with a browser gives a login to a command line",
                hint="open the address that `edgectl login --sso` prints",
            )
        code = secrets.token_urlsafe(24)
        offer = _Offer(challenge, principal.user, principal.csrf, purpose)
        self._offers.put(code, principal.user, offer)
        return code

    def take(self, code: str, verifier: str) -> Principal:
        """Return whose login was given.

        Raises:
            Unauthorized: ``auth.code``.
        """
        behind = self._behind(self._offers.take(code), verifier, "login")
        if behind is None:
            raise Unauthorized(
                "auth.code",
                "this code is not one of this command line, or it was used, or is too old",
                hint="begin again with `edgectl login --sso`",
            )
        return Principal(behind.user, behind.role)

    def take_proof(self, principal: Principal, code: str, verifier: str) -> None:
        """Return if `code` shows that the owner of the principal's login is there.

        Raises:
            Forbidden: ``auth.code``.
        """
        behind = self._behind(self._offers.take(code), verifier, "proof")
        if (
            behind is None
            or behind.user != principal.user
            or not is_fresh(behind.authenticated_at, self._now())
        ):
            raise Forbidden(  # not 401: the login is good
                "auth.code",
                f"this code is not one of this command line and {principal.user}, or it was used, "
                "or is too old",
                hint="begin again with the same command",
            )

    def _behind(self, offer: _Offer | None, verifier: str, purpose: Purpose) -> _Behind | None:
        """Return whose session gave the offer, None where it is none or has ended."""
        if offer is None or offer.purpose != purpose:
            return None
        if not hmac.compare_digest(offer.challenge, s256(verifier)):
            return None
        with self._database.read() as session:
            row = session.execute(
                select(User.role, LoginSession.authenticated_at)
                .join(LoginSession, LoginSession.user == User.name)
                .where(User.name == offer.user, LoginSession.csrf == offer.csrf)
                .where(LoginSession.expires_at > self._now())
            ).one_or_none()
        if row is None:
            return None
        return _Behind(offer.user, cast("Role", row.role), row.authenticated_at)
