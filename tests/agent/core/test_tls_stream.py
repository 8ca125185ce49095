"""The TLS of HTTP downloads, against the other side as `ssl` has it."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core.self_signed import self_signed
from edgectl_agent.server_tls import server_context
from edgectl_agent.tls_stream import RECEIVE_BYTES, TlsStream

CONTENT = random.Random(5).randbytes(3 * RECEIVE_BYTES + 12_345)

Serve = Callable[[ssl.SSLSocket], None]


class Peer:
    """A server in a thread, at the other end of a pair of sockets."""

    def __init__(self, folder: Path, versions: ssl.TLSVersion | None) -> None:
        self.authority, key = self_signed(folder)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.authority, key)
        if versions is not None:
            self._context.maximum_version = versions
        self.failure: Exception | None = None

    @contextlib.contextmanager
    def serving(self, serve: Serve) -> Iterator[socket.socket]:
        """Serve one connection; yields the client's end, which is not encrypted yet."""
        ours, theirs = socket.socketpair()
        theirs.settimeout(10)
        thread = threading.Thread(target=self._run, args=(ours, serve))
        thread.start()
        yield theirs
        theirs.close()
        thread.join(60)
        assert not thread.is_alive()

    def _run(self, ours: socket.socket, serve: Serve) -> None:
        with ours:
            try:
                with self._context.wrap_socket(ours, server_side=True) as secured:
                    serve(secured)
            except OSError as error:
                self.failure = error


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, None], ids=["1.2", "newest"])
def peer(tmp_path: Path, request: pytest.FixtureRequest) -> Peer:
    return Peer(tmp_path / "server", request.param)


def stream_over(plain: socket.socket, server_ca: str = "", name: str = "localhost") -> TlsStream:
    return TlsStream(plain, server_context(server_ca), name)


def test_what_was_sent_comes_in_pieces_of_any_size(peer: Peer) -> None:
    def serve(secured: ssl.SSLSocket) -> None:
        assert secured.recv(100) == b"begin"
        sizes = random.Random(7)
        at = 0
        while at < len(CONTENT):
            count = sizes.choice([1, 100, 16_384, 70_000])
            secured.sendall(CONTENT[at : at + count])
            at += count
        secured.unwrap()

    with peer.serving(serve) as plain:
        stream = stream_over(plain)
        stream.sendall(b"begin")
        reader = stream.makefile("rb")
        sizes, got = random.Random(9), bytearray()
        while piece := reader.read(sizes.choice([1, 10, 65_536, 300_000])):
            got += piece
        assert bytes(got) == CONTENT
        assert reader.read(1) == b"", "it stays at its end"
    assert peer.failure is None or isinstance(peer.failure, ssl.SSLError), peer.failure


def test_much_is_sent_while_the_other_side_sends_too(peer: Peer) -> None:
    got = bytearray()

    def serve(secured: ssl.SSLSocket) -> None:
        while len(got) < len(CONTENT):
            got.extend(secured.recv(100_000))
        secured.sendall(b"thanks")

    with peer.serving(serve) as plain:
        stream = stream_over(plain)
        stream.sendall(CONTENT)
        assert stream.makefile("rb").read(6) == b"thanks"
    assert bytes(got) == CONTENT


def test_what_breaks_off_is_an_end(peer: Peer) -> None:
    def serve(secured: ssl.SSLSocket) -> None:
        secured.sendall(b"half of")
        secured.shutdown(socket.SHUT_RDWR)

    with peer.serving(serve) as plain:
        reader = stream_over(plain).makefile("rb")
        assert reader.read(100) == b"half of"
        assert reader.read(100) == b""


def test_an_answer_is_read_after_the_connection_is_closed(peer: Peer) -> None:
    with peer.serving(lambda secured: secured.sendall(b"the last answer")) as plain:
        stream = stream_over(plain)
        reader = stream.makefile("rb")
        stream.close()
        assert plain.fileno() >= 0
        assert reader.read(15) == b"the last answer"
        reader.close()
        reader.close()
        assert plain.fileno() < 0, "whoever holds it last closes it, once"


def test_a_certificate_is_believed_by_the_authority_and_the_name(
    peer: Peer, tmp_path: Path
) -> None:
    authority = str(peer.authority)
    with peer.serving(lambda secured: secured.sendall(b"x")) as plain:
        assert stream_over(plain, authority).makefile("rb").read(1) == b"x"
    other = Peer(tmp_path / "other", None)
    for server_ca, name in ((authority, "elsewhere"), (str(other.authority), "localhost")):
        with peer.serving(lambda secured: secured.sendall(b"x")) as plain:
            with pytest.raises(ssl.SSLCertVerificationError):
                stream_over(plain, server_ca, name)
            assert plain.fileno() < 0
        assert "alert" in str(peer.failure), "the other side is told why"


@pytest.mark.parametrize("content", [b"HTTP/1.1 200 OK\r\n\r\n", b"", b"\x16\x03\x01\xff\xff" * 9])
def test_what_is_no_tls_is_refused(content: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(content)
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(OSError, match=r"SSL|TLS|EOF"):
            stream_over(theirs)
        assert theirs.fileno() < 0


def test_content_that_was_altered_on_the_way_is_an_error(peer: Peer) -> None:
    """One byte of the encrypted stream is another one."""
    let_go = threading.Event()

    def serve(secured: ssl.SSLSocket) -> None:
        let_go.wait(10)
        with contextlib.suppress(OSError):
            secured.sendall(CONTENT[:10_000])

    with peer.serving(serve) as server_end:
        inner, outer = socket.socketpair()
        with outer:
            inner.settimeout(10)
            altered = threading.Event()
            pumps = [
                threading.Thread(target=pump, args=(outer, server_end, None)),
                threading.Thread(target=pump, args=(server_end, outer, altered)),
            ]
            for one in pumps:
                one.start()
            reader = stream_over(inner).makefile("rb")
            altered.set()
            let_go.set()
            with pytest.raises(ssl.SSLError):
                reader.read(10_000)
            inner.close()
            outer.shutdown(socket.SHUT_RDWR)
            server_end.shutdown(socket.SHUT_RDWR)
            for one in pumps:
                one.join(60)


def pump(source: socket.socket, to: socket.socket, altered: threading.Event | None) -> None:
    with contextlib.suppress(OSError):
        while content := bytearray(source.recv(65_536)):
            if altered is not None and altered.is_set():
                content[-1] ^= 1
            to.sendall(content)


def test_who_waits_is_woken(peer: Peer) -> None:
    over = threading.Event()
    with peer.serving(lambda _: over.wait(10)) as plain:
        stream = stream_over(plain)
        began = time.monotonic()
        threading.Timer(0.2, stream.shutdown, [socket.SHUT_RDWR]).start()
        assert stream.makefile("rb").read(10) == b""
        assert time.monotonic() - began < 5
        over.set()


def test_nothing_comes_for_too_long(peer: Peer) -> None:
    over = threading.Event()
    with peer.serving(lambda _: over.wait(10)) as plain:
        stream = stream_over(plain)
        plain.settimeout(0.1)
        with pytest.raises(TimeoutError):
            stream.makefile("rb").read(10)
        over.set()
