"""What the update machine remembers, line by line, each line with a check sum.

Rules:

1. Every line is a whole `Record`; the last good one counts. The lines before it are a trail that
   ``edgectl-agent status`` can show.
2. A torn last line is what a power loss leaves: it was never acted upon, because the machine acts
   after `Journal.save` has returned. Nothing is written behind it.
3. A long journal is replaced by its last line, in one step.
4. What is read is written anew, its newest lines, before it is believed: an agent that was killed
   between writing and synchronizing, or just after that has failed, has left lines that every
   reader sees and a power loss takes. Synchronizing them again does not help: Linux takes what it
   could not write for written (``fsync(2)``, "Errors"). Where the disk is full or read-only, they
   are believed all the same, so that the device comes up and serves, and the next line replaces
   the whole.
5. A journal without any good line is put aside and a new one begun: models go on serving, and the
   server's next order is taken whatever its number. It is logged.
"""

from __future__ import annotations

import errno
import hashlib
import logging
from contextlib import suppress

import msgspec

from edgectl_agent.core.record import EMPTY, Record, decode_record
from edgectl_agent.durable import PRIVATE, Disk
from edgectl_protocol.errors import MalformedMessage

__all__ = ["JOURNAL_BYTES_MAX", "KEPT_BYTES", "Journal", "last_record", "records_of"]

JOURNAL_BYTES_MAX = 256 * 1024
"""A longer journal is replaced by its last line."""
KEPT_BYTES = 64 * 1024
"""How much of the trail a start keeps."""
_PATH = "journal"
_DAMAGED_PATH = "journal.damaged"
_READ_BYTES_MAX = 4 * 1024 * 1024
_SUM_DIGITS = 16
_CANNOT_WRITE = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT})
_log = logging.getLogger(__name__)


class Journal:
    """The journal of one state directory."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._size = 0
        self._torn = True  # until it has been read or rewritten

    def load(self) -> Record:
        """Return the last record; raise `OSError`."""
        try:
            content = self._disk.read(_PATH, _READ_BYTES_MAX)
        except FileNotFoundError:
            return EMPTY
        found, clean = last_record(content)
        if found is None:
            self._put_aside(content)
            return EMPTY
        good = (clean and _newest(content)) or _line(found)
        try:
            self._disk.write_atomic(_PATH, good, PRIVATE)
        except OSError as error:
            if error.errno not in _CANNOT_WRITE:
                raise
            _log.error("the journal cannot be written: %s", error)
        else:
            self._size, self._torn = len(good), False
        return found

    def _put_aside(self, content: bytes) -> None:
        if not content:
            return
        _log.error("the journal is damaged: kept as %s, beginning anew", _DAMAGED_PATH)
        try:
            self._disk.rename_durably(_PATH, _DAMAGED_PATH)
        except OSError as error:  # models are served all the same, and `save` replaces it
            _log.error("the damaged journal cannot be kept: %s", error)

    def save(self, record: Record) -> None:
        """Return when `record` would survive a power loss; raise `OSError`."""
        line = _line(record)
        if self._torn or self._size + len(line) > JOURNAL_BYTES_MAX:
            self._rewrite(record)
            return
        self._torn = True  # an append that fails half-way leaves half a line
        self._disk.append_durably(_PATH, line)
        self._size, self._torn = self._size + len(line), False

    def _rewrite(self, record: Record) -> None:
        line = _line(record)
        self._disk.write_atomic(_PATH, line, PRIVATE)
        self._size, self._torn = len(line), False


def last_record(content: bytes) -> tuple[Record | None, bool]:
    """Return the last good line's record, and whether nothing stands behind it."""
    *lines, tail = content.split(b"\n")
    for number, line in enumerate(reversed(lines)):
        try:
            return _decode(line), not tail and number == 0
        except MalformedMessage:  # of a later agent, perhaps
            continue
    return None, False


def records_of(content: bytes) -> list[Record]:
    """Return the records of all good lines, the oldest first."""
    records = []
    for line in content.split(b"\n")[:-1]:
        with suppress(MalformedMessage):
            records.append(_decode(line))
    return records


def _newest(content: bytes) -> bytes:
    """Return the last whole lines that are `KEPT_BYTES` together at most; none for a longer one."""
    if len(content) <= KEPT_BYTES:
        return content
    return content[-KEPT_BYTES:].partition(b"\n")[2]


def _decode(line: bytes) -> Record:
    digits, _, text = line.partition(b" ")
    if digits != _check_sum(text):
        raise MalformedMessage("a torn line")
    return decode_record(text)


def _line(record: Record) -> bytes:
    text = msgspec.json.encode(record)
    return _check_sum(text) + b" " + text + b"\n"


def _check_sum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:_SUM_DIGITS].encode()
