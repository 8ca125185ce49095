"""What can go wrong for somebody at the command line.

The tree is sorted by who must act, and every branch has its exit code::

    EdgectlError             1   something was refused or failed
    ├── ApiError             1   the server said no; `code` is the server's
    ├── LocalError           1   a file, a setting or a missing package on this machine
    ├── DemoFailed           1   the demo could not do what it shows
    └── ServerUnreachable    3   no answer at all
        └── UntrustedServer  3   an answer of somebody who may be somebody else

Every error carries a stable `code` (``area.problem``), a sentence, and the next step (`hint`).
`doing` adds what was being done; it never repeats the cause.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = [
    "ApiError",
    "DemoFailed",
    "EdgectlError",
    "LocalError",
    "ServerUnreachable",
    "UntrustedServer",
    "doing",
]


class EdgectlError(Exception):
    """Something was refused or failed."""

    exit_code = 1

    def __init__(
        self, code: str, detail: str, hint: str = "", *, data: dict[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.hint = hint
        self.data = data or {}
        self.doing: list[str] = []
        """What was being done, innermost first."""


class ApiError(EdgectlError):
    """The server answered with a problem (RFC 9457), or with something that is no answer."""

    def __init__(
        self,
        code: str,
        detail: str,
        hint: str = "",
        *,
        status: int,
        data: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(code, detail, hint, data=data)
        self.status = status


class LocalError(EdgectlError):
    """A file, a setting or a missing package on this machine."""


class DemoFailed(EdgectlError):
    """The demo could not do what it shows."""


class ServerUnreachable(EdgectlError):
    """No answer: wrong address, server down, connection lost and not regained."""

    exit_code = 3

    def __init__(self, detail: str, hint: str = "", *, code: str = "server.unreachable") -> None:
        super().__init__(code, detail, hint)


class UntrustedServer(ServerUnreachable):
    """The TLS certificate is of nobody whom we believe, or for another name, or too old."""

    def __init__(self, detail: str, hint: str = "") -> None:
        super().__init__(detail, hint, code="server.untrusted")


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Note on any error that passes through what was being done, such as ``uploading har.onnx``."""
    try:
        yield
    except EdgectlError as error:
        error.doing.append(what)
        raise
