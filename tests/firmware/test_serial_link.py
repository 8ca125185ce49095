"""The serial line of a board: frames in both languages, the link in C on a simulated flash."""

from __future__ import annotations

import contextlib
import random
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgectl_agent.errors import StepCancelled, StepFailed, StepRejected
from edgectl_agent.gateway.board import HEADER_BYTES, Board, Status, digest_in
from edgectl_agent.gateway.frames import CODED_MAX, PAYLOAD_MAX, Frame, FrameReader, encode_frame
from edgectl_server.pipeline.flat_reference import run_flat
from firmware.crafted_flat import middle_model, tiny_model
from firmware.fuzz import serial_conversation
from firmware.programs import CORE, ROOT, Programs
from firmware.serial_line import POWER_CUT, SerialBoard, install
from vectors.make_firmware import NAME, bundle
from waiting import wait_for

Build = Callable[..., Programs]
LINK = ROOT / "firmware-examples/pico-uart/link.h"


@pytest.fixture(scope="module")
def programs(build: Build) -> Programs:
    """The board and the fuzzer of its line, with sanitizers."""
    return build("gcc", "serial_board", "fuzz_link_corpus")


@pytest.fixture
def serial(programs: Programs, bundles: Path, tmp_path: Path) -> Iterator[SerialBoard]:
    """A board with a blank flash, powered off."""
    command = [programs.folder / "serial_board", tmp_path / "flash", bundles / "key", NAME]
    with SerialBoard(command, tmp_path / "board.log") as one:
        yield one


# ---------------------------------------------------------------- frames


def test_frames_come_back_whole_in_any_pieces() -> None:
    chosen = random.Random(1)
    for length in (0, 1, 253, 254, 255, 256, 508, 509, PAYLOAD_MAX):
        for values in (b"\0", b"\1", bytes(range(256)), b"\0\1"):
            payload = bytes(chosen.choice(values) for _ in range(length))
            frame = Frame(chosen.randrange(256), chosen.randrange(256), payload)
            coded = encode_frame(frame)
            assert coded.count(0) == 2
            assert len(coded) <= CODED_MAX + 2
            reader, found, at = FrameReader(), [], 0
            while at < len(coded):
                step = chosen.randint(1, 40)
                found += reader.feed(coded[at : at + step])
                at += step
            assert (found, reader.dropped) == ([frame], 0)


def test_what_is_damaged_is_dropped_and_the_next_frame_is_found() -> None:
    chosen, good = random.Random(2), Frame(1, 2, b"after")
    for _ in range(3000):
        coded = bytearray(
            encode_frame(Frame(3, 4, chosen.randbytes(chosen.randint(1, PAYLOAD_MAX))))
        )
        for _ in range(chosen.randint(1, 3)):
            coded[chosen.randrange(1, len(coded) - 1)] ^= 1 << chosen.randrange(8)
        assert list(FrameReader().feed(bytes(coded) + encode_frame(good)))[-1] == good


def test_a_reader_keeps_no_more_than_one_frame() -> None:
    reader = FrameReader()
    for _ in range(100):
        assert list(reader.feed(b"\1" * 100_000)) == []
        assert len(reader._coded) <= CODED_MAX
    assert list(reader.feed(encode_frame(Frame(1, 2, b"x")))) == [Frame(1, 2, b"x")]
    assert reader.dropped == 1


def test_both_languages_have_the_same_numbers() -> None:
    names = re.findall(r"^    EDGECTL_(\w+)", (CORE / "status.h").read_text(), re.MULTILINE)
    assert {one.name: one.value for one in Status if one < 64} == {
        name: number for number, name in enumerate(names)
    }
    _, _, refusals = LINK.read_text().partition("enum link_refusal {")
    found = re.findall(r"^    LINK_(\w+)", refusals.partition("}")[0], re.MULTILINE)
    assert [one.name for one in Status if one >= 64] == found


# ---------------------------------------------------------------- a board that is well


def test_first_boot_commit_replay_rollback(serial: SerialBoard) -> None:
    first, second = bundle(tiny_model(1), 1), bundle(tiny_model(2), 2)
    serial.start()
    with serial.board() as board:
        hello = board.hello()
        assert (hello.counter, hello.running, hello.model) == (0, b"", NAME)
        assert hello.booted == Status.NO_MODEL
        with pytest.raises(StepFailed, match=r"firmware\.no_model"):
            board.infer(b"\0")
        assert install(board, first) == len(first) - HEADER_BYTES
        hello = board.hello()
        assert (hello.counter, hello.floor) == (1, 1)
        assert hello.runs(digest_in(first))
        with pytest.raises(StepRejected, match=r"firmware\.not_newer"):
            install(board, first)

        bad = bundle(tiny_model(3), 3, wrong=True)
        install(board, bad)
        hello = board.hello()
        assert (hello.counter, hello.floor) == (1, 1), "what ran before runs again"
        assert hello.has_rejected(digest_in(bad))
        with pytest.raises(StepRejected, match=r"firmware\.rejected"):
            install(board, bad)

        install(board, second)
        assert board.hello().counter == 2
        for damaged, code in (
            (bundle(tiny_model(4), 4, name="tinier"), "other_model"),
            (second[:20] + b"\1" + second[21:], "bad_signature"),
            (b"EMB2" + second[4:], "bad_bundle"),
            (second[:-1] + b"\1", "bad_payload"),
            (second[:HEADER_BYTES], "bad_bundle"),
        ):
            with pytest.raises(StepRejected, match=rf"firmware\.{code}"):
                install(board, damaged)
        assert board.hello().dropped == 0
    assert serial.stop() == 0, "no bit was programmed from 0 to 1"


def test_answers_are_those_of_the_reference(serial: SerialBoard) -> None:
    model = middle_model(5)
    serial.start()
    with serial.board() as board:
        install(board, bundle(model, 1))
        first = model.tensors[model.input]
        shape = (8, first.channels, first.height, first.width)
        inputs = np.random.default_rng(7).integers(-128, 128, shape).astype(np.int8)
        outputs = run_flat(model, inputs)
        for values, output in zip(inputs, outputs, strict=True):
            assert board.infer(values.tobytes())[0] == output.tobytes()
        with pytest.raises(StepFailed, match=r"board\.input"):
            board.infer(b"\0")


# ---------------------------------------------------------------- a bad line, a cut, a liar


def test_a_line_that_damages_and_loses_bytes(serial: SerialBoard) -> None:
    """One piece in six to the board has a wrong bit, or is lost: it takes longer, no more."""
    chosen, damages = random.Random(5), []

    def garble(content: bytes) -> bytes:
        if chosen.random() > 1 / 6:
            return content
        damages.append(content)
        damaged = bytearray(content)
        damaged[chosen.randrange(len(damaged))] ^= 1 << chosen.randrange(8)
        return bytes(damaged) if chosen.random() < 0.5 else b""

    serial.patience = 0.1
    serial.garble = garble
    content = bundle(middle_model(2), 1)
    serial.start()
    with serial.board() as board:
        wait_for(lambda: _installed(board, content), "it has come through", bound_s=120)
        serial.garble = bytes
        assert len(damages) > 5
        assert board.hello().runs(digest_in(content))


def _installed(board: Board, content: bytes) -> bool:
    try:
        if not board.hello().runs(digest_in(content)):
            install(board, content)
    except StepFailed:
        return False  # four tries were not enough: the agent, too, comes again
    return True


def test_the_power_is_cut_at_every_operation(serial: SerialBoard) -> None:
    """After each cut the old model or the new one runs, and the same update succeeds."""
    old, new = bundle(tiny_model(1), 1), bundle(tiny_model(2), 2)
    flash = Path(str(serial.command[1]))
    serial.start()
    with serial.board() as board:
        install(board, old)
        serial.stop()
        before = flash.read_bytes()
        outcomes: list[int] = []
        for cut in range(100):
            flash.write_bytes(before)
            serial.start(cut)
            board._line.close()
            with serial.board(cancelled=serial.ended) as cut_board:
                _cut_short(cut_board, new)
            was_cut = serial.ended()
            code = serial.stop()
            assert code == (POWER_CUT if was_cut else 0)
            serial.start()
            outcomes.append(board.hello().counter)
            assert _installed(board, new)
            assert board.hello().counter == 2
            assert serial.stop() == 0
            if not was_cut:
                break
    assert 5 < len(outcomes) < 100
    assert set(outcomes) == {1, 2}
    assert outcomes[-1] == 2


def _cut_short(board: Board, content: bytes) -> None:
    """Install until it is done, or the power is cut."""
    with contextlib.suppress(StepCancelled):
        hello = board.hello()
        board.stage(content, hello)
        board.end(content, hello)
        board.reset()
        board.hello()


def test_what_has_come_is_not_sent_again(serial: SerialBoard) -> None:
    content = bundle(middle_model(2), 1)
    serial.start()
    with serial.board() as board:
        hello = board.hello()
        sector = hello.sector_bytes
        assert len(content) > 2 * sector

        def die(done: int) -> None:
            if done >= 2 * sector:
                serial.stop()

        board._patience = 0.1
        with pytest.raises(StepFailed, match=r"board\.silent"):
            board.stage(content, hello, die)
        board._patience = 1.0
        serial.start()
        assert install(board, content) == len(content) - 2 * sector


def test_who_lies_on_the_line_changes_nothing(programs: Programs, serial: SerialBoard) -> None:
    """Requests in a wrong order, of wrong lengths, at wrong places, in good frames."""
    content = bundle(tiny_model(2), 2)
    serial.start()
    with serial.board() as board:
        install(board, bundle(tiny_model(1), 1))
        ask = board._ask
        pack = struct.pack
        assert ask(99)[0] == Status.UNKNOWN
        assert ask(2, content[:100])[0] == Status.MALFORMED
        assert ask(5)[0] == Status.NOT_BEGUN
        assert ask(3, pack("<II", 0, 4096) + bytes(32))[0] == Status.NOT_BEGUN
        assert ask(4, pack("<I", 0) + bytes(16))[0] == Status.NOT_BEGUN
        assert ask(2, content[:HEADER_BYTES])[0] == Status.OK
        for start, length in ((1, 16), (0, 0), (0, 1 << 20), (1 << 30, 4096), (4096, 1), (0, 8192)):
            assert ask(3, pack("<II", start, length) + bytes(32))[0] == Status.MALFORMED
        assert ask(4, pack("<I", HEADER_BYTES) + bytes(16))[0] == Status.NOT_BEGUN, "no part"
        whole = min(4096, len(content))
        assert ask(3, pack("<II", 0, whole) + bytes(32)) == bytes((Status.OK, 0))
        assert ask(4, pack("<I", 0) + bytes(16))[0] == Status.ELSEWHERE
        assert ask(4, pack("<I", HEADER_BYTES) + bytes(512))[0] in {Status.OK, Status.BAD_PAYLOAD}
        assert ask(5)[0] in {Status.BAD_PAYLOAD, Status.FLASH_FAILED}
        for kind, payload in (
            (7, pack("<I", 1 << 31) + b"x"),
            (7, pack("<I", 0) + bytes(516)),
            (9, pack("<II", 1, 1 << 31)),
            (9, pack("<II", 1 << 31, 1)),
            (9, b""),
        ):
            assert ask(kind, payload)[0] == Status.MALFORMED
        board.reset()
        assert board.hello().counter == 1
        install(board, content)
        assert board.hello().counter == 2
    assert serial.stop() == 0


class Liar:
    """A line on whose end somebody answers as he likes."""

    def __init__(self, kind: str) -> None:
        self.kind, self.chosen = kind, random.Random(11)
        self.reader, self.answers = FrameReader(), b""

    def write(self, content: bytes) -> None:
        for frame in self.reader.feed(content):
            self.answers += self.answer(frame)

    def answer(self, frame: Frame) -> bytes:
        kind, number = frame.kind | 0x80, frame.number
        match self.kind:
            case "silent":
                return b""
            case "random":
                return self.chosen.randbytes(self.chosen.randint(0, 2000))
            case "short":
                return encode_frame(Frame(kind, number, b""))
            case "other":
                return encode_frame(Frame(kind, number ^ 1, bytes(192)))
        payload = bytes((0, 1)) + self.chosen.randbytes(self.chosen.randint(0, PAYLOAD_MAX - 2))
        return encode_frame(Frame(kind, number, payload))

    def read(self, _timeout_s: float) -> bytes:
        given, self.answers = self.answers, b""
        return given

    def close(self) -> None:
        """Begin anew; nothing is to be done."""


@pytest.mark.parametrize("kind", ["silent", "random", "short", "other", "wrong lengths"])
def test_a_board_that_lies_is_a_failure_and_nothing_worse(kind: str) -> None:
    """Whatever comes back is a documented failure, within the time."""
    content = bundle(tiny_model(1), 1)
    moments = iter(range(10**9))
    board = Board(Liar(kind), patience=0.01, elapsed=lambda: next(moments) / 10_000)
    hello = board_hello()
    for _ in range(30):
        with pytest.raises(StepFailed, match=r"^board\.(silent|protocol)"):
            board.hello()
        with pytest.raises(StepFailed, match=r"^board\.(silent|protocol)"):
            board.infer(bytes(4))
        with contextlib.suppress(StepFailed):  # a whole installation may be lied
            board.stage(content, hello)
        with contextlib.suppress(StepFailed):
            board.end(content, hello)


def board_hello() -> Any:
    """Return what an honest board might say."""
    from edgectl_agent.gateway.board import Hello

    return Hello(
        on_trial=False, booted=0, data_bytes=512, sector_bytes=4096, slot_bytes=24 * 1024,
        arena_bytes=65536, input_bytes=4, output_bytes=4, dropped=0, counter=0, floor=0,
        rejected=bytes(8), running=b"", model=NAME, board="host",
        memory_bytes=65536, machine="none",
    )  # fmt: skip


def test_the_line_s_parser_under_damage(programs: Programs, tmp_path: Path) -> None:
    """A whole conversation, damaged at random, in each run; libFuzzer: `make fuzz-firmware`."""
    chosen, files = random.Random(9), []
    good = serial_conversation(bundle(tiny_model(1), 1))
    for number in range(200):
        content = bytearray(good)
        for _ in range(chosen.randint(0, 6)):
            content[chosen.randrange(len(content))] = chosen.randrange(256)
        del content[chosen.randint(1, len(content)) if number % 4 == 0 else len(content) :]
        files.append(tmp_path / str(number))
        files[-1].write_bytes(content)
    assert programs.run("fuzz_link_corpus", *files).stdout == "200 files\n"
