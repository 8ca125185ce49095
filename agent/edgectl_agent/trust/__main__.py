"""The verifying process: answers questions about metadata and orders, until nobody asks any more.

``python -m edgectl_agent.trust <descriptor>``, started by `edgectl_agent.trust.process` only. It
takes the limits upon itself before the first byte from the network reaches it. The end of the
channel is its end: the supervisor has no use for it any more, or has died.
"""

from __future__ import annotations

import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tuf.api.exceptions import DownloadError, DownloadHTTPError
from tuf.ngclient import FetcherInterface

from edgectl_agent.errors import AgentError, Refused, StepRejected
from edgectl_agent.trust.confinement import confine, limit
from edgectl_agent.trust.frames import (
    Answer,
    Begin,
    CheckOrder,
    CheckRequest,
    Failed,
    Find,
    Found,
    Given,
    Good,
    Question,
    Ready,
    Want,
    receive,
    send,
)
from edgectl_agent.trust.verifier import Verifier
from edgectl_protocol.messages import MetadataHead, decode
from edgectl_protocol.metadata import METADATA_BYTES_MAX, parse_metadata_file

__all__ = ["main"]

_BASE_URL = "mqtt:///"
_PROCESSOR_S = 60
_MEMORY_BYTES = 64 * 1024 * 1024
_TEXT_CHARACTERS = 1024


class RetainedFiles(FetcherInterface):
    """python-tuf's fetcher: files are retained topics, which the supervisor fetches.

    A topic that holds nothing stays silent, so that the walk over root versions ends at the version
    that the unsigned ``meta/head`` names; the hint is asked for anew with each walk.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._newest_root: int | None = None

    def forget_head(self) -> None:
        """Ask for the hint again when it is needed next."""
        self._newest_root = None

    def _fetch(self, url: str) -> Iterator[bytes]:
        role, version = parse_metadata_file(url.removeprefix(_BASE_URL))
        if role == "root":
            assert version is not None, url
            if self._newest_root is None:
                self._newest_root = decode(MetadataHead, self._receive(Want())).root
            if version > self._newest_root:
                raise DownloadHTTPError(f"no root {version}", 404)
        return iter((self._receive(Want(role, version)),))

    def _receive(self, want: Want) -> bytes:
        send(self._channel, want)
        given = receive(self._channel, Given)
        if given is None:
            raise SystemExit(0)
        if given.content is None:
            raise DownloadError(f"{want.role or 'head'} holds nothing")
        content: bytes = given.content
        return content


def main(arguments: list[str]) -> int:
    """Answer until the channel ends."""
    with socket.socket(fileno=int(arguments[0])) as channel:
        begin = receive(channel, Begin)
        if begin is None:
            return 0
        directory = Path(begin.directory).resolve()
        tempfile.tempdir = str(directory)
        files = RetainedFiles(channel)
        verifier = Verifier(directory, begin.bootstrap, files, base_url=_BASE_URL)
        limit(
            processor_s=_PROCESSOR_S,
            memory_bytes=_MEMORY_BYTES,
            file_bytes=2 * METADATA_BYTES_MAX,
        )
        send(channel, Ready(confine(directory)))
        while (question := receive(channel, Question)) is not None:
            files.forget_head()
            send(channel, _answer(verifier, question))
    return 0


def _answer(verifier: Verifier, question: Question) -> Answer:
    try:
        match question:
            case Find(target, manifest, floor):
                seen = verifier.find(target, manifest, floor)
                return Found(seen.root, seen.timestamp, seen.snapshot)
            case CheckOrder(payload):
                return Good(*verifier.check_order(payload))
            case CheckRequest(payload):
                return Good(*verifier.check_request(payload))
    except AgentError as error:
        return _failed(error)
    except OSError as error:
        return Failed("disk", detail=str(error)[:_TEXT_CHARACTERS], error_number=error.errno or 0)


def _failed(error: AgentError) -> Failed:
    kind: Literal["failed", "rejected", "refused"] = "failed"
    if isinstance(error, Refused):
        kind = "refused"
    elif isinstance(error, StepRejected):
        kind = "rejected"
    return Failed(kind, error.code, error.detail[:_TEXT_CHARACTERS], error.hint)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
