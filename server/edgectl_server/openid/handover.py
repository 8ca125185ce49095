"""Give the login of a browser to a command line, by a code that a person carries over.

``edgectl login --sso`` draws a verifier and prints the address of a page with its SHA-256. Whoever
is logged in there, and wants it, presses a button and gets a code; the command line sends code and
verifier and gets an API token of that user. Rules: the code alone is worth nothing (whoever reads
it over a shoulder lacks the verifier), the address alone neither (the button needs the session and
its CSRF token, never a token); it is used once, within `CODE_S`, while that session lasts, and the
role is the user's at the moment of exchange.

It works over SSH, where the browser is on another machine, and with any way of logging in. What it
cannot prevent is that somebody is talked into sending a stranger the code that the stranger's
address has shown: the page says so in plain words.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple, cast

from sqlalchemy import select

from edgectl_server.auth import Principal
from edgectl_server.errors import Forbidden, Unauthorized
from edgectl_server.openid.pending import Pending
from edgectl_server.openid.sign_on import s256
from edgectl_server.schemas import Role
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import LoginSession, User

__all__ = ["CODE_S", "Handover"]

CODE_S = 300


class _Offer(NamedTuple):
    challenge: str
    user: str
    csrf: str


class Handover:
    """Codes that were shown and not yet used."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        self._offers: Pending[_Offer] = Pending(now, lasts_s=CODE_S, entries_per_source_max=8)

    def offer(self, principal: Principal, challenge: str) -> str:
        """Return a code for the command line that knows what `challenge` was made of.

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
        self._offers.put(code, principal.user, _Offer(challenge, principal.user, principal.csrf))
        return code

    def take(self, code: str, verifier: str) -> Principal:
        """Return whose login was given.

        Raises:
            Unauthorized: ``auth.code``.
        """
        offer = self._offers.take(code)
        role = None
        if offer is not None and hmac.compare_digest(offer.challenge, s256(verifier)):
            role = self._role(offer)
        if offer is None or role is None:
            raise Unauthorized(
                "auth.code",
                "this code is not one of this command line, or it was used, or is too old",
                hint="begin again with `edgectl login --sso`",
            )
        return Principal(offer.user, role)

    def _role(self, offer: _Offer) -> Role | None:
        """Return the role of the session's user, None when the session has ended."""
        with self._database.read() as session:
            found = session.scalar(
                select(User.role)
                .join(LoginSession, LoginSession.user == User.name)
                .where(User.name == offer.user, LoginSession.csrf == offer.csrf)
                .where(LoginSession.expires_at > self._now())
            )
        return cast("Role | None", found)
