"""Questions over one connection, as long as it holds."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from edgectl_agent import http_pull
from edgectl_agent.http_pull import Denied, HttpClient, Trouble
from waiting import wait_for

CONTENT = b"0123456789" * 10_000


class Keeping:
    """A server that keeps connections, for `answers_max` answers each."""

    def __init__(self) -> None:
        self.connections: list[BaseHTTPRequestHandler] = []
        self.asked: list[str] = []
        self.gone = 0
        self.answers_max = 1000
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                self.left = server.answers_max
                server.connections.append(self)

            def finish(self) -> None:
                super().finish()
                server.gone += 1

            def do_GET(self) -> None:
                server.asked.append(self.path)
                self.left -= 1
                if self.path == "/away":
                    self.send_response(302)
                    self.send_header("Location", "/content")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200 if self.path == "/content" else 404)
                self.send_header("Content-Length", str(len(CONTENT)))
                self.end_headers()
                self.wfile.write(CONTENT)
                if not self.left:
                    self.close_connection = True  # without a word: the client finds out

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Keeping]:
    server = Keeping()
    yield server
    server.stop()


@pytest.fixture
def client(server: Keeping) -> HttpClient:
    return HttpClient(server.address, proof=lambda _path, _at: {})


def read(client: HttpClient, path: str = "/content", *, most: int = 2**20) -> bytes:
    content = b""
    with client.get(path, {}, lambda: False) as reply:
        while len(content) < most and (piece := reply.read(65536)):
            content += piece
    return content


def test_questions_share_a_connection(server: Keeping, client: HttpClient) -> None:
    for _ in range(3):
        assert read(client) == CONTENT
    assert read(client, "/away") == CONTENT
    assert len(server.connections) == 1


def test_a_connection_that_has_gone_is_asked_again_over_another(
    server: Keeping, client: HttpClient
) -> None:
    server.answers_max = 1
    for _ in range(3):
        assert read(client) == CONTENT
        wait_for(lambda: server.gone == len(server.connections), "the server's end")
    assert len(server.connections) == 3
    assert server.asked == ["/content"] * 3


def test_an_answer_that_was_not_read_to_its_end_takes_the_connection_with_it(
    server: Keeping, client: HttpClient
) -> None:
    assert read(client, most=65536) == CONTENT[:65536]
    assert read(client) == CONTENT
    assert len(server.connections) == 2
    with pytest.raises(Denied):
        read(client, "/nothing")
    assert read(client) == CONTENT
    assert len(server.connections) == 3


def test_a_connection_that_rests_too_long_is_closed(
    server: Keeping, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_pull, "IDLE_S", 0.05)
    assert read(client) == CONTENT
    wait_for(lambda: server.gone == 1, "its end")
    assert read(client) == CONTENT
    assert len(server.connections) == 2


def test_who_does_not_answer_over_a_kept_connection_is_asked_once_more_and_no_more(
    server: Keeping, client: HttpClient
) -> None:
    assert read(client) == CONTENT
    server.stop()
    for handler in server.connections:
        handler.connection.shutdown(socket.SHUT_RDWR)
    with pytest.raises(Trouble, match="no answer"):
        read(client)
