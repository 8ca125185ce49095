"""One attempt to deliver: a request, its answer's status, and nothing else of the answer.

The body of an answer is not read: it would show whoever adds a webhook what an address says.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import cache
from urllib.parse import urlsplit

import httpcore2
import httpx2

import edgectl_protocol
from edgectl_server.delivering import Outcome
from edgectl_server.errors import Refused
from edgectl_server.webhooks.addresses import GuardedBackend, check_url

__all__ = ["ATTEMPT_S_MAX", "GONE", "Send", "make_sender"]

ATTEMPT_S_MAX = 10.0
"""From the first packet to the status, without looking the name up."""
GONE = 410
_STEP_S_MAX = 5.0
_ERROR_CHARACTERS_MAX = 200
_TIMEOUT = dict.fromkeys(("connect", "read", "write", "pool"), _STEP_S_MAX)


Send = Callable[[str, dict[str, str], bytes], Outcome]
"""Takes an address, headers and a body; raises nothing."""


def make_sender(*, private: bool, within_s: float = ATTEMPT_S_MAX) -> Send:
    """Return what sends.

    Args:
        private: addresses that are not of the Internet may be sent to.
        within_s: how long an attempt may take.
    """

    def send(url: str, headers: dict[str, str], body: bytes) -> Outcome:
        backend = GuardedBackend(private=private, within_s=within_s)
        try:
            check_url(url, private=private)
            with (
                httpcore2.ConnectionPool(
                    ssl_context=_authorities(), network_backend=backend, retries=0
                ) as pool,
                pool.stream(
                    "POST",
                    url,
                    headers=list(
                        {
                            "Host": urlsplit(url).netloc,
                            "Content-Type": "application/json",
                            "Content-Length": str(len(body)),
                            "User-Agent": f"edgectl/{edgectl_protocol.__version__}",
                            "Connection": "close",
                            **headers,
                        }.items()
                    ),
                    content=body,
                    extensions={"timeout": _TIMEOUT},
                ) as answer,
            ):
                return _judge(answer.status)
        except Refused as error:
            return Outcome(error.detail[:_ERROR_CHARACTERS_MAX])
        except httpcore2.TimeoutException as error:
            return Outcome(f"no answer in time ({type(error).__name__})")
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            said = f"{type(error).__name__}: {error}"
            return Outcome(said[:_ERROR_CHARACTERS_MAX])

    return send


def _judge(status: int) -> Outcome:
    if 200 <= status < 300:  # noqa: PLR2004 - the class of success
        return Outcome(status=status)
    if 300 <= status < 400:  # noqa: PLR2004 - redirects
        why = f"answered {status}; redirects are not followed: give the address that it leads to"
        return Outcome(why, status)
    return Outcome(f"answered {status}", status)


@cache
def _authorities() -> ssl.SSLContext:
    """Return whom we trust for https, of the system or ``SSL_CERT_FILE``; slow, so read once."""
    return httpx2.create_ssl_context()
