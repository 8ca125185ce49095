"""The agent's last log lines, in memory, for whoever asks for them from afar.

Rules: bounded in bytes, the oldest line goes first; a line is a JSON object with ``time``,
``level``, ``logger`` and ``text``, at most `LINE_BYTES_MAX` long. What looks like a secret is taken
out before it is kept: our tokens, private keys, passwords in addresses, PINs of PKCS#11, bearer
tokens, and what the settings hold.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Collection
from datetime import UTC, datetime
from itertools import islice

import msgspec

from edgectl_protocol.log_lines import LogLine

__all__ = ["LINE_BYTES_MAX", "RING_BYTES_MAX", "LogLine", "LogRing", "without_secrets"]

RING_BYTES_MAX = 256 * 1024
LINE_BYTES_MAX = 4096
_TEXT_CHARACTERS_MAX = 2048
_HIDDEN = "…"
_SECRETS = (
    (re.compile(r"\b(ee_[0-9a-f]{4})[0-9a-f]{12}_[A-Za-z0-9_-]+"), r"\1" + _HIDDEN),
    (re.compile(r"\b(edgectl_[0-9a-f]{4})[0-9a-f]*_[A-Za-z0-9_-]+"), r"\1" + _HIDDEN),
    (re.compile(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*-----|\Z)"), _HIDDEN),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), r"\1 " + _HIDDEN),
    (re.compile(r"(://[^/\s:@]{0,64}:)[^/\s@]{1,256}@"), r"\1" + _HIDDEN + "@"),
    (re.compile(r"(?i)\b(pin-value|password|passphrase|secret|token)(\s*[=:]\s*)[^\s;&,]+"),
     r"\1\2" + _HIDDEN),
)  # fmt: skip
_SECRET_LENGTH_MIN = 4
_PLAIN = logging.Formatter()


class LogRing(logging.Handler):
    """Keeps the newest lines; any thread may log."""

    def __init__(self, secrets: Collection[str] = (), *, bytes_max: int = RING_BYTES_MAX) -> None:
        """Begin empty; `secrets` are taken out wherever they occur."""
        super().__init__()
        self._own = tuple(one for one in secrets if len(one) >= _SECRET_LENGTH_MIN)
        self._bytes_max = bytes_max
        self._lines: deque[tuple[datetime, bytes]] = deque()
        self._bytes = 0
        self._position = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line; called by `logging`, with the handler's lock."""
        try:
            text = record.getMessage()
            if record.exc_info:
                text += "\n" + _PLAIN.formatException(record.exc_info)
            at = datetime.fromtimestamp(record.created, UTC)
            line = LogLine(
                time=at,
                level=record.levelname.lower(),
                logger=record.name[:128],
                text=without_secrets(text[: 4 * _TEXT_CHARACTERS_MAX], self._own)[
                    :_TEXT_CHARACTERS_MAX
                ],
            )
            self._keep(at, _encoded(line))
        except Exception:  # noqa: BLE001 - a log line must never end what was logged about
            self.handleError(record)

    def lines(self, since: datetime | None = None) -> list[tuple[datetime, bytes]]:
        """Return the lines with their times, the oldest first; None: all."""
        self.acquire()
        try:
            return [one for one in self._lines if since is None or one[0] >= since]
        finally:
            self.release()

    @property
    def position(self) -> int:
        """How many lines were kept so far: the number that the next one gets, from 0."""
        return self._position

    def after(self, position: int) -> tuple[int, list[tuple[datetime, bytes]]]:
        """Return the lines from number `position` on, and the number of the first of them.

        That is a higher one where lines have gone in the meantime.
        """
        if position >= self._position:  # nothing new, as nearly always
            return position, []
        self.acquire()
        try:
            oldest = self._position - len(self._lines)
            first = max(position, oldest)
            return first, list(islice(self._lines, first - oldest, None))
        finally:
            self.release()

    def _keep(self, at: datetime, line: bytes) -> None:
        self._lines.append((at, line))
        self._position += 1
        self._bytes += len(line)
        while self._bytes > self._bytes_max:
            self._bytes -= len(self._lines.popleft()[1])


def without_secrets(text: str, own: Collection[str] = ()) -> str:
    """Return `text` without what looks like a secret, and without those of `own`."""
    for secret in own:
        text = text.replace(secret, _HIDDEN)
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _encoded(line: LogLine) -> bytes:
    content = msgspec.json.encode(line)
    if len(content) > LINE_BYTES_MAX:  # many characters of several bytes
        text = line.text[: LINE_BYTES_MAX // 8]
        content = msgspec.json.encode(msgspec.structs.replace(line, text=text))
    return content
