"""Requests that change who may log in: with a proof that the owner of the token is there."""

from __future__ import annotations

from types import NoneType
from urllib.parse import quote

from edgectl import types
from edgectl.transport import Connection

__all__ = ["UserChanges"]

_HEADER = "X-Edgectl-Proof"


class UserChanges:
    """One method a route; made by `edgectl.client.Client.proved`.

    `myself` says that the own user is meant.
    """

    def __init__(self, connection: Connection, body: dict[str, object]) -> None:
        given = connection.request("POST", "/session/proof", types.ProofGiven, body=body)
        self._connection = connection
        self._headers = {_HEADER: given.proof}

    def create(self, name: str, role: str) -> types.UserCreated:
        """Make a user; the password is in the answer (admin)."""
        return self._connection.request(
            "POST",
            "/users",
            types.UserCreated,
            body={"name": name, "role": role},
            headers=self._headers,
        )

    def change(
        self, name: str, *, role: str | None = None, disabled: bool | None = None, myself: bool
    ) -> types.UserInfo:
        """Give another role, or say whether somebody may log in; None: as it is (admin)."""
        return self._connection.request(
            "PATCH",
            _path(name),
            types.UserInfo,
            params=_meant(myself=myself),
            body={"role": role, "disabled": disabled},
            headers=self._headers,
        )

    def reset_password(self, name: str, *, myself: bool) -> types.UserCreated:
        """Make a new password for somebody (admin)."""
        return self._connection.request(
            "POST",
            f"{_path(name)}/password",
            types.UserCreated,
            params=_meant(myself=myself),
            headers=self._headers,
        )

    def log_out(self, name: str, *, tokens: bool, myself: bool) -> types.UserInfo:
        """End all sessions of somebody, and with `tokens` revoke all tokens (admin)."""
        return self._connection.request(
            "POST",
            f"{_path(name)}/logout",
            types.UserInfo,
            params=[("tokens", str(tokens).lower()), *_meant(myself=myself)],
            headers=self._headers,
        )

    def delete(self, name: str, *, myself: bool) -> None:
        """Remove somebody with all sessions and tokens (admin)."""
        self._connection.request(
            "DELETE", _path(name), NoneType, params=_meant(myself=myself), headers=self._headers
        )

    def change_own_password(self, password: str) -> None:
        """Take another password."""
        self._connection.request(
            "PUT", "/me/password", NoneType, body={"password": password}, headers=self._headers
        )


def _path(name: str) -> str:
    return f"/users/{quote(name, safe='')}"


def _meant(*, myself: bool) -> list[tuple[str, str]]:
    return [("myself", "true")] if myself else []
