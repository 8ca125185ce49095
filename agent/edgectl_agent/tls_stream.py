"""A TLS connection that takes much from the network at a time, for `http.client`.

`ssl.SSLSocket` asks the kernel twice for every record of at most 16 KiB: once for its head of five
bytes, once for the rest. Here up to `RECEIVE_BYTES` come with one call, into memory, and are
decrypted from there (`ssl.MemoryBIO`), as asyncio does it. What it is worth is among the figures of
`python -m benchmarks.distribution.transfer`.
"""

from __future__ import annotations

import io
import socket
import ssl
from collections.abc import Callable

__all__ = ["RECEIVE_BYTES", "TlsStream"]

RECEIVE_BYTES = 512 * 1024
_BUFFER_BYTES = 16 * 1024


class TlsStream:
    """What `http.client` needs of a socket. Used by one thread, but for `shutdown`."""

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, server: str) -> None:
        """Shake hands over a connection, which is this object's from now on.

        Args:
            plain: connected, with the timeout of each wait.
            context: what is checked.
            server: the name that its certificate must be for, if the context checks that.

        Raises:
            OSError: the connection; also `ssl.SSLError`, `TimeoutError`. It is closed then.
        """
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server)
        self._received = memoryview(bytearray(RECEIVE_BYTES))
        self._holders = 1
        """The connection, and each reader of it: an answer may be read after the connection."""
        try:
            self._until_done(self._tls.do_handshake)
        except BaseException:
            plain.close()
            raise

    def sendall(self, content: bytes) -> None:
        """Encrypt and send; raise `OSError`."""
        self._until_done(lambda: self._tls.write(content))

    def receive_into(self, buffer: memoryview) -> int:
        """Fill `buffer` with what is there, at least one byte; return how many, 0 at the end.

        The other side may end the connection without saying so in TLS: the length of an answer
        tells whether it is whole.

        Raises:
            OSError: the connection; also `ssl.SSLError`, `TimeoutError`.
        """
        filled = 0
        while filled < len(buffer):
            try:
                count: int = self._tls.read(  # type: ignore[assignment] # not bytes, with a buffer
                    len(buffer) - filled, buffer[filled:]
                )
            except ssl.SSLWantReadError:
                if filled:
                    break
                self._send()  # an answer to what only TLS was told, such as a new key
                self._receive()
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                break
            if not count:
                break
            filled += count
        return filled

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a reader, which keeps the connection open until it is closed too."""
        assert mode == "rb", mode
        self._holders += 1
        return io.BufferedReader(_Reader(self), _BUFFER_BYTES)

    def shutdown(self, how: int) -> None:
        """End the connection under whoever waits for it; TLS says nothing to the other side."""
        self._plain.shutdown(how)

    def close(self) -> None:
        """Close it as soon as every reader is closed too."""
        self._holders -= 1
        if self._holders == 0:
            self._plain.close()

    def _until_done(self, step: Callable[[], object]) -> None:
        while True:
            try:
                step()
            except ssl.SSLWantReadError:
                self._send()
                self._receive()
            except ssl.SSLError:
                self._send()  # the alert that says why
                raise
            else:
                return self._send()

    def _send(self) -> None:
        if self._outgoing.pending:
            self._plain.sendall(self._outgoing.read())

    def _receive(self) -> None:
        count = self._plain.recv_into(self._received)
        if count:
            self._incoming.write(self._received[:count])
        else:
            self._incoming.write_eof()


class _Reader(io.RawIOBase):
    """The content, for `io.BufferedReader`."""

    def __init__(self, stream: TlsStream) -> None:
        super().__init__()
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._stream.receive_into(memoryview(buffer))

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._stream.close()
