"""A reader of FlatBuffers for hostile files: nothing is read outside the file, and not for ever.

Only what a check needs: tables, their scalars, strings, and vectors of scalars and of tables.
Offsets may overlap, so that a small file can name the same table many times; what has been read is
counted, and there is an end to it. Source: FlatBuffers' ``docs/source/internals.md``.

::

    file ── u32 root table, 4 bytes identifier
    table ── i32 back to its vtable, fields
    vtable ── u16 its size, u16 the table's size, u16 offset of each field in the table; 0: default
    vector ── u32 elements, elements; of tables: u32 forward to each
    string ── u32 bytes, bytes
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Damaged", "Table", "TooMuch", "root_table"]

_STRING_BYTES_MAX = 1024
_VTABLE_BYTES_MAX = 4 + 2 * 64
_DTYPES = {size: np.dtype(f"<i{size}") for size in (1, 4, 8)}


class Damaged(Exception):
    """An offset or a length leads out of the file."""


class TooMuch(Exception):
    """More was read than any model of the allowed size needs."""


class _File:
    """The bytes, and how much may still be read."""

    def __init__(self, content: bytes, elements_max: int) -> None:
        self.content = content
        self._left = elements_max

    def scalar(self, form: struct.Struct, place: int) -> Any:
        self.spend(1)
        if place < 0 or place + form.size > len(self.content):
            raise Damaged(f"{form.size} bytes at {place} are outside of the file")
        return form.unpack_from(self.content, place)[0]

    def spend(self, elements: int) -> None:
        self._left -= elements
        if self._left < 0:
            raise TooMuch

    def vector(self, place: int, size: int) -> tuple[int, int]:
        """Return where the elements of a vector begin, and how many there are."""
        start = place + self.scalar(_U32, place)
        count = self.scalar(_U32, start)
        if start + 4 + count * size > len(self.content):
            raise Damaged(f"{count} elements at {start} are outside of the file")
        return start + 4, count


_I8, _U8, _U16 = struct.Struct("<b"), struct.Struct("<B"), struct.Struct("<H")
_I32, _U32, _U64 = struct.Struct("<i"), struct.Struct("<I"), struct.Struct("<Q")
_FORMS = {"i8": _I8, "u8": _U8, "i32": _I32, "u32": _U32, "u64": _U64}


def root_table(content: bytes, *, elements_max: int) -> Table:
    """Return the root of a file.

    Args:
        content: the file.
        elements_max: scalars, elements and tables that may be read in all.

    Raises:
        Damaged: here, and by whatever is read of the table.
        TooMuch: by whatever is read of the table.
    """
    file = _File(content, elements_max)
    return Table(file, file.scalar(_U32, 0))


class Table:
    """A table; fields by their number in the schema."""

    def __init__(self, file: _File, place: int) -> None:
        self._file, self._place = file, place
        self._vtable = place - file.scalar(_I32, place)
        self._vtable_bytes = file.scalar(_U16, self._vtable)
        if not 4 <= self._vtable_bytes <= _VTABLE_BYTES_MAX:  # noqa: PLR2004 - its own two sizes
            raise Damaged(f"a table of {self._vtable_bytes} bytes of offsets")

    def has(self, field: int) -> bool:
        """Say whether the field is there."""
        return self._at(field) is not None

    def number(self, field: int, form: str, default: int = 0) -> int:
        """Return a scalar; `form` is ``i8``, ``u8``, ``i32``, ``u32`` or ``u64``."""
        place = self._at(field)
        return default if place is None else int(self._file.scalar(_FORMS[form], place))

    def text(self, field: int) -> str:
        """Return a string, at most so much of it as a name has; empty where there is none."""
        place = self._at(field)
        if place is None:
            return ""
        start, count = self._file.vector(place, 1)
        content = self._file.content[start : start + min(count, _STRING_BYTES_MAX)]
        return content.decode("utf-8", "replace")

    def length(self, field: int, size: int = 1) -> int:
        """Return how many elements of `size` bytes a vector has, without reading them."""
        place = self._at(field)
        return 0 if place is None else self._file.vector(place, size)[1]

    def range(self, field: int, size: int = 1) -> tuple[int, int]:
        """Return where the elements of a vector begin in the file, and how many there are."""
        place = self._at(field)
        return (0, 0) if place is None else self._file.vector(place, size)

    def integers(self, field: int, size: int = 4) -> list[int]:
        """Return a vector of signed integers of `size` bytes."""
        return [int(value) for value in self._array(field, _DTYPES[size])]

    def floats(self, field: int) -> list[float]:
        """Return a vector of 32-bit floats."""
        return [float(value) for value in self._array(field, np.dtype("<f4"))]

    def tables(self, field: int) -> list[Table]:
        """Return a vector of tables."""
        place = self._at(field)
        if place is None:
            return []
        start, count = self._file.vector(place, 4)
        self._file.spend(count)
        places = range(start, start + 4 * count, 4)
        return [Table(self._file, one + self._file.scalar(_U32, one)) for one in places]

    def table(self, field: int) -> Table | None:
        """Return a table, or None where there is none."""
        place = self._at(field)
        if place is None:
            return None
        return Table(self._file, place + self._file.scalar(_U32, place))

    def _array(self, field: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        place = self._at(field)
        if place is None:
            return np.empty(0, dtype)
        start, count = self._file.vector(place, dtype.itemsize)
        self._file.spend(count)
        return np.frombuffer(self._file.content, dtype, count, start)

    def _at(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry + 2 > self._vtable_bytes:
            return None
        offset = self._file.scalar(_U16, self._vtable + entry)
        return self._place + offset if offset else None
