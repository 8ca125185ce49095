"""The memory of the pipeline's trials: rows in the database, their models in the blob store.

What a child has left is believed about that child's own inputs only: the key of a trial is a digest
over everything that it was made of (`pipeline.known.trial_key`). What was not used for longest is
forgotten when the models need more than a limit; nothing that was used within a day, so that no
blob vanishes while a push publishes the same content.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from edgectl_server.errors import NotFound, Unavailable
from edgectl_server.pipeline.known import KNOWN_FOLDER, Measured
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Blob, KnownTrial

__all__ = ["KnownTrials"]

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,120}")
_TRIALS_MAX = 256
"""Of one key."""
_ROW_BYTES_MAX = 64 * 1024
_KEPT_FOR = timedelta(days=1)
_FORGOTTEN_AT_ONCE = 256


class KnownTrials:
    """Brings what is known into the folder of a run, and keeps what is new there."""

    def __init__(
        self, database: Database, blobs: BlobStore, now: Callable[[], datetime], *, bytes_max: int
    ) -> None:
        """Take what it needs; `bytes_max` bounds the models in all."""
        self._database = database
        self._blobs = blobs
        self._now = now
        self._bytes_max = bytes_max

    def bring(self, key: str, directory: Path) -> int:
        """Make the folder of known trials, fill it, and return how many there are."""
        folder = directory / KNOWN_FOLDER
        folder.mkdir(exist_ok=True)
        with self._database.write() as session:
            rows = session.scalars(select(KnownTrial).where(KnownTrial.key == key)).all()
            session.execute(
                update(KnownTrial)
                .where(KnownTrial.key == key)
                .values(used_at=self._now())
                .execution_options(synchronize_session=False)
            )
        brought = 0
        for row in rows:
            try:
                if row.model is not None:
                    self._blobs.copy_to(row.model, folder / f"{row.recipe}.onnx")
            except (NotFound, Unavailable):
                continue  # it is made anew
            (folder / f"{row.recipe}.json").write_bytes(msgspec.json.encode(row.measured))
            brought += 1
        return brought

    def keep(self, key: str, directory: Path) -> int:
        """Take what is new from the folder, and return how much that is."""
        with self._database.read() as session:
            known = set(session.scalars(select(KnownTrial.recipe).where(KnownTrial.key == key)))
        kept = 0
        for recipe, measured in _trials_in(directory / KNOWN_FOLDER):
            if recipe in known or len(known) + kept >= _TRIALS_MAX:
                continue
            row = self._row(key, recipe, measured, directory / KNOWN_FOLDER / f"{recipe}.onnx")
            if row is not None:
                with self._database.write() as session:
                    session.merge(row)
                kept += 1
        return kept

    def forget(self) -> int:
        """Remove what was not used for longest, beyond the limit; return how many rows."""
        with self._database.write() as session:
            total = session.scalar(select(func.sum(KnownTrial.size))) or 0
            oldest = (
                select(KnownTrial)
                .where(KnownTrial.used_at < self._now() - _KEPT_FOR)
                .order_by(KnownTrial.used_at, KnownTrial.key, KnownTrial.recipe)
                .limit(_FORGOTTEN_AT_ONCE)
            )
            forgotten = 0
            for row in session.scalars(oldest).all():
                if total <= self._bytes_max:
                    break
                total -= row.size
                forgotten += 1
                session.delete(row)
                session.flush()
                self._discard(session, row.model)
        return forgotten

    def _row(self, key: str, recipe: str, measured: Measured, path: Path) -> KnownTrial | None:
        model, size = None, 0
        if not measured.skipped:
            try:
                if not stat.S_ISREG(os.lstat(path).st_mode):
                    return None
                model, size = self._blobs.add_file(path), path.stat().st_size
            except OSError:
                return None
            if model != measured.digest:
                return None  # it changed after it was measured, or never was what it says
        document: dict[str, Any] = msgspec.to_builtins(measured)
        return KnownTrial(
            key=key, recipe=recipe, measured=document, model=model, size=size, used_at=self._now()
        )

    def _discard(self, session: Session, model: str | None) -> None:
        """Remove a model that nothing else is, or may still be, made of."""
        if model is None or session.get(Blob, model) is not None:
            return
        other = select(KnownTrial.key).where(KnownTrial.model == model).limit(1)
        if session.scalar(other) is None:
            self._blobs.delete(model)


def _trials_in(folder: Path) -> Iterator[tuple[str, Measured]]:
    """Yield what the child has left, as far as it is readable."""
    for path in sorted(folder.glob("*.json"))[: 2 * _TRIALS_MAX]:
        if _NAME.fullmatch(path.stem) is None:
            continue
        with contextlib.suppress(OSError, msgspec.MsgspecError, RecursionError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                content = file.read(_ROW_BYTES_MAX + 1)
            if len(content) <= _ROW_BYTES_MAX:
                yield path.stem, msgspec.json.decode(content, type=Measured)
