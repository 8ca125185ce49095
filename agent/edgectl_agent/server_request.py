"""One request to the server over HTTP: for enrolling and for renewing, and nothing else.

What is asked and answered proves itself (`edgectl_protocol.enrolment`) and holds no secret, so
that plain HTTP will do. For the same reason the certificate of an HTTPS server is checked only
where the setting `server_ca` says by what. Somebody in between can keep the answer from us, as
they can over plain HTTP; they can make none that is believed.
"""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from typing import NamedTuple
from urllib.parse import urlsplit

from edgectl_agent.errors import AgentError, Refused, Unreachable, UsageError
from edgectl_agent.server_tls import server_context

__all__ = ["ANSWER_HINT", "Answer", "endpoint_url", "look", "post"]

ANSWER_BYTES_MAX = 512 * 1024
ANSWER_HINT = "is that the address of this device's edgectl server? its log says what it answered"
TIMEOUT_S = 30.0
_PROBLEM_BYTES_MAX = 65536
_HINTS = {
    "enrol.token": "make a new one with: edgectl devices token create",
    "enrol.exists": "choose another name, or decommission the device that has it",
    "enrol.closed": "ask for a token: edgectl devices token create",
    "enrol.rejected": "ask who has rejected it; --device gives this device another name",
    "enrol.full": "many devices wait for approval: look at edgectl devices requests",
    "enrol.renewal": "if this device is to come back: remove the folder identity/, enrol again",
}


class Answer(NamedTuple):
    """What the server has said; `date` as its header says it, empty where it does not."""

    status: int
    content: bytes
    date: str = ""


def endpoint_url(server: str, path: str) -> str:
    """Return the address of a route; raise `UsageError` ``settings.value``."""
    parts = urlsplit(server)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(
            "settings.value",
            f"server is {server!r}, not the address of one",
            hint="write it as http://host:8080 or https://host",
        )
    return f"{server.rstrip('/')}/api/v1/{path}"


def post(url: str, content: bytes, *, server_ca: str = "") -> Answer:
    """Send JSON and return the answer, at most `ANSWER_BYTES_MAX` of it.

    Args:
        url: of `endpoint_url`.
        content: a document.
        server_ca: see `edgectl_agent.server_tls`.

    Raises:
        Refused: what the server says; ``enrol.reply``: it is no edgectl server.
        Unreachable: ``server.unreachable``, ``server.certificate``, or what the server says with a
            status from 500 on, and 429.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "edgectl-agent"}
    request = urllib.request.Request(url, content, headers, method="POST")  # noqa: S310 - checked
    return _ask(request, server_ca)


def look(server: str, path: str, *, server_ca: str = "") -> Answer:
    """Get what everybody may read of a server; arguments and errors as of `post`."""
    url = endpoint_url(server, path)
    request = urllib.request.Request(url, headers={"User-Agent": "edgectl-agent"})  # noqa: S310
    return _ask(request, server_ca)


def _ask(request: urllib.request.Request, server_ca: str) -> Answer:
    url = request.full_url
    try:
        with urllib.request.urlopen(  # noqa: S310 - the scheme was checked
            request, timeout=TIMEOUT_S, context=server_context(server_ca)
        ) as reply:
            content = reply.read(ANSWER_BYTES_MAX + 1)
            answer = Answer(reply.status, content, reply.headers.get("Date", ""))
    except urllib.error.HTTPError as error:
        with error:
            try:
                problem = error.read(_PROBLEM_BYTES_MAX)
            except (OSError, http.client.HTTPException):
                problem = b""
            raise _refusal(error.code, problem) from error
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise Unreachable(
                "server.certificate",
                f"the certificate of {url} is not good: {reason.verify_message}",
                hint="is the clock right, and server_ca the authority of that server?",
            ) from error
        raise Unreachable(
            "server.unreachable",
            f"no answer from {url}: {reason}",
            hint="check the address and that the server runs; it is safe to try again",
        ) from error
    if len(answer.content) > ANSWER_BYTES_MAX:
        raise Refused(
            "enrol.reply", f"the answer is longer than {ANSWER_BYTES_MAX} bytes", hint=ANSWER_HINT
        )
    return answer


def _refusal(status: int, content: bytes) -> AgentError:
    """Translate a problem document of the server."""
    try:
        problem = json.loads(content)
        code, detail = _plain(problem["code"], 64), _plain(problem.get("detail", ""), 1024)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        code, detail = "enrol.reply", f"status {status} without a problem document"
    hint = _HINTS.get(code, "check that the address is that of an edgectl server")
    if status >= 500 or status == 429:  # noqa: PLR2004 - the status classes of HTTP
        return Unreachable(code, detail or f"status {status}", hint="try again later")
    return Refused(code, detail or f"status {status}", hint=hint)


def _plain(text: object, length: int) -> str:
    """Return text of strangers as something that does nothing to a terminal."""
    return "".join(one if one.isprintable() else "?" for one in str(text)[:length])
