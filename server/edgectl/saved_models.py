"""A TensorFlow SavedModel is a folder; what is pushed is one file: a ZIP archive of it.

The same content gives the same bytes on every machine: names are sorted, nothing is compressed (an
archive would depend on the version of zlib), and neither times nor owners are in it.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgectl.errors import LocalError

__all__ = ["one_file"]

_MODEL_FILE = "saved_model.pb"
_FILES_MAX = 10_000
_BYTES_MAX = 1024**3
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)
_HINT = "push a file, or the folder that TensorFlow's model.export or tf.saved_model.save has made"


@contextmanager
def one_file(model: Path) -> Iterator[Path]:
    """Yield `model`, or an archive of it where it is a folder; the archive is removed at the end.

    Raises:
        LocalError: ``push.folder``: it is no SavedModel, too large, or holds links.
    """
    if not model.is_dir():
        yield model
        return
    files = _files(model)
    name = model.resolve().name or "model"
    with tempfile.TemporaryDirectory(prefix="edgectl-push-") as folder:
        archive = Path(folder) / f"{name}.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
            for path in files:
                entry = zipfile.ZipInfo(path.relative_to(model).as_posix(), _FIRST_DATE)
                entry.external_attr = 0o100644 << 16
                entry.file_size = path.stat().st_size
                with path.open("rb") as source, packed.open(entry, "w") as target:
                    shutil.copyfileobj(source, target)
        yield archive


def _files(model: Path) -> list[Path]:
    """Return the files of a SavedModel, sorted."""
    if not (model / _MODEL_FILE).is_file():
        raise LocalError("push.folder", f"{model} holds no {_MODEL_FILE}: no SavedModel", _HINT)
    files: list[Path] = []
    size = 0
    for path in sorted(model.rglob("*"), key=lambda one: one.relative_to(model).as_posix()):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise LocalError("push.folder", f"{path} is a link or a device", "copy the file there")
        if path.is_file():
            files.append(path)
            size += path.stat().st_size
        if len(files) > _FILES_MAX or size > _BYTES_MAX:
            raise LocalError(
                "push.folder",
                f"{model} has more than {_FILES_MAX} files or {_BYTES_MAX} bytes",
                "devices take models of up to 256 MiB; push what the model needs alone",
            )
    return files
