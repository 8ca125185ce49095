"""The server that a mirror is of: content by its digest, and who belongs to the installation."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import httpx2

from edgectl.errors import ApiError, LocalError, ServerUnreachable
from edgectl.transport import is_loopback, pinned_context, server_url
from edgectl_protocol.chunks import BLOB_BYTES_MAX
from edgectl_protocol.names import hex_of

__all__ = ["Upstream"]

_SMALL_BYTES_MAX = 16 * 1024**2
_TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
_OK = 200


class Upstream:
    """Pulls with an API token; may be used from several threads."""

    def __init__(self, url: str, token: str, *, authority: str = "") -> None:
        """Take the address, the token, and in PEM whom alone to believe (empty: as usual)."""
        self.url = server_url(url)
        self._http = httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"},
            timeout=_TIMEOUT,
            trust_env=not is_loopback(self.url),
            verify=pinned_context(authority) if authority else True,
        )

    def close(self) -> None:
        """Close the sockets."""
        self._http.close()

    def fetch(self, path: str, digest: str, write: Callable[[bytes], object]) -> None:
        """Write what is at `path`, in pieces; what is written counts when this returns.

        Raises:
            ApiError: the server refused, or ``mirror.content``: it is not what `digest` says.
            ServerUnreachable: no answer, or it broke off.
        """
        state, length = sha256(), 0
        try:
            with self._http.stream("GET", path) as answer:
                if answer.status_code != _OK:
                    raise ApiError(
                        "mirror.refused",
                        f"{self.url} answers {answer.status_code} to {path}",
                        "edgectl tokens create mirror --scope read",
                        status=answer.status_code,
                    )
                for piece in answer.iter_raw(256 * 1024):
                    length += len(piece)
                    if length > BLOB_BYTES_MAX:
                        break
                    state.update(piece)
                    write(piece)
        except httpx2.HTTPError as error:
            raise ServerUnreachable(f"no answer from {self.url}: {error}") from error
        if state.hexdigest() != hex_of(digest):
            raise ApiError(
                "mirror.content", f"{self.url} sends other content as {digest}", status=0
            )

    def authority(self) -> str:
        """Return the certificate of the installation's authority, in PEM."""
        return self._small("/api/v1/authority.pem")

    def revocations(self) -> str:
        """Return the list of revoked certificates, in PEM."""
        return self._small("/api/v1/revocations.pem")

    def _small(self, path: str) -> str:
        content = bytearray()
        try:
            with self._http.stream("GET", path) as answer:
                for piece in answer.iter_raw():
                    content += piece
                    if len(content) > _SMALL_BYTES_MAX:
                        raise LocalError("mirror.answer", f"{self.url}{path} is too long")
                if answer.status_code != _OK:
                    raise ApiError(
                        "mirror.refused",
                        f"{self.url} answers {answer.status_code} to {path}",
                        status=answer.status_code,
                    )
        except httpx2.HTTPError as error:
            raise ServerUnreachable(f"no answer from {self.url}: {error}") from error
        return content.decode(errors="replace")
