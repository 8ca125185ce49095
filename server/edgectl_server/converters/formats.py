"""Which format a pushed file has, by its first bytes and its name.

Nothing is parsed here: this runs in the server. What a file really holds is checked in the child.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Literal

from edgectl_server.pipeline.errors import PipelineRefused

__all__ = ["Format", "recognise"]

Format = Literal["onnx", "tflite", "sklearn", "keras", "savedmodel", "pytorch"]

_ZIP, _HDF5, _TFLITE = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"TFL3"
_TFLITE_OFFSET = 4
_HEAD_BYTES = 16
_PICKLE_PROTOCOLS = (2, 3, 4, 5)
_ZIP_FORMATS: dict[str, Format] = {
    ".skops": "sklearn",
    ".keras": "keras",
    ".pt2": "pytorch",
    ".zip": "savedmodel",
}
_HDF5_NAMES = (".h5", ".hdf5", ".keras")
_PICKLE_NAMES = (".pkl", ".pickle", ".joblib", ".sav")
_TORCH_NAMES = (".pt", ".pth")
_NO_PICKLES = (
    "Reading a pickle can run any code, so that none is ever loaded. scikit-learn: skops.io.dump to"
    " a .skops file. PyTorch: torch.export.save to a .pt2 file."
)


def recognise(path: Path, name: str) -> Format:
    """Return the format of a file; ``onnx`` for all that is nothing else.

    Args:
        path: the file.
        name: under which it was pushed.

    Raises:
        PipelineRefused: ``convert.pickle`` or ``convert.format``.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    ending = PurePath(name.lower()).suffix
    if head[_TFLITE_OFFSET : _TFLITE_OFFSET + len(_TFLITE)] == _TFLITE:
        return "tflite"
    if head[:1] == b"\x80" and head[1:2] and head[1] in _PICKLE_PROTOCOLS:
        raise PipelineRefused("convert.pickle", f"{name} is a Python pickle.", _NO_PICKLES)
    if head.startswith(_HDF5):
        if ending not in _HDF5_NAMES:
            raise _unclear(name, "an HDF5 file", "Keras: model.save('model.keras').")
        return "keras"
    if head.startswith(_ZIP):
        if ending in _TORCH_NAMES:
            raise PipelineRefused(
                "convert.pickle",
                f"{name} is what torch.save or torch.jit.save writes, with pickles in it.",
                _NO_PICKLES,
            )
        if ending not in _ZIP_FORMATS:
            raise _unclear(name, "a ZIP archive", _NAMES)
        return _ZIP_FORMATS[ending]
    if ending in (*_PICKLE_NAMES, *_TORCH_NAMES):
        raise PipelineRefused("convert.pickle", f"{name} has the name of a pickle.", _NO_PICKLES)
    if ending in (*_ZIP_FORMATS, *_HDF5_NAMES, ".tflite"):
        raise _unclear(name, "something else", "Compare its SHA-256 with the original.")
    return "onnx"


_NAMES = (
    "Name it by its format: .keras, .pt2 (torch.export.save), .skops, or .zip with a SavedModel in"
    " it; edgectl push packs a SavedModel's folder itself."
)


def _unclear(name: str, what: str, hint: str) -> PipelineRefused:
    return PipelineRefused(
        "convert.format",
        f"{name} is {what} by its first bytes: which format it has cannot be told.",
        hint,
    )
