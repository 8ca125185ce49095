"""Headers and programs of deltas as bytes: read within bounds, and written.

The grammar is in `edgectl_protocol.deltas`. A program is read to its end before anything is made,
so that what it asks for in all is known; its blocks are read again when they are carried out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import TypeVar

from edgectl_protocol.deltas import (
    ALPHABETS,
    BLOCK_ELEMENTS_MAX,
    BLOCKS_MAX,
    DICTIONARIES_BYTES_FREE,
    DICTIONARY_BYTES_MAX,
    DIGEST_BYTES,
    ELEMENTS_A_STEP,
    EXPONENT_MAX,
    FACTORS_MAX,
    FILE_BYTES_MAX,
    FRAME_BYTES_MAX,
    HELD_BYTES_MAX,
    INSTRUCTIONS_MAX,
    KEYS,
    LANES_MAX,
    MAGIC,
    PROBABILITY_BITS,
    PROGRAM_BYTES_MAX,
    RANK_MAX,
    RANK_SHIFT_MAX,
    ROWS_MAX,
    STEPS_FREE,
    STEPS_MAX,
    TABLES_MAX,
    VERSION,
    Block,
    Codec,
    Copy,
    Destination,
    Elements,
    Frame,
    Header,
    Held,
    Instruction,
    Kind,
    LowRank,
    Predictor,
    Tables,
)
from edgectl_protocol.errors import DeltaRefused

__all__ = ["Program", "parse_header", "parse_program", "write_header", "write_program"]

_VARINT_BYTES_MAX = 5
_E = TypeVar("_E", bound=IntEnum)


class Program:
    """A checked program; blocks are read anew each time, so that they take no memory."""

    def __init__(self, content: bytes, header: Header) -> None:
        self._content = content
        self._header = header
        reader = _Reader(content)
        self.tables = _read_tables(reader)
        self.count = reader.number(BLOCKS_MAX)
        self._start = reader.place

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks.

        Raises:
            DeltaRefused: one is outside the bounds.
        """
        reader = _Reader(self._content, self._start)
        state = _State(self._header, self.tables)
        for _ in range(self.count):
            block = _read_block(reader, state)
            state.add(block)
            yield block
        reader.end()


def parse_header(content: bytes) -> tuple[Header, int]:
    """Return the header that `content` begins with, and its length.

    Raises:
        DeltaRefused: it is none, or one of another version, or out of bounds.
    """
    if content[:4] != MAGIC[: len(content)]:
        raise DeltaRefused("delta.malformed", "it does not begin as a delta does")
    reader = _Reader(content, 4)
    version = reader.byte()
    if version != VERSION:
        raise DeltaRefused("delta.version", f"version {version}, known is {VERSION}")
    codec = _member(Codec, reader.byte(), "codec")
    base_digest, target_digest = reader.take(DIGEST_BYTES), reader.take(DIGEST_BYTES)
    limits = (FILE_BYTES_MAX, FILE_BYTES_MAX, PROGRAM_BYTES_MAX, PROGRAM_BYTES_MAX)
    numbers = [reader.number(limit) for limit in limits]
    return Header(codec, base_digest, target_digest, *numbers), reader.place


def write_header(header: Header) -> bytes:
    """Return the bytes of `header`."""
    numbers = (header.base_bytes, header.target_bytes, header.program_bytes, header.packed_bytes)
    return b"".join(
        (
            MAGIC,
            bytes((VERSION, header.codec)),
            header.base_digest[:DIGEST_BYTES],
            header.target_digest[:DIGEST_BYTES],
            *map(_varint, numbers),
        )
    )


def parse_program(content: bytes, header: Header) -> Program:
    """Check a program to its end and return it.

    Raises:
        DeltaRefused: it is malformed, out of bounds, or does not make a target of the length that
            the header says.
    """
    if len(content) != header.program_bytes:
        raise DeltaRefused("delta.malformed", "the program has another length than the header says")
    program = Program(content, header)
    made = sum(
        block.length for block in program.blocks() if block.destination is Destination.TARGET
    )
    if made != header.target_bytes:
        raise DeltaRefused("delta.malformed", f"it makes {made} bytes of {header.target_bytes}")
    return program


def write_program(tables: Tables, blocks: Sequence[Block]) -> bytes:
    """Return the bytes of a program."""
    out = bytearray()
    out += _varint(sum(1 << kind for kind in tables.maps))
    out += _varint(len(tables.frequencies))
    for kind in sorted(tables.maps):
        out += bytes(tables.maps[kind])
    for kind, row in zip(tables.kinds, tables.frequencies, strict=True):
        out.append(kind)
        for frequency, length in _runs(row):
            out += _varint(frequency) + _varint(length)
    out += _varint(len(blocks))
    state = _Cursors()
    for block in blocks:
        out.append(block.destination)
        for number in (
            block.lanes, block.words, block.raw, block.parameters, len(block.instructions)
        ):  # fmt: skip
            out += _varint(number)
        for one in block.instructions:
            out += _write_instruction(one, state)
    return bytes(out)


class _Cursors:
    """Where the last instruction ended: offsets are written as the distance to that."""

    base = 0
    held = 0


class _State(_Cursors):
    """What earlier blocks have made."""

    def __init__(self, header: Header, tables: Tables) -> None:
        self.base_bytes = header.base_bytes
        self.target_left = header.target_bytes
        self.tables = tables
        self.held_bytes = 0
        self.dictionary_bytes = 0
        self.dictionaries_left = DICTIONARIES_BYTES_FREE + 4 * (
            header.base_bytes + header.target_bytes
        )
        self.steps_left = STEPS_FREE

    def add(self, block: Block) -> None:
        """Count what a block makes; refuse what is too much."""
        match block.destination:
            case Destination.TARGET:
                self.target_left -= block.length
            case Destination.HELD:
                self.held_bytes += block.length
            case Destination.DICTIONARY:
                self.dictionary_bytes += block.length
        if block.lanes:
            self.steps_left += block.elements // ELEMENTS_A_STEP
            self.steps_left -= -(-block.elements // block.lanes)
        for one in block.instructions:
            if isinstance(one, Frame):
                self.dictionaries_left -= one.dictionary
        if self.steps_left < 0 or self.dictionaries_left < 0:
            raise DeltaRefused("delta.limit", "it asks for more work than a delta needs")
        if self.target_left < 0:
            raise DeltaRefused("delta.malformed", "it makes more than the target's length")
        if self.held_bytes > HELD_BYTES_MAX or self.dictionary_bytes > DICTIONARY_BYTES_MAX:
            raise DeltaRefused("delta.limit", "it keeps more bytes than the device has for it")

    def check_base(self, offset: int, length: int) -> None:
        if not 0 <= offset <= self.base_bytes - length:
            raise DeltaRefused(
                "delta.range", f"{length} bytes at {offset} of a base of {self.base_bytes}"
            )

    def check_held(self, offset: int, length: int) -> None:
        if not 0 <= offset <= self.held_bytes - length:
            raise DeltaRefused(
                "delta.range", f"{length} held bytes at {offset}, {self.held_bytes} are held"
            )


class _Reader:
    """Reads bytes that may end anywhere."""

    def __init__(self, content: bytes, place: int = 0) -> None:
        self._content = content
        self.place = place

    def take(self, length: int) -> bytes:
        part = self._content[self.place : self.place + length]
        if len(part) != length:
            raise DeltaRefused("delta.truncated", "it ends within a field")
        self.place += length
        return part

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self, limit: int) -> int:
        """Return a number of at most `limit`."""
        value = 0
        for position in range(_VARINT_BYTES_MAX):
            part = self.byte()
            value |= (part & 127) << (7 * position)
            if part < 128:  # noqa: PLR2004  # the last one
                if value > limit:
                    raise DeltaRefused("delta.limit", f"a number of {value}, at most {limit}")
                return value
        raise DeltaRefused("delta.malformed", "a number that does not end")

    def distance(self) -> int:
        """Return a signed number."""
        value = self.number(2**34)
        return value >> 1 ^ -(value & 1)

    def end(self) -> None:
        if self.place != len(self._content):
            raise DeltaRefused("delta.malformed", "bytes behind the last block")


def _member(members: type[_E], value: int, what: str) -> _E:
    try:
        return members(value)
    except ValueError as error:
        raise DeltaRefused("delta.malformed", f"a {what} of {value}") from error


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:  # noqa: PLR2004
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _signed(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _read_tables(reader: _Reader) -> Tables:
    mask = reader.number((1 << len(Kind)) - 1)
    count = reader.number(TABLES_MAX)
    maps = {kind: tuple(reader.take(KEYS)) for kind in Kind if mask >> kind & 1}
    kinds, rows = [], []
    for _ in range(count):
        kind = _member(Kind, reader.byte(), "kind")
        row = _read_row(reader, ALPHABETS[kind])
        if sum(row) != 1 << PROBABILITY_BITS:
            raise DeltaRefused("delta.malformed", "probabilities that do not add up to one")
        kinds.append(kind)
        rows.append(row)
    for kind, named in maps.items():
        if any(table >= count or kinds[table] is not kind for table in named):
            raise DeltaRefused("delta.malformed", "a key's table is none of its kind")
    return Tables(maps, tuple(kinds), tuple(rows))


def _read_row(reader: _Reader, width: int) -> tuple[int, ...]:
    row: list[int] = []
    while len(row) < width:
        frequency = reader.number(1 << PROBABILITY_BITS)
        length = reader.number(width - len(row))
        if length == 0:
            raise DeltaRefused("delta.malformed", "a run of no symbols")
        row += [frequency] * length
    return tuple(row)


def _runs(row: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield each frequency with how often it comes in a row."""
    start = 0
    for place in range(1, len(row) + 1):
        if place == len(row) or row[place] != row[start]:
            yield row[start], place - start
            start = place


def _read_block(reader: _Reader, state: _State) -> Block:
    destination = _member(Destination, reader.byte(), "destination")
    lanes = reader.number(LANES_MAX)
    words = reader.number(4 * BLOCK_ELEMENTS_MAX)
    raw = reader.number(4 * BLOCK_ELEMENTS_MAX)
    parameters = reader.number(8 * ROWS_MAX)
    count = reader.number(INSTRUCTIONS_MAX)
    instructions = tuple(_read_instruction(reader, state) for _ in range(count))
    block = Block(destination, lanes, words, raw, parameters, instructions)
    if not all(one.length for one in instructions):
        raise DeltaRefused("delta.malformed", "an instruction that makes nothing")
    if block.elements > min(BLOCK_ELEMENTS_MAX, lanes * STEPS_MAX) or block.rows > ROWS_MAX:
        raise DeltaRefused("delta.limit", "a block of too many elements, rows or steps")
    return block


def _read_instruction(reader: _Reader, state: _State) -> Instruction:
    what = reader.byte()
    match what >> 4:
        case 0:
            copied = Copy(state.base + reader.distance(), reader.number(FILE_BYTES_MAX))
            state.check_base(*copied)
            state.base = copied.offset + copied.length
            return copied
        case 1:
            held = Held(state.held + reader.distance(), reader.number(HELD_BYTES_MAX))
            state.check_held(*held)
            state.held = held.offset + held.length
            return held
        case 2:
            return _read_frame(reader, state, own=bool(what & 1))
        case 3 | 4 | 5 | 6 | 7 | 8:
            return _read_elements(reader, state, Predictor((what >> 4) - 3), what & 15)
    raise DeltaRefused("delta.malformed", f"an instruction of {what}")


def _read_frame(reader: _Reader, state: _State, *, own: bool) -> Frame:
    offset = dictionary = 0
    if own:
        dictionary = state.dictionary_bytes
    else:
        offset = state.base + reader.distance()
        dictionary = reader.number(DICTIONARY_BYTES_MAX)
        state.check_base(offset, dictionary)
        state.base = offset + dictionary
    packed = reader.number(2 * FRAME_BYTES_MAX)
    return Frame(offset, dictionary, own, packed, reader.number(FRAME_BYTES_MAX))


def _read_elements(reader: _Reader, state: _State, predictor: Predictor, kind: int) -> Elements:
    made = Elements(_member(Kind, kind, "kind"), predictor, reader.number(BLOCK_ELEMENTS_MAX))
    if made.coded not in state.tables.maps:
        raise DeltaRefused("delta.malformed", "elements of a kind without probabilities")
    if predictor is Predictor.PRODUCT:
        if made.kind is not Kind.F32:
            raise DeltaRefused("delta.malformed", "a product of another kind than float32")
        made = made._replace(inner=max(made.size, 1), held=reader.number(HELD_BYTES_MAX))
        state.check_held(made.held, made.length)
        return made._replace(factor=int.from_bytes(reader.take(4), "little"))
    if predictor is not Predictor.ZERO:
        made = made._replace(offset=state.base + reader.distance())
        state.check_base(made.offset, made.length)
        state.base = made.offset + made.length
    made = made._replace(
        inner=max(reader.number(BLOCK_ELEMENTS_MAX), 1), rows=max(reader.number(ROWS_MAX), 1)
    )
    if made.has_parameters:
        return made._replace(low_rank=_read_low_rank(reader, state, made))
    if predictor is Predictor.RATIO:
        made = made._replace(
            scale=reader.number(FILE_BYTES_MAX), held=reader.number(HELD_BYTES_MAX)
        )
        state.check_base(made.scale, 4 * made.rows)
        state.check_held(made.held, 4 * made.rows)
    return made


def _read_low_rank(reader: _Reader, state: _State, one: Elements) -> LowRank | None:
    rank = reader.number(RANK_MAX)
    if not rank:
        return None
    held, first, rows = (reader.number(limit) for limit in (HELD_BYTES_MAX, ROWS_MAX, ROWS_MAX))
    made = LowRank(held, first, rows, reader.distance(), tuple(reader.take(rank)))
    state.check_held(held, made.length(one.inner))
    if one.inner * one.rows != one.size or first + one.rows > rows:
        raise DeltaRefused("delta.malformed", "a sum of products of another shape")
    if rank * (one.rows + one.inner) > FACTORS_MAX:
        raise DeltaRefused("delta.limit", "products of more factors than a device has memory for")
    if abs(made.exponent) > EXPONENT_MAX or max(made.shifts) > RANK_SHIFT_MAX:
        raise DeltaRefused("delta.limit", "products beyond what is computed exactly")
    return made


def _write_low_rank(one: LowRank | None) -> bytes:
    if one is None:
        return _varint(0)
    numbers = b"".join(map(_varint, (len(one.shifts), one.held, one.first, one.rows)))
    return numbers + _signed(one.exponent) + bytes(one.shifts)


def _write_instruction(one: Instruction, state: _Cursors) -> bytes:
    match one:
        case Copy(offset, length):
            out = b"\x00" + _signed(offset - state.base) + _varint(length)
            state.base = offset + length
        case Held(offset, length):
            out = b"\x10" + _signed(offset - state.held) + _varint(length)
            state.held = offset + length
        case Frame(offset, dictionary, own, packed, length):
            out = b"\x21" if own else b"\x20"
            if not own:
                out += _signed(offset - state.base) + _varint(dictionary)
                state.base = offset + dictionary
            out += _varint(packed) + _varint(length)
        case Elements():
            out = bytes(((one.predictor + 3) << 4 | one.kind,)) + _varint(one.size)
            if one.predictor is Predictor.PRODUCT:
                return out + _varint(one.held) + one.factor.to_bytes(4, "little")
            if one.predictor is not Predictor.ZERO:
                out += _signed(one.offset - state.base)
                state.base = one.offset + one.length
            out += _varint(one.inner) + _varint(one.rows)
            if one.has_parameters:
                out += _write_low_rank(one.low_rank)
            if one.predictor is Predictor.RATIO:
                out += _varint(one.scale) + _varint(one.held)
    return out
