"""Calibration and evaluation data: ``.npz`` files, read without trust.

A file is a ZIP archive of NumPy arrays, one an input of the model, and optionally ``label``, whose
first axis counts the samples. A model with one input also takes its array under the name ``input``.
Every size is bounded from the headers before an array is read; pickles are never loaded.

The codes are those of `edgectl_server.pipeline.errors`.
"""

from __future__ import annotations

import hashlib
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from edgectl_protocol.manifest import TensorSpec
from edgectl_server.pipeline.checks import DATATYPES
from edgectl_server.pipeline.errors import PipelineRefused

__all__ = ["Array", "Role", "Samples", "load_samples", "random_samples"]

Array = npt.NDArray[Any]
Role = Literal["calibration", "evaluation", "random"]

LABEL_KEY = "label"
_FREE_SIZE = 64
"""Height and width of made-up pictures for an input that takes any."""
SINGLE_KEY = "input"
_LABEL_RANK_MAX = 3
_HEADER_BYTES_MAX = 10_000
_MEMBERS_MAX = 66
"""The most inputs, labels, and one too many to be told of."""
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
    EOFError,
    OSError,
    ValueError,
    SyntaxError,
    RuntimeError,
)
"""What zipfile and NumPy's header reader raise for damaged and for crafted files."""
_NUMPY_TYPES = dict(DATATYPES.values())


@dataclass(frozen=True)
class Samples:
    """Checked inputs for the model.

    Attributes:
        role: which file they are from; ``random``: made up, for lack of any.
        inputs: array by input name; the first axis counts the samples.
        labels: classes, int64 [N]; or numbers, float64 [N], [N, …] with at most three axes; or
            None.
        digest: of the file; empty for made-up samples.
    """

    role: Role
    inputs: dict[str, Array]
    labels: Array | None = None
    digest: str = ""

    @property
    def count(self) -> int:
        """Number of samples."""
        return int(next(iter(self.inputs.values())).shape[0])

    def slices(self, batch: int) -> Iterator[dict[str, Array]]:
        """Yield the inputs of up to `batch` samples at a time, in order."""
        for start in range(0, self.count, batch):
            yield {name: array[start : start + batch] for name, array in self.inputs.items()}

    def choose(self, count: int, seed: int) -> Samples:
        """Return at most `count` samples, drawn without return and kept in order."""
        if self.count <= count:
            return self
        drawn = np.random.default_rng(seed).choice(self.count, count, replace=False)
        drawn.sort()
        return self.take(drawn)

    def take(self, rows: npt.NDArray[np.int64]) -> Samples:
        """Return the samples of `rows`, in that order."""
        return Samples(
            role=self.role,
            inputs={name: array[rows] for name, array in self.inputs.items()},
            labels=None if self.labels is None else self.labels[rows],
            digest=self.digest,
        )


def load_samples(
    path: Path,
    role: Role,
    inputs: tuple[TensorSpec, ...],
    *,
    bytes_max: int,
    quantize: Mapping[str, Callable[[Array], Array]] | None = None,
) -> Samples:
    """Read and check a file of samples.

    Args:
        path: the ``.npz`` file.
        role: named in every error.
        inputs: the model's inputs.
        bytes_max: the most that it may hold, unpacked.
        quantize: by input that takes integers: what makes them of floats, for data that has those.

    Raises:
        PipelineRefused: with a code ``data.…``.
    """
    try:
        arrays = _read_arrays(path, role, inputs, bytes_max)
    except _UNREADABLE as error:
        raise _not_npz(role, " ".join(str(error).split())[:200] or "it is damaged") from error
    labels = None
    names = {spec.name for spec in inputs}
    if LABEL_KEY not in names and LABEL_KEY in arrays:
        labels = _check_labels(role, arrays.pop(LABEL_KEY))
    for spec in inputs:
        array = arrays[spec.name]
        if array.dtype.kind == "f" and quantize is not None and spec.name in quantize:
            _check_finite(role, spec.name, array)
            arrays[spec.name] = array = quantize[spec.name](array)
        _check_array(role, spec, array)
    counts = {name: array.shape[0] for name, array in arrays.items()}
    if labels is not None:
        counts[LABEL_KEY] = labels.shape[0]
    if len(set(counts.values())) != 1:
        shown = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
        raise PipelineRefused(
            "data.shape",
            f"The {role} data has arrays with different numbers of samples ({shown}).",
            "Give every array the same first dimension.",
        )
    with path.open("rb") as file:
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    return Samples(role=role, inputs=arrays, labels=labels, digest=digest)


def random_samples(inputs: tuple[TensorSpec, ...], count: int, seed: int) -> Samples:
    """Make samples up, where none were pushed.

    Normal numbers, grey levels for UINT8, and 0 or 1 for other integers, which may be indices.
    """
    random = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for spec in inputs:
        shape = (count, *(_FREE_SIZE if size < 0 else size for size in spec.shape[1:]))
        dtype = _NUMPY_TYPES[spec.datatype]
        if dtype.kind == "f":
            arrays[spec.name] = random.normal(size=shape).astype(dtype)
        else:
            high = 256 if dtype == np.uint8 else 2
            arrays[spec.name] = random.integers(0, high, size=shape).astype(dtype)
    return Samples(role="random", inputs=arrays)


def _read_arrays(
    path: Path, role: Role, inputs: tuple[TensorSpec, ...], bytes_max: int
) -> dict[str, Array]:
    """Return the arrays by input name (and ``label``), bounded and of the right names."""
    arrays: dict[str, Array] = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [_array_name(role, member) for member in members]
        _check_keys(role, names, inputs)
        total = sum(member.file_size for member in members)
        if total > bytes_max:
            raise PipelineRefused(
                "data.too_large",
                f"The {role} data has {total} bytes unpacked, at most {bytes_max} are taken.",
                "Take fewer samples: some hundreds are enough for calibration.",
            )
        single = len(inputs) == 1 and SINGLE_KEY in names
        for member, name in zip(members, names, strict=True):
            with archive.open(member) as file:
                array = _read_array(role, name, file, member.file_size)
            arrays[inputs[0].name if single and name == SINGLE_KEY else name] = array
    return arrays


def _array_name(role: Role, member: zipfile.ZipInfo) -> str:
    packed = member.compress_type in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
    if not member.filename.endswith(".npy") or member.flag_bits & 1 or not packed:
        raise _not_npz(role, f"it holds {member.filename[:80]!r}")
    return member.filename.removesuffix(".npy")


def _check_keys(role: Role, names: list[str], inputs: tuple[TensorSpec, ...]) -> None:
    wanted = [spec.name for spec in inputs]
    given = set(names)
    if len(wanted) == 1 and SINGLE_KEY in given and wanted[0] not in given:
        given = (given - {SINGLE_KEY}) | {wanted[0]}
    missing = sorted(set(wanted) - given)
    unknown = sorted(given - set(wanted) - {LABEL_KEY})
    if missing or unknown or len(names) != len(set(names)) or len(names) > _MEMBERS_MAX:
        shown = sorted(names)[:_MEMBERS_MAX]
        raise PipelineRefused(
            "data.keys",
            f"The {role} data has the arrays {_listed(shown)}; expected {_listed(wanted)}"
            " and optionally 'label'."
            + (f" Missing: {_listed(missing)}." if missing else "")
            + (f" Not an input: {_listed(unknown)}." if unknown else ""),
            f"Save it with numpy.savez(file, **{{{wanted[0]!r}: array, …}}).",
        )


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name[:80]) for name in names[:10]) or "none"


def _read_array(role: Role, name: str, file: IO[bytes], size: int) -> Array:
    """Read one ``.npy`` member of `size` bytes, whose header has to fit that size."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        header = np.lib.format.read_array_header_1_0(file, max_header_size=_HEADER_BYTES_MAX)
    elif version == (2, 0):
        header = np.lib.format.read_array_header_2_0(file, max_header_size=_HEADER_BYTES_MAX)
    else:
        raise _not_npz(role, f"array {name[:80]!r} is of an unknown .npy version")
    shape, fortran, dtype = header
    if dtype.hasobject or dtype.fields is not None or dtype.subdtype is not None:
        raise PipelineRefused(
            "data.dtype",
            f"Array {name[:80]!r} of the {role} data holds Python objects or records.",
            "Save plain arrays of numbers: array.astype(numpy.float32).",
        )
    expected = math.prod(shape) * dtype.itemsize
    if any(axis < 0 for axis in shape) or file.tell() + expected != size:
        raise _not_npz(role, f"array {name[:80]!r} is shorter or longer than its header says")
    content = file.read(expected + 1)
    if len(content) != expected:
        raise _not_npz(role, f"array {name[:80]!r} is cut short")
    flat: Array = np.frombuffer(content, dtype=dtype) if expected else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _check_array(role: Role, spec: TensorSpec, array: Array) -> None:
    dtype = _NUMPY_TYPES[spec.datatype]
    if array.dtype != dtype:
        raise PipelineRefused(
            "data.dtype",
            f"Array {spec.name!r} of the {role} data is {array.dtype}, expected {dtype}.",
            f"Convert it: array.astype('{dtype}').",
        )
    shape = ("N", *("any" if size < 0 else size for size in spec.shape[1:]))
    fits = array.ndim == len(shape) and all(
        got > 0 and wanted in {-1, got}
        for got, wanted in zip(array.shape[1:], spec.shape[1:], strict=True)
    )
    if not fits or not array.shape[0]:
        empty = " It has no samples." if array.ndim and not array.shape[0] else ""
        raise PipelineRefused(
            "data.shape",
            f"Array {spec.name!r} of the {role} data has the shape {_shape(array.shape)}, expected "
            f"{_shape(shape)}.{empty}",
            "Save at least one sample, preprocessed as the model takes it, samples along the "
            "first axis.",
        )
    if array.dtype.kind == "f":
        _check_finite(role, spec.name, array)


def _check_finite(role: Role, name: str, array: Array) -> None:
    for row, sample in enumerate(array):
        if not np.isfinite(sample).all():
            where = np.argwhere(~np.isfinite(sample))
            at = (row, *(int(axis) for axis in where[0]))
            raise PipelineRefused(
                "data.non_finite",
                f"Array {name!r} of the {role} data holds {sample[tuple(where[0])]} at "
                f"{list(at)}, expected finite numbers.",
                "Remove or repair samples with NaN or infinity: "
                "numpy.isfinite(array).all(axis=tuple(range(1, array.ndim))).",
            )


def _check_labels(role: Role, array: Array) -> Array:
    """Return classes as int64, targets and boxes as float64."""
    if array.dtype.kind not in "iuf":
        raise PipelineRefused(
            "data.dtype",
            f"Array 'label' of the {role} data is {array.dtype}, expected numbers.",
            "Give each sample the index of its class: label.astype('int64').",
        )
    if array.dtype.kind == "f":
        if not 1 <= array.ndim <= _LABEL_RANK_MAX:
            raise _label_shape(role, array, "[N], [N, K] or [N, K, 5]")
        _check_finite(role, LABEL_KEY, array)
        return array.astype(np.float64)
    if array.ndim != 1:
        raise _label_shape(role, array, "[N]")
    return array.astype(np.int64)


def _label_shape(role: Role, array: Array, expected: str) -> PipelineRefused:
    return PipelineRefused(
        "data.shape",
        f"Array 'label' of the {role} data has the shape {_shape(array.shape)}, expected "
        f"{expected}.",
        "Give one class index a sample; for one-hot labels: label.argmax(axis=1). Targets and "
        "boxes are floats.",
    )


def _shape(shape: tuple[Any, ...]) -> str:
    return "[" + ", ".join(str(axis) for axis in shape) + "]"


def _not_npz(role: Role, why: str) -> PipelineRefused:
    return PipelineRefused(
        "data.not_npz",
        f"The {role} data is not a readable .npz file: {why}.",
        "Write it with numpy.savez or numpy.savez_compressed.",
    )
