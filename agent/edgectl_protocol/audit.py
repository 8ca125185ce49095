"""The audit log: what a row is, how rows are chained, and how a chain is checked.

Rules:

- A row's hash is SHA-256 over ``edgectl-audit-1``, a line feed, and the row's `canonical` JSON
  without its hash: keys sorted, no spaces, UTF-8, no fractions. (It is RFC 8785 for such values.)
- A row holds the hash of the row before it; the first holds `GENESIS`. Numbers begin with 1 and
  have no gaps. So nothing can be changed, removed or put between without all later hashes changing.
- Whoever can write all rows can make a new chain. Therefore a *head*, which is the number and hash
  of the newest row, is signed now and then (Ed25519 over ``edgectl-audit-head-1``, a line feed, and
  the canonical JSON of the head without its signature) and kept elsewhere. Rows up to a signed head
  cannot be rewritten or cut off unnoticed; rows after the newest head can.

Everything here is pure: the signature itself is checked by who has the library for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from edgectl_protocol.errors import LimitExceeded, MalformedMessage

__all__ = [
    "GENESIS",
    "LINE_BYTES_MAX",
    "AuditEntry",
    "AuditHead",
    "AuditHeader",
    "ChainCheck",
    "Finding",
    "canonical",
    "decode_line",
    "entry_hash",
    "head_message",
]

GENESIS = "0" * 64
LINE_BYTES_MAX = 64 * 1024
"""Of an export; a row has about 500."""
_HEADS_MAX = 1_000_000

Outcome = Literal["done", "refused", "failed"]
Fault = Literal["missing", "order", "changed", "unlinked", "rewritten", "truncated"]


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One row. `at` is RFC 3339 in UTC; `previous` and `hash` are SHA-256 in hexadecimal."""

    number: int
    at: str
    actor: str
    """A user's name, ``device/<name>``, ``local/<account>`` on the command line, ``server``."""
    via: str
    """``session/<id>``, ``token/<id>``, ``command``, ``server``; empty for somebody unknown."""
    address: str
    """Of the client; empty when there is none."""
    action: str
    """The operation, as in the OpenAPI document; or the command."""
    object: str
    """What it was done to."""
    outcome: Outcome
    details: dict[str, Any]
    previous: str
    hash: str


class AuditHead(msgspec.Struct, frozen=True, kw_only=True):
    """The newest row at one moment, signed. `key` and `signature` are raw Ed25519, hexadecimal."""

    number: int
    hash: str
    at: str
    key: str
    signature: str


class AuditHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of an export."""

    format: Literal["edgectl-audit-1"]
    exported_at: str


class _Line(msgspec.Struct, frozen=True):
    """A line of an export holds one of these."""

    export: AuditHeader | None = None
    entry: AuditEntry | None = None
    head: AuditHead | None = None


class Finding(msgspec.Struct, frozen=True):
    """The first thing that is wrong with a chain."""

    number: int
    """Of the first row that cannot be believed."""
    fault: Fault
    meaning: str


_decoder = msgspec.json.Decoder(_Line)


def canonical(value: Any) -> bytes:
    """Return the canonical JSON of objects, lists, strings, integers, booleans and null."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def entry_hash(entry: AuditEntry) -> str:
    """Return what the hash of a row must be, whatever it says."""
    fields = msgspec.to_builtins(entry)
    del fields["hash"]
    return hashlib.sha256(b"edgectl-audit-1\n" + canonical(fields)).hexdigest()


def head_message(head: AuditHead) -> bytes:
    """Return the bytes that the signature of a head is over."""
    fields = msgspec.to_builtins(head)
    del fields["signature"]
    return b"edgectl-audit-head-1\n" + canonical(fields)


def decode_line(line: bytes) -> AuditHeader | AuditEntry | AuditHead:
    """Decode one line of an export.

    Raises:
        MalformedMessage: it is none.
        LimitExceeded: it is longer than `LINE_BYTES_MAX`.
    """
    if len(line) > LINE_BYTES_MAX:
        raise LimitExceeded(f"a line of an audit export has at most {LINE_BYTES_MAX} bytes")
    try:
        found = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"this is no line of an audit export: {error}") from error
    content = found.export or found.entry or found.head
    if content is None:
        raise MalformedMessage("this is no line of an audit export: it is empty")
    return content


class ChainCheck:
    """Checks rows one after the other, beginning with number 1, against signed heads.

    Give it heads whose signatures have been checked, then every row, then ask for `finish`.
    """

    def __init__(self, heads: Iterable[AuditHead] = ()) -> None:
        self._heads: dict[int, AuditHead] = {}
        self._conflict: Finding | None = None
        self.number = 0
        """Of the newest row that was right."""
        self.anchored = 0
        """Of the newest row that a head vouches for."""
        self._hash = GENESIS
        self._finding: Finding | None = None
        for head in heads:
            self.add_head(head)

    def add_head(self, head: AuditHead) -> None:
        """Take a head; two different ones of one number are a finding of their own.

        Raises:
            LimitExceeded: there are too many.
        """
        if len(self._heads) >= _HEADS_MAX:
            raise LimitExceeded(f"more than {_HEADS_MAX} signed heads")
        known = self._heads.setdefault(head.number, head)
        if known.hash != head.hash and self._conflict is None:
            self._conflict = Finding(
                head.number,
                "rewritten",
                f"row {head.number} was signed twice with different content, at {known.at} and at "
                f"{head.at}: the rows before it were rewritten in between",
            )

    def add(self, entry: AuditEntry) -> Finding | None:
        """Check the next row; return the first finding of all, None as long as all is well."""
        if self._finding is None:
            self._finding = self._check(entry)
            if self._finding is None:
                self.number, self._hash = entry.number, entry.hash
                if entry.number in self._heads:
                    self.anchored = entry.number
        return self._finding

    def finish(self) -> Finding | None:
        """Say what is wrong after the last row; None: the chain is whole."""
        if self._finding is None:
            newest = max(self._heads, default=0)
            if newest > self.number:
                self._finding = Finding(
                    self.number + 1,
                    "truncated",
                    f"rows {self.number + 1} to {newest} are missing at the end: row {newest} "
                    f"existed at {self._heads[newest].at}, when its hash was signed",
                )
        return self._finding or self._conflict

    def _check(self, entry: AuditEntry) -> Finding | None:
        due = self.number + 1
        if entry.number > due:
            last = entry.number - 1
            rows = f"row {due} is" if last == due else f"rows {due} to {last} are"
            return Finding(due, "missing", f"{rows} missing: removed, or never given out")
        if entry.number < due:
            return Finding(
                entry.number,
                "order",
                f"row {entry.number} comes after row {self.number}: put in, or put elsewhere",
            )
        try:
            right = entry_hash(entry) == entry.hash
        except (ValueError, RecursionError):  # nothing that was ever written
            right = False
        if not right:
            return Finding(due, "changed", f"row {due} was changed after it had been written")
        if entry.previous != self._hash:
            return Finding(
                due,
                "unlinked",
                f"row {due} does not follow row {self.number}: one of the two was replaced",
            )
        head = self._heads.get(due)
        if head is not None and head.hash != entry.hash:
            return Finding(
                self.anchored + 1,
                "rewritten",
                f"row {due} is not the one whose hash was signed at {head.at}: a new chain was "
                f"made of the rows from {self.anchored + 1} on",
            )
        return None
