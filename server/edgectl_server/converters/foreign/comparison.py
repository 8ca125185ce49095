"""Does the converted model answer as its source does? Samples, and the comparison of outputs.

An output is the same where ``|found - expected| <= absolute + relative * |expected|``. At most one
value in a thousand may lie outside: a tree whose threshold was rounded to float32 sends a rare
sample the other way. Where an output has classes, the highest score must be the same one for
nearly all samples; a tie within the tolerance counts as the same.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl_server.converters.foreign.refusal import Refusal, one_line

__all__ = [
    "EXACT",
    "Input",
    "Samples",
    "Tolerance",
    "array_name",
    "check",
    "onnx_runner",
    "read_samples",
]

Array = npt.NDArray[Any]

_SAMPLES_MAX = 256
_MADE_UP = 64
_MADE_UP_HIGHEST = 2
_SEED = 20
_LABEL = "label"
_SINGLE = "input"
_CLASSES_MAX = 1024
_OUTSIDE_MAX = 0.001
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError)


@dataclass(frozen=True)
class Tolerance:
    """What may differ: absolute and relative, and the least agreement of the highest score."""

    absolute: float
    relative: float
    agreement: float
    outside: float = _OUTSIDE_MAX


EXACT = Tolerance(absolute=1e-4, relative=1e-3, agreement=0.99)
"""For float32 against float32: only the order of sums differs."""


@dataclass(frozen=True)
class Input:
    """An input of the source model: its name, shape behind the batch, and NumPy's type."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Samples:
    """Inputs for both models, by name; the first axis counts the samples."""

    arrays: dict[str, Array]
    made_up: bool

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(next(iter(self.arrays.values())))


def array_name(data: str | None) -> str:
    """Return the name of the only array in a data file, or ``input``: a name for the only input."""
    if data is None:
        return _SINGLE
    try:
        with np.load(data, allow_pickle=False) as file:
            names = [name for name in file.files if name != _LABEL]
    except _UNREADABLE as error:
        raise _unreadable(error) from error
    return names[0] if len(names) == 1 else _SINGLE


def read_samples(data: str | None, inputs: list[Input]) -> Samples:
    """Return samples from a ``.npz`` file, or made-up ones.

    Args:
        data: path of the file, or None.
        inputs: of the source model; a single input may also be called ``input`` in the file.

    Raises:
        Refusal: ``convert.data``.
    """
    if data is None:
        generator = np.random.default_rng(_SEED)
        return Samples({one.name: _made_up(one, generator) for one in inputs}, made_up=True)
    arrays = {}
    try:
        with np.load(data, allow_pickle=False) as file:
            for one in inputs:
                name = one.name
                if name not in file.files and len(inputs) == 1 and _SINGLE in file.files:
                    name = _SINGLE
                if name not in file.files:
                    raise Refusal(
                        "convert.data",
                        f"The data have the arrays {sorted(file.files)[:10]}; the model's input is"
                        f" {one.name!r} with the shape {list(one.shape)} behind the samples.",
                        f"Save the data under that name: np.savez(file, {one.name}=…).",
                    )
                arrays[one.name] = _fitting(file[name], one)
    except _UNREADABLE as error:
        raise _unreadable(error) from error
    if len({len(array) for array in arrays.values()}) != 1:
        raise Refusal("convert.data", "The arrays of the data have different numbers of samples.")
    return Samples(arrays, made_up=False)


def check(
    names: list[str],
    expected: list[Array],
    found: list[Array],
    samples: Samples,
    tolerance: Tolerance,
) -> list[dict[str, Any]]:
    """Compare the outputs of the source and of the converted model.

    Args:
        names: of the outputs.
        expected: what the source has answered, [N, …] each.
        found: what the converted model has answered.
        samples: those that both were asked.
        tolerance: what may differ.

    Returns:
        One row an output; fields as in ``conversion.Check``.

    Raises:
        Refusal: ``convert.differs``, with the rows as its data.
    """
    rows = []
    for name, one, other in zip(names, expected, found, strict=True):
        if np.prod(one.shape) != np.prod(other.shape):
            raise Refusal(
                "convert.differs",
                f"Output {name!r} has the shape {list(other.shape)} after the conversion, before it"
                f" was {list(one.shape)}.",
                _DIFFERS_HINT,
            )
        rows.append(_compare(name, one, other.reshape(one.shape), samples, tolerance))
    worst = max(rows, key=lambda row: (row.outside > tolerance.outside, -(row.agreement or 1)))
    wrong = worst.agreement is not None and worst.agreement < tolerance.agreement
    documents = [asdict(row) for row in rows]
    if wrong or worst.outside > tolerance.outside:
        same = "" if worst.agreement is None else f", same class {worst.agreement:.3f}"
        raise Refusal(
            "convert.differs",
            f"The converted model answers differently: output {worst.output!r} by up to"
            f" {worst.max_abs:.3g} (relative {worst.max_rel:.3g}), {worst.outside:.1%} of it beyond"
            f" {tolerance.absolute:g} + {tolerance.relative:g} of the value{same}, on"
            f" {worst.samples} samples.",
            _DIFFERS_HINT,
            {"checks": documents},
        )
    return documents


_DIFFERS_HINT = (
    "Push data that is like the model's own (--evaluation); if it differs there too, export the"
    " model to ONNX yourself and push that."
)


def onnx_runner(path: Path) -> Any:
    """Return a function from inputs by name to the outputs of an ONNX file, and their names.

    Raises:
        Refusal: ``convert.unsupported``: onnxruntime cannot load it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has no base class for its own
        raise Refusal(
            "convert.unsupported",
            f"onnxruntime cannot load what the conversion has made: {one_line(error)}.",
            "The model uses what ONNX does not have; change it, or export it to ONNX yourself.",
        ) from error
    single = any(one.shape[:1] == [1] for one in session.get_inputs())

    def run(arrays: dict[str, Array]) -> list[Array]:
        if not single:
            return [np.asarray(output) for output in session.run(None, arrays)]
        count = len(next(iter(arrays.values())))
        answers = [
            session.run(None, {name: array[i : i + 1] for name, array in arrays.items()})
            for i in range(count)
        ]
        return [np.concatenate(output) for output in zip(*answers, strict=True)]

    return run, [output.name for output in session.get_outputs()]


@dataclass(frozen=True)
class _Row:
    output: str
    samples: int
    made_up: bool
    max_abs: float
    max_rel: float
    outside: float
    agreement: float | None


def _compare(name: str, one: Array, other: Array, samples: Samples, tolerance: Tolerance) -> _Row:
    expected, found = one.astype(np.float64), other.astype(np.float64)
    same = (expected == found) | (np.isnan(expected) & np.isnan(found))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(found - expected))
    difference = np.where(np.isfinite(difference), difference, np.finfo(np.float32).max)
    finite = np.nan_to_num(np.abs(expected), posinf=0.0)
    allowed = tolerance.absolute + tolerance.relative * finite
    return _Row(
        output=name,
        samples=samples.count,
        made_up=samples.made_up,
        max_abs=float(difference.max(initial=0.0)),
        max_rel=float((difference / (finite + tolerance.absolute)).max(initial=0.0)),
        outside=float((difference > allowed).mean()) if difference.size else 0.0,
        agreement=_agreement(expected, found, allowed),
    )


def _agreement(expected: Array, found: Array, allowed: Array) -> float | None:
    """Return the share of samples with the same highest score; None where there are no classes."""
    if expected.ndim != 2 or not 2 <= expected.shape[1] <= _CLASSES_MAX:  # noqa: PLR2004
        return None
    rows = np.arange(len(expected))
    best, chosen = expected.argmax(axis=1), found.argmax(axis=1)
    return float((expected[rows, best] - expected[rows, chosen] <= allowed[rows, best]).mean())


def _fitting(array: Array, one: Input) -> Array:
    if array.ndim != len(one.shape) + 1 or not len(array):
        raise Refusal(
            "convert.data",
            f"Array {one.name!r} has the shape {list(array.shape)}; expected are samples of the"
            f" shape {list(one.shape)}.",
            "The first axis counts the samples.",
        )
    if any(want not in (-1, got) for want, got in zip(one.shape, array.shape[1:], strict=True)):
        raise Refusal(
            "convert.data",
            f"Array {one.name!r} has samples of the shape {list(array.shape[1:])}, the model takes"
            f" {list(one.shape)}.",
            "The first axis counts the samples.",
        )
    if array.dtype.kind not in "fiub":
        raise Refusal("convert.data", f"Array {one.name!r} holds no numbers.")
    chosen = np.linspace(0, len(array) - 1, min(_SAMPLES_MAX, len(array))).astype(np.int64)
    return np.ascontiguousarray(array[chosen].astype(one.dtype))


def _made_up(one: Input, generator: np.random.Generator) -> Array:
    shape = (_MADE_UP, *(1 if size < 0 else size for size in one.shape))
    kind = np.dtype(one.dtype)
    if kind.kind == "f":
        return generator.standard_normal(shape).astype(kind)
    return generator.integers(0, _MADE_UP_HIGHEST, shape).astype(kind)


def _unreadable(error: BaseException) -> Refusal:
    return Refusal(
        "convert.data",
        f"The data are no readable .npz file: {one_line(error)}.",
        "Write them with np.savez(file, input=…), without objects.",
    )
