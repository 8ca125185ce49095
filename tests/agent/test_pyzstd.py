"""Frames of deltas by pyzstd, which Debian 13 has, beside the library that everybody else has."""

from __future__ import annotations

import random

import pytest

from edgectl_delta import frames, pyzstd_names
from edgectl_protocol.errors import DeltaRefused

BASE = random.Random(3).randbytes(300_000)
TARGET = BASE[:150_000] + b"something else" + BASE[150_000:]
CASES = {
    "nothing": (b"", b""),
    "alone": (b"a sentence, " * 1000, b""),
    "against a prefix": (TARGET, BASE),
    "too short a prefix": (b"x" * 100, b"1234567"),
}


@pytest.fixture
def on_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "zstd", pyzstd_names)


@pytest.mark.parametrize("case", CASES)
def test_each_reads_what_the_other_writes(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, prefix = CASES[case]
    theirs = frames.pack(content, prefix)
    monkeypatch.setattr(frames, "zstd", pyzstd_names)
    ours = frames.pack(content, prefix)
    assert frames.unpack(theirs, len(content), prefix) == content
    assert len(ours) <= len(theirs) + 64
    monkeypatch.undo()
    assert frames.unpack(ours, len(content), prefix) == content


@pytest.mark.usefixtures("on_debian")
@pytest.mark.parametrize(
    ("frame", "length"),
    [
        (frames.pack(b"y" * 5000)[:-3], 5000),
        (frames.pack(b"y" * 5000) + b"more", 5000),
        (frames.pack(b"y" * 5000), 4999),
        (frames.pack(b"y" * 5000), 5001),
        (b"\xff" * 40, 100),
        (b"", 1),
    ],
    ids=["cut off", "something behind it", "too long", "too short", "rubbish", "nothing"],
)
def test_what_is_wrong_is_refused(frame: bytes, length: int) -> None:
    with pytest.raises(DeltaRefused):
        frames.unpack(frame, length)


@pytest.mark.usefixtures("on_debian")
def test_a_window_beyond_the_bound_is_refused() -> None:
    for window_log in (23, 24):
        # RFC 8878: a descriptor without a length, the window, and one raw block of one byte.
        frame = bytes([0, window_log - 10 << 3, 1 << 3 | 1, 0, 0]) + b"z"
        if window_log == 23:
            assert frames.unpack(frame, 1) == b"z"
        else:
            with pytest.raises(DeltaRefused):
                frames.unpack(frame, 1)
