"""The delta format: how one version of a file is made from another that the device has.

Bytes, as docs/deltas.md specifies them; numbers are unsigned LEB128 unless said otherwise::

    delta   ── header, program (zstd), payloads of the blocks, in order
    header  ── "EDLT", u8 version, u8 codec, 8 bytes of the base's SHA-256, 8 of the target's,
               base bytes, target bytes, program bytes, program bytes as compressed
    program ── probability tables, blocks
    block   ── u8 destination, lanes, words, raw bytes, parameter bytes, instructions
    payload ── parameters (zstd), states (u32 a lane), words (u16), raw bits, zstd of instructions

The program says everything about memory, ranges and lengths before a byte of the target is made:
`delta_programs.parse_program` reads it to the end and refuses what is outside the bounds. Nothing
here knows what a model is, nor how elements are coded: see ``edgectl_delta``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

__all__ = [
    "ALPHABETS",
    "BLOCKS_MAX",
    "BLOCK_ELEMENTS_MAX",
    "DICTIONARIES_BYTES_FREE",
    "DICTIONARY_BYTES_MAX",
    "DIGEST_BYTES",
    "ELEMENTS_A_STEP",
    "EXPONENT_MAX",
    "FACTORS_MAX",
    "FILE_BYTES_MAX",
    "FRAME_BYTES_MAX",
    "HEADER_BYTES_MAX",
    "HELD_BYTES_MAX",
    "INSTRUCTIONS_MAX",
    "ITEM_BYTES",
    "KEYS",
    "LANES_MAX",
    "MAGIC",
    "PROBABILITY_BITS",
    "PROGRAM_BYTES_MAX",
    "RANK_MAX",
    "RANK_SHIFT_MAX",
    "ROWS_MAX",
    "STEPS_FREE",
    "STEPS_MAX",
    "TABLES_MAX",
    "VERSION",
    "Block",
    "Codec",
    "Copy",
    "Destination",
    "Elements",
    "Frame",
    "Header",
    "Held",
    "Instruction",
    "Kind",
    "LowRank",
    "Predictor",
    "Tables",
]

MAGIC = b"EDLT"
VERSION = 1
DIGEST_BYTES = 8
"""Enough to see that a file is another one; what is believed is the signed digest."""
FILE_BYTES_MAX = 2**32
PROGRAM_BYTES_MAX = 2**18
HELD_BYTES_MAX = 8 * 2**20
DICTIONARY_BYTES_MAX = 8 * 2**20
FRAME_BYTES_MAX = 8 * 2**20
BLOCKS_MAX = 2**16
INSTRUCTIONS_MAX = 4096
"""In one block."""
BLOCK_ELEMENTS_MAX = 2**18
STEPS_MAX = 4096
"""Rounds of decoding, with one symbol a lane, in one block."""
STEPS_FREE = 2**16
ELEMENTS_A_STEP = 32
"""In all blocks together: so many steps, and one more for so many elements."""
LANES_MAX = 1024
ROWS_MAX = 2**17
"""In one block."""
DICTIONARIES_BYTES_FREE = 64 * 2**20
"""Of all frames together, beside four times base and target."""
RANK_MAX = 64
FACTORS_MAX = 2 * BLOCK_ELEMENTS_MAX
"""Of the products that one instruction adds."""
RANK_SHIFT_MAX = 15
EXPONENT_MAX = 256
KEYS = 64
PROBABILITY_BITS = 12
TABLES_MAX = 128
HEADER_BYTES_MAX = 4 + 2 + 2 * DIGEST_BYTES + 4 * 5
_U16 = 2


class Codec(IntEnum):
    """What the encoder chose; for reports, it decides nothing when a delta is applied."""

    WHOLE = 0
    PATCH = 1
    TENSOR = 2


class Destination(IntEnum):
    """Where a block's bytes go."""

    TARGET = 0
    HELD = 1
    DICTIONARY = 2


class Kind(IntEnum):
    """Types of elements, little endian."""

    F32 = 0
    F16 = 1
    BF16 = 2
    I8 = 3
    U8 = 4
    I32 = 5
    I16 = 6


class Predictor(IntEnum):
    """What an element is expected to be."""

    SAME = 0
    ROWS = 1
    RATIO = 2
    PRODUCT = 3
    ZERO = 4
    STEPS = 5


ITEM_BYTES = {
    Kind.F32: 4, Kind.F16: 2, Kind.BF16: 2, Kind.I8: 1, Kind.U8: 1, Kind.I32: 4, Kind.I16: 2,
}  # fmt: skip
ALPHABETS = {
    kind: 256 if size == 1 else 1 + 32 * size for kind, size in ITEM_BYTES.items()
}  # see `edgectl_delta.elements`


class Header(NamedTuple):
    """What a delta is for; digests are the first `DIGEST_BYTES` of SHA-256."""

    codec: Codec
    base_digest: bytes
    target_digest: bytes
    base_bytes: int
    target_bytes: int
    program_bytes: int
    packed_bytes: int


class Copy(NamedTuple):
    """Bytes of the base."""

    offset: int
    length: int


class Held(NamedTuple):
    """Bytes that an earlier block has left in the held ones."""

    offset: int
    length: int


class Frame(NamedTuple):
    """One zstd frame in the payload; what it refers to is a range of the base, or the dictionary.

    `offset` and `dictionary` are the range; the dictionary of earlier blocks if `own`.
    """

    offset: int
    dictionary: int
    own: bool
    packed: int
    length: int


class LowRank(NamedTuple):
    """A sum of outer products that is added to the rows of a matrix before it is corrected.

    Where elements go in steps, it is the steps that it is added to.

    Held are, all int16: the exponent of each row of the whole matrix, then for each product its
    factors by row, then for each product its factors by column.

    Attributes:
        held: offset in the held bytes.
        first: the row of the whole matrix that the elements begin with.
        rows: of the whole matrix.
        exponent: of two, of all products.
        shifts: for each product, how much more.
    """

    held: int
    first: int
    rows: int
    exponent: int
    shifts: tuple[int, ...]

    def length(self, columns: int) -> int:
        """Return how many bytes are held."""
        return 2 * (self.rows + len(self.shifts) * (self.rows + columns))


class Elements(NamedTuple):
    """Elements that are predicted and corrected.

    Attributes:
        kind: of the elements.
        predictor: what they are predicted from.
        size: how many.
        offset: of the elements in the base; unused by PRODUCT and ZERO. Of STEPS, what is predicted
            and corrected is how many steps lead from there, as int8.
        inner: elements after which the next row begins.
        rows: after which the first comes again.
        scale: offset of the base's scales, float32, one a row (RATIO).
        held: offset of the target's scales (RATIO) or factors (PRODUCT) in the held bytes.
        factor: bits of the float32 by which those are multiplied (PRODUCT).
        low_rank: what is added (ROWS, STEPS).
    """

    kind: Kind
    predictor: Predictor
    size: int
    offset: int = 0
    inner: int = 1
    rows: int = 1
    scale: int = 0
    held: int = 0
    factor: int = 0
    low_rank: LowRank | None = None

    @property
    def length(self) -> int:
        """Bytes that come of it."""
        return self.size * ITEM_BYTES[self.kind]

    @property
    def coded(self) -> Kind:
        """Of the integers whose symbols are in the payload: whose tables and keys are used."""
        return Kind.I8 if self.predictor is Predictor.STEPS else self.kind

    @property
    def has_parameters(self) -> bool:
        """Whether each row has a multiplier (ROWS), or a step's size (STEPS)."""
        return self.predictor in (Predictor.ROWS, Predictor.STEPS)


Instruction = Copy | Held | Frame | Elements


class Block(NamedTuple):
    """Instructions that share one payload."""

    destination: Destination
    lanes: int
    words: int
    raw: int
    parameters: int
    instructions: tuple[Instruction, ...]

    @property
    def elements(self) -> int:
        """Elements of all instructions."""
        return sum(one.size for one in self.instructions if isinstance(one, Elements))

    @property
    def rows(self) -> int:
        """Rows of all instructions: each has a shift among the parameters."""
        return sum(one.rows for one in self.instructions if isinstance(one, Elements))

    @property
    def multipliers(self) -> int:
        """Rows that have a multiplier, or a step's size, among the parameters."""
        return sum(
            one.rows
            for one in self.instructions
            if isinstance(one, Elements) and one.has_parameters
        )

    @property
    def length(self) -> int:
        """Bytes that come of it."""
        return sum(one.length for one in self.instructions)

    @property
    def payload(self) -> int:
        """Bytes of its payload."""
        frames = sum(one.packed for one in self.instructions if isinstance(one, Frame))
        return self.parameters + 4 * self.lanes + _U16 * self.words + self.raw + frames


class Tables(NamedTuple):
    """Probability tables: `maps` says by kind which one belongs to each key."""

    maps: dict[Kind, tuple[int, ...]]
    kinds: tuple[Kind, ...]
    frequencies: tuple[tuple[int, ...], ...]
