"""HTTPS of the device: what `server_ca` believes, against servers that speak TLS."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agent.core.self_signed import self_signed
from edgectl_agent.errors import Unreachable, UsageError
from edgectl_agent.http_pull import HttpClient, Trouble
from edgectl_agent.server_request import post
from edgectl_agent.server_tls import check_server_ca, server_context
from edgectl_agent.settings import load_settings

CONTENT = b"what was asked for"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        target = self.server.redirect
        self.send_response(302 if target else 200)
        if target:
            self.send_header("Location", target)
        self.send_header("Content-Length", "0" if target else str(len(CONTENT)))
        self.end_headers()
        if not target:
            self.wfile.write(CONTENT)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


class TlsServer:
    """An HTTPS server with a certificate that signs itself: it is its own authority."""

    def __init__(self, folder: Path, *, name: str = "localhost", ended: bool = False) -> None:
        self.authority, key = self_signed(folder, name=name, ended=ended)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.authority, key)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.redirect = ""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.handle_error = lambda *_: None  # who does not believe it hangs up
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"https://localhost:{self._server.server_port}"

    def redirect_to(self, url: str) -> None:
        self._server.redirect = url

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[object]:
    started = []

    def start(**options: object) -> TlsServer:
        started.append(TlsServer(tmp_path / f"server-{len(started)}", **options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def pull(server: TlsServer, server_ca: str) -> bytes:
    client = HttpClient(server.url, proof=lambda _path, _at: {}, server_ca=server_ca)
    with client.get("/v2/x", {}, lambda: False) as reply:
        return reply.read(100)


def ask(server: TlsServer, server_ca: str) -> bytes:
    return post(f"{server.url}/api/v1/renew", b"{}", server_ca=server_ca).content


@pytest.mark.parametrize("way", [pull, ask])
def test_by_default_nothing_is_checked_and_with_its_authority_it_is(serve, way) -> None:
    server = serve()
    assert way(server, "") == CONTENT
    assert way(server, str(server.authority)) == CONTENT


WRONG = {
    "of another authority": ({}, "other"),
    "not one of the system's": ({}, "system"),
    "for another name": ({"name": "example.org"}, "own"),
    "ended": ({"ended": True}, "own"),
    "a file that is not there": ({}, "missing"),
    "a file without a certificate": ({}, "empty"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_certificate_that_is_not_good(serve, tmp_path, case) -> None:
    options, which = WRONG[case]
    server, other = serve(**options), serve()
    (tmp_path / "empty.pem").write_text("no certificate")
    server_ca = {
        "own": str(server.authority),
        "other": str(other.authority),
        "system": "system",
        "missing": str(tmp_path / "missing.pem"),
        "empty": str(tmp_path / "empty.pem"),
    }[which]
    assert pull(server, "") == CONTENT
    with pytest.raises(Trouble):  # the next source's turn
        pull(server, server_ca)
    with pytest.raises(Unreachable) as caught:
        ask(server, server_ca)
    assert caught.value.code == "server.certificate"
    assert caught.value.hint


def test_where_a_server_redirects_to_is_checked_too(serve) -> None:
    server, elsewhere = serve(), serve()
    server.redirect_to(f"{elsewhere.url}/blob")
    assert pull(server, "") == CONTENT
    with pytest.raises(Trouble):
        pull(server, str(server.authority))
    both = server.authority.with_name("both.pem")
    both.write_bytes(server.authority.read_bytes() + elsewhere.authority.read_bytes())
    assert pull(server, str(both)) == CONTENT


def test_the_system_means_the_system(monkeypatch, serve) -> None:
    server = serve()
    monkeypatch.setenv("SSL_CERT_FILE", str(server.authority))  # as an administrator adds one
    assert pull(server, "system") == CONTENT
    assert ask(server, "system") == CONTENT


def test_what_is_neither_a_word_nor_a_path_is_no_setting() -> None:
    for good in ("", "system", "/etc/ssl/own.pem"):
        check_server_ca(good)
        assert load_settings(file=None, environment={}, flags={"server_ca": good})
    for bad in ("System", "systm", "own.pem", " "):
        with pytest.raises(UsageError) as caught:
            load_settings(file=None, environment={}, flags={"server_ca": bad})
        assert caught.value.code == "settings.value"
    assert server_context("system").verify_mode is ssl.CERT_REQUIRED
    assert server_context("").verify_mode is ssl.CERT_NONE
