"""The chain of the audit log: whatever is done to it is found, at the right row."""

import contextlib
import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl_protocol.audit import (
    GENESIS,
    LINE_BYTES_MAX,
    AuditEntry,
    AuditHead,
    ChainCheck,
    canonical,
    decode_line,
    entry_hash,
    head_message,
)
from edgectl_protocol.errors import LimitExceeded, MalformedMessage, ProtocolError


def made(number: int, previous: str, **changed) -> AuditEntry:
    fields = {
        "number": number,
        "at": f"2026-11-23T03:48:{number:02}.000000Z",
        "actor": "ana",
        "via": "session/00",
        "address": "192.0.2.1",
        "action": "start_rollout",
        "object": f"r{number}",
        "outcome": "done",
        "details": {"devices": number, "note": "ü"},
        "previous": previous,
        "hash": "",
        **changed,
    }
    entry = AuditEntry(**fields)
    return msgspec.structs.replace(entry, hash=entry_hash(entry))


def chain(length: int) -> list[AuditEntry]:
    rows: list[AuditEntry] = []
    for number in range(1, length + 1):
        rows.append(made(number, rows[-1].hash if rows else GENESIS))
    return rows


def head(row: AuditEntry) -> AuditHead:
    return AuditHead(number=row.number, hash=row.hash, at=row.at, key="k", signature="s")


def check(rows, heads=()):
    checked = ChainCheck(heads)
    for row in rows:
        checked.add(row)
    finding = checked.finish()
    return None if finding is None else (finding.fault, finding.number)


def rechained(rows: list[AuditEntry]) -> list[AuditEntry]:
    """What somebody makes who can write every row: new numbers, new hashes."""
    made_anew: list[AuditEntry] = []
    for number, row in enumerate(rows, 1):
        previous = made_anew[-1].hash if made_anew else GENESIS
        entry = msgspec.structs.replace(row, number=number, previous=previous)
        made_anew.append(msgspec.structs.replace(entry, hash=entry_hash(entry)))
    return made_anew


ROWS = chain(9)
HEADS = [head(ROWS[3]), head(ROWS[7])]


def test_a_whole_chain_is_whole():
    assert check([]) is None
    assert check(ROWS) is None
    assert check(ROWS, HEADS) is None


@pytest.mark.parametrize(
    ("name", "rows", "finding"),
    [
        ("deleted", [*ROWS[:4], *ROWS[5:]], ("missing", 5)),
        ("first deleted", ROWS[1:], ("missing", 1)),
        ("several deleted", [*ROWS[:2], *ROWS[6:]], ("missing", 3)),
        ("reordered", [*ROWS[:3], ROWS[4], ROWS[3], *ROWS[5:]], ("missing", 4)),
        ("inserted", [*ROWS[:5], made(6, ROWS[4].hash, actor="eve"), *ROWS[5:]], ("order", 6)),
        ("twice", [*ROWS[:5], ROWS[4], *ROWS[5:]], ("order", 5)),
        (
            "changed",
            [*ROWS[:4], msgspec.structs.replace(ROWS[4], actor="eve"), *ROWS[5:]],
            ("changed", 5),
        ),
        (
            "details changed",
            [*ROWS[:4], msgspec.structs.replace(ROWS[4], details={}), *ROWS[5:]],
            ("changed", 5),
        ),
        (
            "details of no kind that is written",
            [*ROWS[:4], msgspec.structs.replace(ROWS[4], details={"x": float("nan")})],
            ("changed", 5),
        ),
        ("replaced", [*ROWS[:4], made(5, ROWS[3].hash, actor="eve"), *ROWS[5:]], ("unlinked", 6)),
        ("another beginning", [made(1, "f" * 64)], ("unlinked", 1)),
    ],
)
def test_without_a_head_what_is_broken_is_found(name, rows, finding):
    assert check(rows) == finding


@pytest.mark.parametrize(
    ("name", "rows", "finding"),
    [
        ("tail cut off", ROWS[:7], ("truncated", 8)),
        ("everything cut off", [], ("truncated", 1)),
        ("deleted and chained anew", rechained([*ROWS[:5], *ROWS[6:]]), ("rewritten", 5)),
        (
            "changed and chained anew",
            rechained([msgspec.structs.replace(ROWS[0], actor="eve"), *ROWS[1:]]),
            ("rewritten", 1),
        ),
        ("a chain of one's own", rechained(ROWS[2:] + ROWS[:2]), ("rewritten", 1)),
    ],
)
def test_with_heads_a_new_chain_is_found(name, rows, finding):
    assert check(rows) is None  # alone, it looks whole
    assert check(rows, HEADS) == finding


def test_what_is_after_the_newest_head_can_be_cut_off():
    """The limit of it, and why heads are signed often."""
    assert check(ROWS[:8], HEADS) is None


def test_two_heads_of_one_row_tell_of_a_rewriting():
    other = msgspec.structs.replace(HEADS[0], hash="f" * 64)
    assert check(ROWS, [*HEADS, other]) == ("rewritten", 4)


@given(
    st.lists(st.sampled_from(ROWS), max_size=12),
    st.lists(st.sampled_from(HEADS), max_size=3),
)
def test_only_a_beginning_of_the_chain_passes(rows, heads):
    passed = check(rows, heads) is None
    newest = max((one.number for one in heads), default=0)
    assert passed == (rows == ROWS[: len(rows)] and len(rows) >= newest)


@given(st.binary(max_size=300))
def test_lines_of_an_export_are_hostile(line):
    with contextlib.suppress(ProtocolError):
        decode_line(line)


def test_lines():
    line = msgspec.json.encode({"entry": ROWS[0]})
    assert decode_line(line) == ROWS[0]
    with pytest.raises(LimitExceeded):
        decode_line(b" " * (LINE_BYTES_MAX + 1))
    for none in (b"{}", b"[]", b'{"entry": {}}', b'{"export": {"format": "edgectl-audit-2"}}'):
        with pytest.raises(MalformedMessage):
            decode_line(none)


def test_the_encoding_is_the_documented_one():
    """So that others can check a log: the text here was written by hand."""
    text = (
        "edgectl-audit-1\n"
        '{"action":"start_rollout","actor":"ana","address":"192.0.2.1",'
        '"at":"2026-11-23T03:48:01.000000Z","details":{"devices":1,"note":"ü"},"number":1,'
        f'"object":"r1","outcome":"done","previous":"{GENESIS}","via":"session/00"}}'
    )
    assert ROWS[0].hash == hashlib.sha256(text.encode()).hexdigest()
    assert canonical({"b": [1, True, None], "a": "ü\n\u2028"}) == (
        '{"a":"ü\\n\u2028","b":[1,true,null]}'.encode()
    )
    assert head_message(HEADS[0]).startswith(b'edgectl-audit-head-1\n{"at":"2026-')
    assert b"signature" not in head_message(HEADS[0])
