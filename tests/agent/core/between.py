"""The server's real enrolment behind plain HTTP, with somebody in between who changes answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

from databases import open_migrated
from edgectl_protocol.enrolment import BrokerAddress, EnrolRequest, RenewRequest, Waiting
from edgectl_server.admission import Admission
from edgectl_server.clock import now as server_now
from edgectl_server.enrolment import Enroller
from edgectl_server.errors import ServerError
from edgectl_server.signing.authority import Authority
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.repository import Repository

Answer = tuple[int, bytes]
Change = Callable[[str, bytes, Answer], Answer]


class Site:
    """A server on a clock of its own; `between` sees path, request and answer of each exchange."""

    def __init__(self, folder: Path, *, life: timedelta = timedelta(days=90)) -> None:
        folder.mkdir()
        self.time = server_now()
        self.database = open_migrated(f"sqlite:///{folder / 'db'}")
        self.authority = Authority.open(folder / "pki", self.time, device_lifetime=life)
        repository = Repository.open(folder / "tuf", Keys.open(folder / "keys"), self.time)
        self.admission = Admission(database=self.database, now=lambda: self.time, requests_max=20)
        self.enroller = Enroller(
            database=self.database,
            authority=self.authority,
            repository=repository,
            admission=self.admission,
            broker=lambda: BrokerAddress(host="127.0.0.1", port=8883),
            now=lambda: self.time,
        )
        self.between: Change = lambda _path, _request, answer: answer
        self.exchanges: list[tuple[str, bytes, Answer]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                path = self.path.rpartition("/")[2]
                answer = site.answer(path, content)
                site.exchanges.append((path, content, answer))
                status, body = site.between(path, content, answer)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def fingerprint(self) -> str:
        return f"sha256:{self.authority.fingerprint}"

    def answer(self, path: str, content: bytes) -> Answer:
        """Answer as the real server does."""
        try:
            if path == "renew":
                request = msgspec.json.decode(content, type=RenewRequest)
                return 200, msgspec.json.encode(self.enroller.renew(request))
            reply = self.enroller.enrol(
                msgspec.json.decode(content, type=EnrolRequest), "192.0.2.1"
            )
            status = 202 if isinstance(reply, Waiting) else 200
            return status, msgspec.json.encode(reply)
        except ServerError as error:
            problem = {"code": error.code, "detail": error.detail}
            return error.status, json.dumps(problem).encode()

    def token(self, group: str = "") -> str:
        created = self.admission.create_token(uses=5, expires_in_s=600, user="ana", group=group)
        return created.token

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join(5)
        self._http.server_close()
        self.database.close()
