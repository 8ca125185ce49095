"""Declared pre- and post-processing: a TOML file of bounded steps, decoded without trust.

::

    [[input]]                        # what applications send from now on
    name = "image"
    datatype = "UINT8"
    layout = "NHWC"                  # one letter an axis, N first
    shape = ["N", 48, 64, 3]
    steps = [
      {do = "resize", height = 32, width = 32, antialias = true},
      {do = "layout", to = "NCHW"},
      {do = "scale", divide = 255},
    ]

    [[output]]                       # what they get
    tensor = "logits"
    name = "probabilities"
    steps = [{do = "softmax"}]

``tensor`` is the model's own input or output and may be left out where there is only one. This
module knows nothing of ONNX: `edgectl_server.pipeline.processing` makes nodes of the steps.
"""

from __future__ import annotations

import re
import string
import tomllib
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from edgectl_server.pipeline.errors import PipelineRefused

__all__ = [
    "STEPS_BYTES_MAX",
    "ArgMax",
    "Cast",
    "Clip",
    "Crop",
    "InputSteps",
    "Join",
    "Labels",
    "Layout",
    "LogMel",
    "Normalize",
    "OutputSteps",
    "Processing",
    "Resize",
    "Scale",
    "Sigmoid",
    "Softmax",
    "Threshold",
    "TopK",
    "Window",
    "decode_steps",
    "labels_of",
]

STEPS_BYTES_MAX = 32 * 1024
_STEPS_MAX = 16
_TENSORS_MAX = 64
_CHANNELS_MAX = 4096
_LABELS_MAX = 1024

Name = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+\Z")]
Number = Annotated[float, Meta(ge=-1e12, le=1e12)]
Factor = Annotated[float, Meta(ge=1e-12, le=1e12)]
"""Multiplied or divided by: positive, so that it can be undone, and far from what FP32 loses."""
Pixels = Annotated[int, Meta(ge=1, le=8192)]
Samples = Annotated[int, Meta(ge=1, le=2**20)]
Axes = Annotated[str, Meta(max_length=64)]
"""One letter an axis: N samples, H height, W width, C channels, T time, F features."""
Axis = Annotated[int, Meta(ge=-7, le=7)]
Numbers = Annotated[tuple[Number, ...], Meta(min_length=1, max_length=_CHANNELS_MAX)]
Factors = Annotated[tuple[Factor, ...], Meta(min_length=1, max_length=_CHANNELS_MAX)]
Datatype = Literal[
    "UINT8", "UINT16", "UINT32", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
]  # fmt: skip


class _Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do"):
    """One step; what it takes and gives is said in docs/processing.md."""


class Resize(_Step, frozen=True, kw_only=True, tag="resize"):
    """A picture of another size; pixels are squares whose centres are matched (half-pixel).

    `antialias` has to be said where ``linear`` makes a picture smaller: with it the result is that
    of Pillow and torchvision, without it that of OpenCV and tf.image.
    """

    height: Pixels
    width: Pixels
    mode: Literal["linear", "nearest"] = "linear"
    antialias: bool | None = None


class Crop(_Step, frozen=True, kw_only=True, tag="crop"):
    """The middle of a picture; where the margin is odd, less is cut off above and at the left."""

    height: Pixels
    width: Pixels


class Layout(_Step, frozen=True, kw_only=True, tag="layout"):
    """The axes in another order; a channel axis C of size 1 may come or go."""

    to: Axes

    def __post_init__(self) -> None:
        _check_axes(self.to)


class Cast(_Step, frozen=True, kw_only=True, tag="cast"):
    """Another datatype; fractions are cut off towards zero."""

    to: Datatype


class Scale(_Step, frozen=True, kw_only=True, tag="scale"):
    """x · multiply / divide + add, in FP32."""

    multiply: Number = 1.0
    divide: Factor = 1.0
    add: Number = 0.0


class Normalize(_Step, frozen=True, kw_only=True, tag="normalize"):
    """(x - mean) / std in FP32, for each channel (axis C, otherwise F), or one number for all."""

    mean: Numbers | Number
    std: Factors | Factor

    def __post_init__(self) -> None:
        lengths = {len(one) for one in (self.mean, self.std) if isinstance(one, tuple)}
        if len(lengths) > 1:
            raise ValueError("Expected as many numbers in `mean` as in `std`")


class Clip(_Step, frozen=True, kw_only=True, tag="clip"):
    """Nothing below `minimum`, nothing above `maximum`, in FP32."""

    minimum: Number
    maximum: Number

    def __post_init__(self) -> None:
        if self.minimum >= self.maximum:
            raise ValueError("Expected `minimum` below `maximum`")


class Window(_Step, frozen=True, kw_only=True, tag="window"):
    """A stream cut along T into windows, which the model sees as samples of one batch.

    Every output then has the axis of the windows behind N; see `Join`.
    """

    length: Samples
    hop: Samples


class LogMel(_Step, frozen=True, kw_only=True, tag="log_mel"):
    """Sound [N, T] as the logarithm of its power in mel bands, [N, T, F]; HTK's mel scale.

    log(power + floor), natural; frames begin with the stream and are weighted by a periodic Hann
    window. This is torchaudio's MelSpectrogram with center=False, norm=None.
    """

    rate: Annotated[int, Meta(ge=1000, le=384_000)]
    """Samples a second."""
    frame: Annotated[int, Meta(ge=16, le=8192)]
    hop: Annotated[int, Meta(ge=1, le=8192)]
    bands: Annotated[int, Meta(ge=1, le=256)]
    low_hz: Annotated[float, Meta(ge=0, le=192_000)] = 0.0
    high_hz: Annotated[float, Meta(ge=0, le=192_000)] | None = None
    """None: half the rate."""
    floor: Annotated[float, Meta(ge=1e-12, le=1e6)] = 1e-6

    def __post_init__(self) -> None:
        if not self.low_hz < (self.high_hz or self.rate / 2) <= self.rate / 2:
            raise ValueError("Expected `low_hz` below `high_hz`, and that at most half of `rate`")


class Softmax(_Step, frozen=True, kw_only=True, tag="softmax"):
    """Scores as probabilities whose sum along `axis` is 1."""

    axis: Axis = -1


class Sigmoid(_Step, frozen=True, kw_only=True, tag="sigmoid"):
    """Each score as a probability of its own."""


class Threshold(_Step, frozen=True, kw_only=True, tag="threshold"):
    """The index of the highest score, or -1 where it is below `minimum`, INT64 without `axis`.

    `minimum` is one number, or one a class.
    """

    minimum: Numbers | Number
    axis: Axis = -1


class ArgMax(_Step, frozen=True, kw_only=True, tag="argmax"):
    """The index of the highest score, INT64 without `axis`."""

    axis: Axis = -1


class TopK(_Step, frozen=True, kw_only=True, tag="top_k"):
    """The `k` highest scores along the last axis, and their indices as an output of their own."""

    k: Annotated[int, Meta(ge=1, le=1024)]
    indices: Name | None = None
    """Name of that output; None: the output's with ``_indices`` behind."""


class Join(_Step, frozen=True, kw_only=True, tag="join"):
    """The windows of a stream as one: mean or maximum over them, in FP32."""

    by: Literal["mean", "max"] = "mean"


class Labels(_Step, frozen=True, kw_only=True, tag="labels"):
    """The name of each class, in the order of the scores; changes nothing but the contract."""

    names: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...],
        Meta(min_length=2, max_length=_LABELS_MAX),
    ]


InputStep: TypeAlias = Resize | Crop | Layout | Cast | Scale | Normalize | Clip | Window | LogMel
OutputStep: TypeAlias = (
    Softmax | Sigmoid | Threshold | ArgMax | TopK | Scale | Clip | Cast | Join | Labels
)


class InputSteps(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What applications send, and the way from there to an input of the model."""

    tensor: Name | None = None
    """The model's input; None: its only one."""
    name: Name | None = None
    """None: as the model's."""
    datatype: Datatype
    layout: Axes
    shape: Annotated[
        tuple[Annotated[int, Meta(ge=-1, le=2**24)] | Literal["N"], ...],
        Meta(min_length=1, max_length=5),
    ]
    """As the letters of `layout`; -1: any size, for H and W before a resize."""
    steps: Annotated[tuple[InputStep, ...], Meta(min_length=1, max_length=_STEPS_MAX)]

    def __post_init__(self) -> None:
        _check_axes(self.layout)
        if len(self.shape) != len(self.layout):
            raise ValueError(
                f"Expected `shape` with one size for each letter of `layout` ({self.layout}), got "
                f"{len(self.shape)}"
            )
        if self.shape[0] not in {"N", -1, 1}:
            raise ValueError('Expected "N" (or 1) as the first size in `shape`, the batch')
        for letter, size in zip(self.layout[1:], self.shape[1:], strict=True):
            if size in {"N", 0} or (size == -1 and letter not in "HW"):
                raise ValueError(f"Expected a size for {letter} in `shape`, got {size}")


class OutputSteps(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The way from an output of the model to what applications get."""

    tensor: Name | None = None
    """The model's output; None: its only one."""
    name: Name | None = None
    steps: Annotated[tuple[OutputStep, ...], Meta(min_length=1, max_length=_STEPS_MAX)]

    def __post_init__(self) -> None:
        for step in self.steps[:-1]:
            if isinstance(step, TopK):
                raise ValueError("Expected `top_k` as the last step")  # noqa: TRY004


class Processing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All declared steps."""

    input: Annotated[tuple[InputSteps, ...], Meta(max_length=_TENSORS_MAX)] = ()
    output: Annotated[tuple[OutputSteps, ...], Meta(max_length=_TENSORS_MAX)] = ()

    def __post_init__(self) -> None:
        if not self.input and not self.output:
            raise ValueError("Expected at least one [[input]] or [[output]]")


_EXAMPLES = {
    "resize": '{do = "resize", height = 224, width = 224, antialias = true}',
    "crop": '{do = "crop", height = 224, width = 224}',
    "layout": '{do = "layout", to = "NCHW"}',
    "cast": '{do = "cast", to = "FP32"}',
    "scale": '{do = "scale", divide = 255}',
    "normalize": '{do = "normalize", mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225]}',
    "clip": '{do = "clip", minimum = 0, maximum = 1}',
    "window": '{do = "window", length = 128, hop = 64}',
    "log_mel": '{do = "log_mel", rate = 16000, frame = 400, hop = 160, bands = 40}',
    "softmax": '{do = "softmax"}',
    "sigmoid": '{do = "sigmoid"}',
    "threshold": '{do = "threshold", minimum = 0.5}',
    "argmax": '{do = "argmax"}',
    "top_k": '{do = "top_k", k = 5}',
    "join": '{do = "join", by = "mean"}',
    "labels": '{do = "labels", names = ["cat", "dog"]}',
}
_ENTRY_EXAMPLES = {
    "input": '[[input]] with name = "image", datatype = "UINT8", layout = "NHWC", '
    'shape = ["N", 48, 64, 3] and steps = [{do = "layout", to = "NCHW"}, …]',
    "output": '[[output]] with tensor = "logits", name = "probabilities" and '
    'steps = [{do = "softmax"}]',
}
_DOTS = "." * 32
_KEY_CHARACTERS_GONE = {
    ord(letter): None for letter in f"{string.ascii_letters}{string.digits}_-\"' \t"
}
"""Of a dotted key only the dots are left; the reader of TOML takes seconds for one of thousands."""
_PATH = re.compile(r" - at `\$\.?([^`]*)`$")
_REGEX = re.compile(r"`str` matching regex .*")
_STEP = re.compile(r"^(input|output)\[(\d+)\]\.steps\[(\d+)\]")


def decode_steps(text: str) -> Processing:
    """Return the steps that a TOML file declares.

    Args:
        text: the file, at most `STEPS_BYTES_MAX` bytes of UTF-8.

    Raises:
        PipelineRefused: ``processing.invalid``, with the key, what was expected, and an example.
    """
    if len(text.encode(errors="surrogatepass")) > STEPS_BYTES_MAX:
        raise _invalid(
            f"it is longer than {STEPS_BYTES_MAX} bytes", "Declare fewer steps or shorter lists"
        )
    if _DOTS in text.translate(_KEY_CHARACTERS_GONE):
        raise _invalid(
            f"it has a key of more than {len(_DOTS)} parts, or that many dots in a row",
            f"Write keys such as {_ENTRY_EXAMPLES['output']}",
        )
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise _invalid(f"it is no TOML: {reason}", f"Begin with {_ENTRY_EXAMPLES['input']}") from (
            error
        )
    try:
        return msgspec.convert(document, Processing)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _explained(str(error), document) from error


def labels_of(processing: Processing) -> tuple[str, ...]:
    """Return the names of the classes; raise `PipelineRefused` if they are given twice."""
    given = [
        step.names
        for entry in processing.output
        for step in entry.steps
        if isinstance(step, Labels)
    ]
    if len(given) > 1:
        raise _invalid(
            f"the names of the classes are given {len(given)} times",
            f"Give them once: {_EXAMPLES['labels']}",
        )
    return given[0] if given else ()


def _explained(message: str, document: dict[str, object]) -> PipelineRefused:
    """Say which key is wrong, and show how it is written."""
    found = _PATH.search(message)
    path = found[1] if found else ""
    reason = _REGEX.sub("text without control characters", _PATH.sub("", message)).replace("`", "")
    reason = reason[:1].lower() + reason[1:]
    step = _STEP.match(path)
    if step is None:
        kind = "output" if path.startswith("output") else "input"
        return _invalid(f"{_at(path)}{reason}", f"Write {_ENTRY_EXAMPLES[kind]}")
    kind, entry, number = step[1], int(step[2]), int(step[3])
    given = document[kind][entry]["steps"][number]  # type: ignore[index]  # as the path says
    do = given.get("do") if isinstance(given, dict) else None
    if isinstance(do, str) and do in _EXAMPLES and not path.endswith(".do"):
        return _invalid(f"{_at(path)}{reason}", f"Write it such as {_EXAMPLES[do]}")
    union = InputStep if kind == "input" else OutputStep
    known = ", ".join(one.__struct_config__.tag for one in union.__args__)
    return _invalid(
        f"{_at(path)}{reason}", f"Steps of an {kind} are {known}; such as {_EXAMPLES['cast']}"
    )


def _at(path: str) -> str:
    return f"{path}: " if path else ""


def _check_axes(axes: str) -> None:
    if not re.fullmatch("N[CHWTF]{0,4}", axes) or len(set(axes)) != len(axes):
        raise ValueError(
            "Expected one letter for each axis, N first, then of C, H, W, T and F each at most "
            f"once, such as NCHW, got {axes!r}"
        )


def _invalid(what: str, example: str) -> PipelineRefused:
    return PipelineRefused(
        "processing.invalid", f"The steps cannot be taken: {what[:600]}.", f"{example}."
    )
