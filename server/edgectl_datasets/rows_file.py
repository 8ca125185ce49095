"""``rows.parquet``: rows in, rows out, with one schema and within bounds.

Written by pyarrow as Parquet 2.6 with zstd. A file from elsewhere is believed no further than its
schema, its number of rows and its values are as `documents` says. pyarrow is imported when there is
a file: a server that starts has none.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, cast

from edgectl_datasets.documents import ROWS_MAX, SPLITS, Row
from edgectl_datasets.errors import BadDataset

__all__ = ["ROWS_BYTES_MAX", "ROWS_FILE", "decode_rows", "encode_rows"]

ROWS_FILE = "rows.parquet"
ROWS_BYTES_MAX = 64 * 1024**2
_UNPACKED_BYTES_MAX = 256 * 1024**2
_TEXT_BYTES_MAX = 1024
_PATTERNS = {
    "sample": re.compile(r"[0-9a-f]{16}"),
    "split": re.compile("|".join(SPLITS)),
    "model_digest": re.compile(r"sha256:[0-9a-f]{64}"),
    "blob": re.compile(r"[0-9a-f]{64}"),
}


@cache
def _schema() -> Any:
    """Return the columns in the order of the fields of `Row`: type, and whether null is allowed."""
    import pyarrow as pa

    text, number = pa.string(), pa.int32()
    columns = {
        "sample": (text, False),
        "split": (text, False),
        "label": (text, True),
        "class": (number, False),
        "device": (text, False),
        "site": (text, False),
        "reason": (text, False),
        "captured_at": (pa.timestamp("us", tz="UTC"), False),
        "model_digest": (text, False),
        "answer": (number, False),
        "confidence": (pa.float64(), True),
        "blob": (text, False),
    }
    return pa.schema(
        [pa.field(name, kind, nullable=null) for name, (kind, null) in columns.items()]
    )


def _texts() -> list[str]:
    return [field.name for field in _schema() if field.type == "string"]


def encode_rows(rows: Sequence[Row]) -> bytes:
    """Return the file."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema()
    columns = zip(*rows, strict=True) if rows else ([] for _ in schema)
    arrays = [
        pa.array(list(values), field.type) for values, field in zip(columns, schema, strict=True)
    ]
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_arrays(arrays, schema=schema), file, compression="zstd")
    return file.getvalue()


def decode_rows(content: bytes) -> list[Row]:
    """Return the rows.

    Raises:
        BadDataset: ``dataset.rows``: no such file, other columns, too many rows, values that are
            none of theirs.
    """
    import pyarrow as pa
    from pyarrow import parquet

    if len(content) > ROWS_BYTES_MAX:
        raise _bad(f"it has {len(content)} bytes, at most {ROWS_BYTES_MAX}")
    try:
        _check_head(parquet.ParquetFile(io.BytesIO(content)))
        table = parquet.ParquetFile(io.BytesIO(content), read_dictionary=_texts()).read()
        _check_texts(table)
        rows = [Row(*values) for values in zip(*table.to_pydict().values(), strict=True)]
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        raise _bad(f"it cannot be read: {error}"[:500]) from error
    return [_checked(row._replace(captured_at=_utc(row.captured_at))) for row in rows]


def _check_head(file: Any) -> None:
    """Refuse what would not fit, before anything is unpacked."""
    head = file.metadata
    if head.num_rows > ROWS_MAX:
        raise _bad(f"{head.num_rows} rows, at most {ROWS_MAX}")
    unpacked = sum(head.row_group(one).total_byte_size for one in range(head.num_row_groups))
    if unpacked > _UNPACKED_BYTES_MAX:
        raise _bad(f"unpacked it would have {unpacked} bytes, at most {_UNPACKED_BYTES_MAX}")
    found = {field.name: (_plain(field.type), field.nullable) for field in file.schema_arrow}
    schema = _schema()
    if list(found) != schema.names:
        raise _bad(f"columns {list(found)[:20]}, expected {schema.names}")
    for field in schema:
        if found[field.name] != (field.type, field.nullable):
            raise _bad(f"the column {field.name} is {found[field.name][0]}, expected {field.type}")


def _plain(kind: Any) -> Any:
    from pyarrow import types

    return kind.value_type if types.is_dictionary(kind) else kind


def _check_texts(table: Any) -> None:
    """Refuse long texts while each is there once, as in the file, and not once a row."""
    from pyarrow import compute

    for name in _texts():
        for chunk in table.column(name).chunks:
            longest = compute.max(compute.binary_length(chunk.dictionary)).as_py() or 0
            if longest > _TEXT_BYTES_MAX:
                raise _bad(f"a text of {longest} bytes as {name}, at most {_TEXT_BYTES_MAX}")


def _checked(row: Row) -> Row:
    fields = row._asdict()
    for name, pattern in _PATTERNS.items():
        if not pattern.fullmatch(fields[name]):
            raise _bad(f"{str(fields[name])[:80]!r} as {name} of the sample {row.sample[:16]}")
    if (row.label is None) != (row.number == -1) or row.number < -1 or row.answer < -1:
        raise _bad(f"label {row.label!r} of class {row.number}, sample {row.sample}")
    if row.confidence is not None and not 0 <= row.confidence <= 1:
        raise _bad(f"a confidence of {row.confidence}, sample {row.sample}")
    return row


def _utc(at: object) -> datetime:
    return cast("datetime", at).astimezone(UTC)


def _bad(detail: str) -> BadDataset:
    return BadDataset("dataset.rows", f"{ROWS_FILE}: {detail}")
