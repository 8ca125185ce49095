"""What a person writes of a push on the command line: names, files, shapes; bounded and checked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import click

from edgectl_protocol.errors import InvalidName
from edgectl_protocol.names import check_model_name

__all__ = [
    "choose_encrypted",
    "choose_precisions",
    "choose_runtimes",
    "name_of",
    "parse_input_shapes",
    "parse_labels",
    "read_card",
    "read_steps",
]

_LABELS_BYTES_MAX = 1024 * 1024
_STEPS_BYTES_MAX = 32 * 1024
_CARD_CHARACTERS_MAX = 64 * 1024
_PRECISIONS = ("fp32", "fp16", "int8")
_RUNTIMES = ("onnxruntime", "litert", "cortex-m")


def name_of(model: Path) -> str:
    """Return the name of a model by that of its file or folder."""
    stem = model.resolve().name if model.is_dir() else model.stem
    try:
        return check_model_name(stem)
    except InvalidName as error:
        proposal = re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:64] or "my-model"
        raise click.UsageError(
            f"{stem!r} cannot be the name of a model; give one, such as --name {proposal}"
        ) from error


def choose_precisions(option: str, text: str) -> list[str]:
    """Return the precisions that are named with `option`, in the order of their bits."""
    return _choose(option, text, _PRECISIONS)


def choose_runtimes(option: str, text: str) -> list[str]:
    """Return the runtimes that are named with `option`."""
    return _choose(option, text, _RUNTIMES)


def _choose(option: str, text: str, known: tuple[str, ...]) -> list[str]:
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    unknown = sorted(set(chosen) - set(known))
    if unknown or not chosen:
        expected = ", ".join(known)
        raise click.BadParameter(
            f"expected one of {expected}, or several with commas between, got {text!r}",
            param_hint=option,
        )
    return [one for one in known if one in chosen]


def choose_encrypted(text: str | None, precisions: list[str]) -> list[str]:
    """Return which variants are to be encrypted."""
    if text is None:
        return []
    if text == "all":
        return precisions
    chosen = choose_precisions("--encrypt", text)
    missing = sorted(set(chosen) - set(precisions))
    if missing:
        raise click.BadParameter(
            f"{', '.join(missing)} is not made; --precision says what is", param_hint="--encrypt"
        )
    return chosen


def parse_labels(text: str | None) -> list[str]:
    """Return class names from a file, one a line, or from ``a,b,c``."""
    if not text:
        return []
    path = Path(text)
    if "," in text or not (path.is_file() or path.suffix == ".txt"):
        return [label.strip() for label in text.split(",") if label.strip()]
    lines = _read_text(path, _LABELS_BYTES_MAX, "--labels").splitlines()
    return [line.strip() for line in lines if line.strip()]


def read_steps(path: Path | None) -> str:
    """Return the text of a file of declared steps; the server says what is wrong in it."""
    if path is None:
        return ""
    text = _read_text(path, _STEPS_BYTES_MAX, "--processing")
    if not text.strip():
        raise click.BadParameter(
            f"{path} has no steps; expected TOML such "
            'as [[output]] with steps = [{do = "softmax"}]',
            param_hint="--processing",
        )
    return text


def parse_input_shapes(texts: Iterable[str]) -> dict[str, list[int]]:
    """Return sizes by input from texts such as ``x=Nx3x224x224`` or ``x=1,3,224,224``."""
    shapes: dict[str, list[int]] = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        found = re.fullmatch(r"(N|-1|1)((?:[x,][0-9]{1,9})*)", sizes)
        if not name or found is None or sizes.count("x") * sizes.count(","):
            raise click.BadParameter(
                f"expected INPUT=SIZES with the batch first, N or 1, such as x=Nx3x224x224, got "
                f"{text!r}",
                param_hint="--input-shape",
            )
        if name in shapes:
            raise click.BadParameter(f"{name!r} is given twice", param_hint="--input-shape")
        batch = 1 if found[1] == "1" else -1
        shapes[name] = [batch, *map(int, re.findall("[0-9]+", found[2]))]
    return shapes


def read_card(path: Path | None) -> str:
    """Return what the user has written for the model card."""
    if path is None:
        return ""
    text = _read_text(path, _CARD_CHARACTERS_MAX * 4, "--card")
    if len(text) > _CARD_CHARACTERS_MAX:
        raise click.BadParameter(
            f"{path} has more than {_CARD_CHARACTERS_MAX} characters", param_hint="--card"
        )
    return text


def _read_text(path: Path, bytes_max: int, option: str) -> str:
    """Return the text of a file that was named with `option`."""
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
        if len(content) > bytes_max:
            raise click.BadParameter(
                f"{path} is larger than {bytes_max // 1024} KiB", param_hint=option
            )
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}", param_hint=option) from error
