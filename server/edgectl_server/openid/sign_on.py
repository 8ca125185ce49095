"""The login itself: authorization code with PKCE (S256), state and nonce.

Rules: state, nonce, verifier and the page to return to stay here and are used once, within
`LOGIN_S`; the browser gets the state and a cookie that binds it to this very browser. The answer
is believed in this order: state and cookie, issuer (RFC 9207), error, code, ID token, user info of
the same subject, role. Of what the provider sends, nothing but the claim values that the mapping
names is kept.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from edgectl_server.audit import describe
from edgectl_server.errors import Forbidden, Refused, Unauthorized, Unavailable
from edgectl_server.openid.id_tokens import UnknownKey, authenticated_at, check_id_token
from edgectl_server.openid.pending import Pending
from edgectl_server.openid.people import People
from edgectl_server.openid.provider import Provider, is_safe_address
from edgectl_server.openid.roles import claim_values, parse_roles, role_of
from edgectl_server.settings import Settings
from edgectl_server.storage.database import Database

__all__ = ["Begun", "Finished", "SignOn", "open_sign_on", "s256"]

logger = logging.getLogger(__name__)

LOGIN_S = 600
_PARAMETER_CHARACTERS_MAX = 4096
_ERROR = re.compile(r"[a-z_]{1,64}")  # RFC 6749, 4.1.2.1: only known words are shown
_SECRET_BYTES_MAX = 4096
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Begun(NamedTuple):
    """A login on its way: where the browser goes, and the cookie that it must bring back."""

    address: str
    cookie: str


class Finished(NamedTuple):
    """A login that was believed."""

    user: str
    return_to: str
    authenticated_at: datetime | None
    """When the provider has asked who it is; None where it was not made to."""


class _Attempt(NamedTuple):
    cookie: str
    nonce: str
    verifier: str
    redirect_uri: str
    return_to: str
    again_since: datetime | None
    """The person is to be asked now, even where the provider knows them already."""


class SignOn:
    """Sends browsers to the provider, and decides who has come back."""

    def __init__(
        self, settings: Settings, provider: Provider, people: People, now: Callable[[], datetime]
    ) -> None:
        self.name = settings.oidc_name
        self._scopes = settings.oidc_scopes
        self._roles_claim = settings.oidc_roles_claim
        self._mapping = parse_roles(settings.oidc_roles)
        self._default = settings.oidc_default_role
        self._provider = provider
        self._people = people
        self._now = now
        self._pending: Pending[_Attempt] = Pending(now, lasts_s=LOGIN_S)

    def close(self) -> None:
        """Close the connections to the provider."""
        self._provider.close()

    def logout_address(self, back_to: str) -> str:
        """Return where the provider ends its own session; empty when it offers none.

        Raises:
            Unavailable: ``openid.provider``.
        """
        address = self._provider.metadata().end_session_endpoint
        if not address:
            return ""
        # RP-Initiated Logout 1.0, 2. No id_token_hint: ID tokens are not kept, so that the provider
        # may ask the person to confirm.
        query = {"client_id": self._provider.client_id, "post_logout_redirect_uri": back_to}
        return _with_query(address, query)

    def begin(
        self, redirect_uri: str, return_to: str, source: str, *, again: bool = False
    ) -> Begun:
        """Begin a login.

        Args:
            redirect_uri: our callback, as the provider knows it.
            return_to: a path of ours.
            source: address of the client; one cannot push out the logins of others.
            again: have the provider ask the person, whatever session it has (Core, 3.1.2.1:
                ``prompt`` and ``max_age``; it must say in ``auth_time`` when it did).

        Raises:
            Unavailable: ``openid.provider``.
        """
        metadata = self._provider.metadata()
        state = secrets.token_urlsafe(32)
        attempt = _Attempt(
            cookie=secrets.token_urlsafe(32),
            nonce=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(48),
            redirect_uri=redirect_uri,
            return_to=return_to,
            again_since=self._now() if again else None,
        )
        self._pending.put(state, source, attempt)
        query = {
            "response_type": "code",
            "client_id": self._provider.client_id,
            "redirect_uri": redirect_uri,
            "scope": self._scopes,
            "state": state,
            "nonce": attempt.nonce,
            "code_challenge": s256(attempt.verifier),
            "code_challenge_method": "S256",
        }
        if again:
            query |= {"prompt": "login", "max_age": "0"}
        return Begun(_with_query(metadata.authorization_endpoint, query), attempt.cookie)

    def finish(self, answer: Mapping[str, str], cookie: str) -> Finished:
        """Decide who has come back.

        Args:
            answer: query parameters of the callback, each once; unknown ones are ignored.
            cookie: as the browser sent it, empty when missing.

        Raises:
            Unauthorized: ``openid.state``, ``openid.issuer``, ``openid.denied``, ``openid.code`` or
                ``openid.token``.
            Forbidden: ``openid.role``.
            Unavailable: ``openid.provider``.
        """
        attempt = self._pending.take(answer.get("state", ""))
        if attempt is None or not hmac.compare_digest(attempt.cookie.encode(), cookie.encode()):
            raise Unauthorized(
                "openid.state",
                "this login was not begun in this browser, or it was finished, or took too long",
                hint="begin again on the login page",
            )
        self._check_issuer(answer)
        if "error" in answer:
            error = answer["error"]
            raise Unauthorized(
                "openid.denied",
                f"the provider did not log you in: {error if _ERROR.fullmatch(error) else '?'}",
                hint="begin again, or ask the people who run the provider",
            )
        code = answer.get("code", "")
        if not 0 < len(code) <= _PARAMETER_CHARACTERS_MAX:
            raise Unauthorized("openid.code", "the answer holds no code", hint="begin again")
        claims = self._claims(code, attempt)
        asked_at = None
        if attempt.again_since is not None:
            asked_at = authenticated_at(claims, attempt.again_since)
        return Finished(self._admit(claims), attempt.return_to, asked_at)

    def _check_issuer(self, answer: Mapping[str, str]) -> None:
        metadata = self._provider.metadata()
        sent = answer.get("iss")
        missing = sent is None and metadata.authorization_response_iss_parameter_supported
        if missing or (sent is not None and sent != metadata.issuer):
            raise Unauthorized(
                "openid.issuer",
                "the answer is of another provider than the one that was asked",
                hint="begin again; if it stays so, somebody is between you and the provider",
            )

    def _claims(self, code: str, attempt: _Attempt) -> dict[str, Any]:
        tokens = self._provider.exchange(code, attempt.verifier, attempt.redirect_uri)
        try:
            claims = self._check(tokens.id_token, attempt, fresh=False)
        except UnknownKey:
            try:
                claims = self._check(tokens.id_token, attempt, fresh=True)
            except UnknownKey as error:
                raise Unauthorized(
                    "openid.token",
                    "the provider's ID token is signed by a key that it does not publish",
                    hint="try again in a minute",
                ) from error
        known = claim_values(claims, self._roles_claim)
        if known or not (tokens.access_token and self._provider.metadata().userinfo_endpoint):
            return claims
        # Many providers put groups here alone. It is not signed: it adds, and replaces nothing.
        more = self._provider.user_info(tokens.access_token)
        if more.get("sub") != claims["sub"]:  # Core, 5.3.2
            raise Unauthorized(
                "openid.token",
                "the provider's user info is of somebody else",
                hint="log in again",
            )
        more.pop("auth_time", None)  # counts where it is signed
        return {**more, **claims}

    def _check(self, id_token: str, attempt: _Attempt, *, fresh: bool) -> dict[str, Any]:
        return check_id_token(
            id_token,
            self._provider.keys(fresh=fresh),
            issuer=self._provider.issuer,
            client_id=self._provider.client_id,
            nonce=attempt.nonce,
            at=self._now(),
        )

    def _admit(self, claims: Mapping[str, Any]) -> str:
        values = [v for v in claim_values(claims, self._roles_claim) if v in self._mapping]
        role = role_of(values, self._mapping, self._default)
        issuer, subject = self._provider.issuer, str(claims["sub"])
        describe(issuer=issuer, subject=subject)
        if role is None:
            self._people.shut_out(issuer, subject)
            raise Forbidden(
                "openid.role",
                "the provider knows you, but nothing that it says of you gives you a role here",
                hint="ask an administrator: `oidc_roles` maps values of the claim "
                f"{self._roles_claim!r} to roles",
            )
        named = (claims.get(one) for one in ("preferred_username", "email", "name", "sub"))
        called = next(one for one in named if isinstance(one, str) and one)
        return self._people.admit(issuer, subject, called=called, values=values, role=role)


def open_sign_on(
    settings: Settings, database: Database, now: Callable[[], datetime]
) -> SignOn | None:
    """Return single sign-on as it is set, None when it is not; apply the mapping to known people.

    Raises:
        Refused: ``settings.invalid``.
    """
    people = People(database, now)
    mapping = parse_roles(settings.oidc_roles)
    if settings.oidc_issuer:
        _check_settings(settings, has_mapping=bool(mapping))
    ended = people.apply(settings.oidc_issuer, mapping, settings.oidc_default_role)
    if ended:
        logger.warning("single sign-on: %d people have no role any more; logged out", ended)
    if not settings.oidc_issuer:
        return None
    secret = _secret(settings.oidc_client_secret_file)
    provider = Provider(settings.oidc_issuer, settings.oidc_client_id, secret)
    return SignOn(settings, provider, people, now)


def s256(verifier: str) -> str:
    """Return the code challenge of RFC 7636, 4.2."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _with_query(address: str, query: Mapping[str, str]) -> str:
    """Add parameters to an address that may have some (RFC 6749, 3.1)."""
    return f"{address}{'&' if urlsplit(address).query else '?'}{urlencode(query)}"


def _check_settings(settings: Settings, *, has_mapping: bool) -> None:
    wrong = ""
    if not is_safe_address(settings.oidc_issuer, loopback=True) or "?" in settings.oidc_issuer:
        wrong = "oidc_issuer is not an https address without user, query and fragment"
    elif not settings.oidc_client_id:
        wrong = "oidc_issuer is set and oidc_client_id is not"
    elif "openid" not in settings.oidc_scopes.split():
        wrong = "oidc_scopes does not hold `openid`"
    elif not has_mapping and not settings.oidc_default_role:
        wrong = "nobody could log in: neither oidc_roles nor oidc_default_role is set"
    elif not settings.public_url and settings.listen_host not in _LOOPBACK:
        wrong = "single sign-on needs public_url, the address by which browsers reach the server"
    elif settings.public_url and not is_safe_address(settings.public_url, loopback=True):
        wrong = "public_url is not an https address"
    if wrong:
        raise Refused(
            "settings.invalid", wrong, hint="docs/operations/single-sign-on.md shows the settings"
        )


def _secret(file: str) -> str:
    if not file:
        return ""
    try:
        with Path(file).expanduser().open("rb") as opened:
            lines = opened.read(_SECRET_BYTES_MAX).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(
            "openid.secret",
            f"cannot read oidc_client_secret_file: {error}",
            hint="its first line is the client's secret; leave the setting empty for a public one",
        ) from error
    if not lines or not lines[0].strip():
        raise Refused(
            "settings.invalid", f"oidc_client_secret_file {file} is empty", hint="see --help"
        )
    return lines[0].strip()
