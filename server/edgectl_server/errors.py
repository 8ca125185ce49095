"""What the server answers when it does not do what was asked; sorted by who must act.

::

    ServerError           500  a bug of ours
    ├── Unauthorized      401  log in, or send a valid token
    ├── Forbidden         403  ask somebody with a higher role
    ├── NotFound          404  name something that exists
    ├── Conflict          409  it exists with other content, or is in another state
    ├── TooLarge          413  send less
    ├── Refused           422  send something else
    ├── TooMany           429  wait
    ├── Unavailable       503  the operator of this server must help, or it is starting or stopping
    └── ServerFault       500  something that must not happen has happened

Every error has a stable `code` (``area.problem``), a sentence for a person (`detail`), the next
step where there is one (`hint`), and `data` for programs. `edgectl_server.api.problems` makes RFC
9457 problem details of it.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "Conflict",
    "Forbidden",
    "NotFound",
    "Refused",
    "ServerError",
    "ServerFault",
    "TooLarge",
    "TooMany",
    "Unauthorized",
    "Unavailable",
]


class ServerError(Exception):
    """Base of every error that the API answers with a code."""

    status: int = 500
    title: str = "Internal server error"

    def __init__(
        self, code: str, detail: str, *, hint: str = "", data: dict[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.hint = hint
        self.data: dict[str, Any] = data or {}

    def document(self) -> dict[str, Any]:
        """Return it as a row keeps it: RFC 9457 problem details."""
        return {
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "hint": self.hint,
            "data": self.data,
        }


class Unauthorized(ServerError):
    """Nobody, or nobody we know, is asking."""

    status = 401
    title = "Not logged in"


class Forbidden(ServerError):
    """We know who is asking, and they may not."""

    status = 403
    title = "Not allowed"


class NotFound(ServerError):
    """There is no such thing."""

    status = 404
    title = "Not found"


class Conflict(ServerError):
    """It cannot be done in the present state of things."""

    status = 409
    title = "Conflict"


class TooLarge(ServerError):
    """More bytes than are taken."""

    status = 413
    title = "Too large"


class Refused(ServerError):
    """What was sent is not acceptable."""

    status = 422
    title = "Refused"


class TooMany(ServerError):
    """Too many attempts in too short a time; ``data["retry_after_s"]`` says how long to wait."""

    status = 429
    title = "Too many requests"


class Unavailable(ServerError):
    """A part of the server, or of what it depends on, does not work now."""

    status = 503
    title = "Not available"


class ServerFault(ServerError):
    """An invariant of ours is broken; the log has more."""
