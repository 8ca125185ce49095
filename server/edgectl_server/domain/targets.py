"""Device classes: declared profiles of hardware, and which of them a device belongs to.

A profile says what a device must have to belong to its class (machine, processor features, board,
memory), what its models may use (runtimes, operators, execution providers), and what is best there
(objective, limits). Profiles come as TOML text, one table a class: the reference that is shipped,
and an operator's own, whose tables add classes, or change single keys of those of the same name.
Nothing here reads a file.

A device belongs to the most specific profile that it matches: first those that name its board, then
those that ask for more features, then those that ask for more memory; between equals the name
decides, so that the answer never depends on the order of a file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from edgectl_protocol.messages import Capabilities

__all__ = [
    "TARGETS_MAX",
    "TEXT_BYTES_MAX",
    "Classification",
    "Limits",
    "Objective",
    "Runtime",
    "Target",
    "TargetsInvalid",
    "class_of",
    "energy_uj",
    "parse_targets",
    "saturates",
]

TARGETS_MAX = 64
TEXT_BYTES_MAX = 256 * 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_X86 = frozenset({"x86_64", "i686"})
_INT8_DOT = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_OPSET_MIN, _OPSET_MAX = 7, 64
_MEMORY_BYTES_MAX = 2**50

Objective = Literal["latency", "size", "energy"]
Runtime = Literal["onnxruntime", "litert", "tflite", "cortex-m"]
_Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]
_Features = Annotated[str, Meta(pattern=r"^[a-z0-9_]{1,32}(\|[a-z0-9_]{1,32}){0,7}$")]
_Bytes = Annotated[int, Meta(ge=1, le=_MEMORY_BYTES_MAX)]
_Positive = Annotated[float, Meta(gt=0, le=1e9)]


class TargetsInvalid(ValueError):
    """A file of profiles is not valid; the text names the class, the key and what is expected."""


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a variant may cost on a device of the class, as measured there."""

    latency_p95_us: _Positive | None = None
    """A variant that was measured above it is tried after those below it."""
    rss_bytes: _Bytes | None = None
    """Resident memory of the trial process; a variant that was measured above it is not offered."""


class Target(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One profile."""

    name: str
    machine: Annotated[tuple[_Word, ...], Meta(min_length=1, max_length=8)]
    """As ``uname -m`` says; one of them."""
    runtimes: Annotated[tuple[Runtime, ...], Meta(min_length=1, max_length=4)]
    """In order of preference."""
    memory_bytes: _Bytes
    """The least that a device of the class has."""
    opset: Annotated[int, Meta(ge=_OPSET_MIN, le=_OPSET_MAX)]
    """Highest version of the ONNX operators that a model for the class may use."""
    description: Annotated[str, Meta(max_length=200)] = ""
    cpu_model: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...],
                         Meta(max_length=16)] = ()  # fmt: skip
    """Parts of what the device says its processor or board is; one of them. Empty: any."""
    cpu_features: Annotated[tuple[_Features, ...], Meta(max_length=16)] = ()
    """As /proc/cpuinfo says; all of them. ``a|b`` is one of both."""
    execution_providers: Annotated[tuple[_Word, ...], Meta(max_length=8)] = ()
    """Execution providers or delegates, in order of preference."""
    objective: Objective = "latency"
    watts_per_core: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    """What one busy core draws, for the energy proxy."""
    limits: Limits = Limits()

    @property
    def saturates(self) -> bool:
        """Whether int8 with unsigned activations may saturate on devices that just match."""
        features = {one for some in self.cpu_features for one in some.split("|")}
        return any(saturates(machine, features) for machine in self.machine)


class Classification(Struct, frozen=True):
    """The class of a device, and why it is that one."""

    target: Target | None
    why: str

    @property
    def name(self) -> str:
        """Name of the class; empty where none matches."""
        return "" if self.target is None else self.target.name


def saturates(machine: str, cpu_features: Collection[str]) -> bool:
    """Say whether u8s8 products saturate: x86 without an int8 dot product.

    There onnxruntime multiplies unsigned activations by signed weights with ``vpmaddubsw``, which
    adds two products into 16 bits and cuts off what does not fit. Per-channel weights, which use
    the whole of the int8 range, suffer most; ``reduce_range`` leaves a bit free
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).

    Args:
        machine: as ``uname -m`` says.
        cpu_features: as /proc/cpuinfo says.
    """
    return machine in _X86 and _INT8_DOT.isdisjoint(cpu_features)


def energy_uj(latency_us: float, *, cores: int, watts_per_core: float) -> float:
    """Return a proxy for the energy of one inference, in microjoules: time times cores times watts.

    It measures no current. It counts what the cores at work draw while they work, by the profile's
    figure, and leaves out memory, the rest of the board and what it draws when idle.
    """
    return latency_us * cores * watts_per_core


# ---------------------------------------------------------------- reading


def parse_targets(*texts: str) -> tuple[Target, ...]:
    """Return the profiles of TOML texts, in order of their names.

    Args:
        texts: the reference first; a later one adds classes and changes keys of earlier ones.

    Raises:
        TargetsInvalid: one of them is no TOML, too long, or says what no profile may say.
    """
    tables: dict[str, dict[str, Any]] = {}
    for text in texts:
        for name, table in _read(text).items():
            tables[name] = _merge(tables.get(name, {}), table)
    if len(tables) > TARGETS_MAX:
        raise TargetsInvalid(f"{len(tables)} classes, at most {TARGETS_MAX}")
    return tuple(_convert(name, tables[name]) for name in sorted(tables))


def _read(text: str) -> dict[str, dict[str, Any]]:
    if len(text.encode()) > TEXT_BYTES_MAX:
        raise TargetsInvalid(f"more than {TEXT_BYTES_MAX} bytes")
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise TargetsInvalid(f"not TOML: {error}") from error
    for name, table in document.items():
        if not _NAME.fullmatch(name):
            raise TargetsInvalid(f"{name[:80]!r} is no name of a class: expected {_NAME.pattern}")
        if not isinstance(table, dict):
            raise TargetsInvalid(f"{name}: expected a table [{name}], got {type(table).__name__}")
    return document


def _merge(before: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**before, **table}
    limits = before.get("limits"), table.get("limits")
    if isinstance(limits[0], dict) and isinstance(limits[1], dict):
        merged["limits"] = {**limits[0], **limits[1]}
    return merged


def _convert(name: str, table: Mapping[str, Any]) -> Target:
    if "name" in table:
        raise TargetsInvalid(f"{name}: the name is that of the table, not a key")
    try:
        target = msgspec.convert({**table, "name": name}, Target)
    except msgspec.ValidationError as error:
        raise TargetsInvalid(f"{name}: {error}") from error
    for key in ("machine", "runtimes", "cpu_model", "cpu_features", "execution_providers"):
        values = getattr(target, key)
        if len(set(values)) != len(values):
            raise TargetsInvalid(f"{name}: {key} names something twice")
    rss = target.limits.rss_bytes
    if rss is not None and rss > target.memory_bytes:
        raise TargetsInvalid(
            f"{name}: limits.rss_bytes is {rss}, more than memory_bytes, {target.memory_bytes}"
        )
    return target


# ---------------------------------------------------------------- deciding


def class_of(capabilities: Capabilities, targets: Iterable[Target]) -> Classification:
    """Return the class of a device: the most specific profile that it matches.

    Args:
        capabilities: as the device reports them; a memory of 0 bytes is not known.
        targets: in any order.
    """
    others = tuple(targets)
    matching = sorted((one for one in others if not _mismatch(one, capabilities)), key=_specificity)
    if matching:
        chosen = matching[0]
        why = ", ".join(_demands(chosen))
        if len(matching) > 1:
            why += f"; more specific than {', '.join(one.name for one in matching[1:])}"
        return Classification(chosen, why)
    near = sorted(
        (one for one in others if capabilities.machine in one.machine), key=lambda one: one.name
    )
    missing = "; ".join(f"{one.name}: {_mismatch(one, capabilities)}" for one in near)
    return Classification(None, missing or f"no class is of the machine {capabilities.machine!r}")


def _specificity(target: Target) -> tuple[bool, int, int, int, str]:
    """The smaller, the more specific."""
    return (
        not target.cpu_model,
        -len(target.cpu_features),
        len(target.machine),
        -target.memory_bytes,
        target.name,
    )


def _mismatch(target: Target, capabilities: Capabilities) -> str:
    """Return what keeps a device out of a class, or nothing."""
    if capabilities.machine not in target.machine:
        return f"the machine is {capabilities.machine}"
    found = capabilities.cpu_model
    if target.cpu_model and not any(part in found for part in target.cpu_model):
        return f"the board is {found!r}" if found else "the board is not known"
    for feature in target.cpu_features:
        if set(feature.split("|")).isdisjoint(capabilities.cpu_features):
            return f"the processor lacks {feature.replace('|', ' and ')}"
    if 0 < capabilities.memory_bytes < target.memory_bytes:
        return f"{capabilities.memory_bytes} bytes of memory, the class has {target.memory_bytes}"
    return ""


def _demands(target: Target) -> Iterable[str]:
    yield f"machine {' or '.join(target.machine)}"
    if target.cpu_model:
        yield f"board {' or '.join(target.cpu_model)}"
    yield from (feature.replace("|", " or ") for feature in target.cpu_features)
    yield f"memory of {target.memory_bytes} bytes or more"
