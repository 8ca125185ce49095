"""A device that uploads, by hand on the wire, and says what it likes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from edgectl_protocol import topics
from edgectl_protocol.chunks import CHUNK_BYTES, make_index
from edgectl_protocol.messages import decode
from edgectl_protocol.names import digest_of
from edgectl_protocol.uploads import (
    WANTED_MAX,
    LogRequest,
    UploadAnswer,
    UploadOffer,
    UploadWanted,
    encode_upload_chunk,
)
from edgectl_server.clock import now
from server.fleet.conftest import Site
from server.fleet.fleet_helpers import Pi
from waiting import wait_for

MEDIA_TYPE = "application/x-ndjson+gzip"


def parts_of(content: bytes) -> list[bytes]:
    return [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]


class Uploader:
    """A device that uploads, as it is told to."""

    def __init__(self, site: Site, name: str = "pi-1") -> None:
        self.site = site
        self.pi: Pi = site.pi(name)
        self.name = name
        self.pi.subscribe(topics.wanted(name), topics.command(name))
        self.sent: list[int] = []
        wait_for(lambda: site.plane.fleet.device(name).online, "the device online")

    def asked(self) -> UploadAnswer:
        """Let an operator ask, and return what an answer must name."""
        job = self.site.plane.device_logs.start(self.name, 60, "anna").id
        topic = topics.command(self.name)

        def find() -> LogRequest | None:
            for payload in self.pi.got.get(topic, []):
                request = decode(LogRequest, self.pi.verified(payload))
                if request.job == job:
                    return request
            return None

        request = wait_for(find, "the request")
        assert request.expires_at - request.issued_at == timedelta(minutes=2)
        return UploadAnswer(job=job, nonce=request.nonce)

    def offer(self, content: bytes, request: UploadAnswer | None, **lies: Any) -> UploadOffer:
        self.pi.seq += 1
        index = digest_of(make_index(parts_of(content))) if len(content) > CHUNK_BYTES else None
        fields: dict[str, Any] = {
            "device": self.name, "boot": self.pi.boot, "seq": self.pi.seq, "at": now(),
            "kind": "logs", "upload": digest_of(content), "length": len(content),
            "chunk_index": index, "media_type": MEDIA_TYPE, "request": request,
        }  # fmt: skip
        offer = UploadOffer(**(fields | lies))
        self.pi.publish(topics.event(self.name), offer)
        return offer

    def heard(self) -> list[UploadWanted]:
        payloads = self.pi.got.get(topics.wanted(self.name), [])
        return [decode(UploadWanted, payload) for payload in payloads]

    def send(self, digest: str, number: int, content: bytes) -> None:
        self.sent.append(number)
        payload = encode_upload_chunk(digest, number, content)
        self.pi.publish(topics.upload_chunk(self.name), payload)

    def next_wanted(self, at: int) -> UploadWanted:
        """Wait for what the server says next, after so many words."""
        return wait_for(lambda: self.heard()[at:], "what is wanted")[0]

    def answer(self, content: bytes, *, until: int | None = None) -> UploadWanted:
        """Send what is wanted until the end, or until so many chunks were sent."""
        digest, parts, at = digest_of(content), parts_of(content), 0
        while True:
            wanted = self.next_wanted(at)
            at += 1
            if wanted.upload != digest:
                continue
            if wanted.done or wanted.refused is not None:
                return wanted
            assert len(wanted.chunks) <= WANTED_MAX
            for number in wanted.chunks:
                if until is not None and len(self.sent) >= until:
                    return wanted
                self.send(digest, number, make_index(parts) if number < 0 else parts[number])

    def wait_dropped(self, code: str, count: int = 1) -> None:
        dropped = self.site.plane.intake.dropped
        wait_for(lambda: dropped[code] >= count, f"{count} {code} among {dropped}")

    def refusal(self) -> str:
        """Wait for the newest word, which must be a refusal, and return its code."""
        wait_for(lambda: self.heard() and self.heard()[-1].refused, "a refusal")
        refused = self.heard()[-1].refused
        assert refused is not None
        return refused.code
