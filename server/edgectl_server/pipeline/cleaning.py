"""The fp32 variant: shapes inferred, constants folded, batch normalization merged, same answers.

The cleaned model must give the answers of the pushed one on data (or on made-up samples): otherwise
the pushed one is kept, and the report says so. A model that does not repeat its own answers is
refused: nothing could prove it on a device.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.version_converter
from onnxruntime.quantization import quant_pre_process

from edgectl_protocol.manifest import TensorSpec
from edgectl_server.pipeline.data import Samples
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.execution import Runner, describe
from edgectl_server.pipeline.scoring import check_finite, same_outputs

__all__ = ["TOLERANCE", "Cleaned", "clean", "not_repeatable"]

TOLERANCE = 1e-4
"""Largest difference to the pushed model, as a share of the largest output."""
_IR_VERSION_MAX = 10
"""Newer ones add nothing that a single-file model uses, and older onnxruntimes refuse them."""
_OPSET_UNUSED = 17
"""Declared for models that only use ai.onnx.ml, and what older ones are converted to."""
_OPSET_OF_QDQ = 13
"""The first whose QuantizeLinear has an axis."""
_PROBES_MAX = 64


@dataclass(frozen=True)
class Cleaned:
    """The fp32 model: where it is, and what the report has to say."""

    path: Path
    warnings: tuple[str, ...]


def not_repeatable() -> PipelineRefused:
    """Return the refusal of a model that nothing could prove on a device."""
    return PipelineRefused(
        "model.not_repeatable",
        "The model gives other outputs for the same inputs when it runs again.",
        "Export it for inference: without dropout, random operators or state.",
    )


def clean(model: Any, directory: Path, inputs: tuple[TensorSpec, ...], samples: Samples) -> Cleaned:
    """Write the fp32 model into `directory` and check it against the pushed one.

    Args:
        model: the checked ``onnx.ModelProto``.
        directory: where ``source.onnx`` and ``cleaned.onnx`` are written.
        inputs: the model's inputs.
        samples: what both are run on.

    Raises:
        PipelineRefused: ``model.unsupported``, ``model.run``, ``model.shape``,
            ``model.non_finite``, ``model.not_repeatable``.
    """
    _normalize(model)
    source = directory / "source.onnx"
    source.write_bytes(model.SerializeToString())
    probes = samples.choose(_PROBES_MAX, 0)
    runner = Runner(source, inputs)
    wanted = runner.run(probes)
    check_finite(wanted)
    if not same_outputs(wanted, runner.run(probes), TOLERANCE):
        raise not_repeatable()

    def differs(path: Path) -> str:
        """Say why the file is not the pushed model in another form; empty if it is."""
        try:
            same = same_outputs(wanted, Runner(path, inputs).run(probes), TOLERANCE)
        except PipelineRefused as error:
            return error.detail
        return "" if same else "it gives other outputs than the pushed model"

    target, warnings = directory / "cleaned.onnx", []
    modern = directory / "modern.onnx"
    old = _opset(model) < _OPSET_OF_QDQ
    reason = (_modernize(model, modern) or differs(modern)) if old else ""
    if reason:
        warnings.append(f"Opset {_opset(model)} stays, and forbids scales by channel: {reason}.")
    before = modern if old and not reason else source
    reason = _pre_process(before, target) or differs(target)
    if reason:
        warnings.append(f"The model is published as pushed, not cleaned: {reason}.")
        return Cleaned(source, tuple(warnings))
    return Cleaned(target, tuple(warnings))


def _normalize(model: Any) -> None:
    """Bring the declarations into the form that the quantizer expects: one default operator set."""
    model.ir_version = min(model.ir_version, _IR_VERSION_MAX)
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        versions[domain] = max(versions.get(domain, 0), entry.version)
    versions.setdefault("", _OPSET_UNUSED)
    model.ClearField("opset_import")
    for domain, version in versions.items():
        model.opset_import.append(onnx.helper.make_opsetid(domain, version))


def _opset(model: Any) -> int:
    versions: list[int] = [entry.version for entry in model.opset_import if not entry.domain]
    return max(versions)


def _modernize(model: Any, target: Path) -> str:
    """Write the model in the opset of today's exporters; return why that cannot be done, or ""."""
    try:
        onnx.save(onnx.version_converter.convert_version(model, _OPSET_UNUSED), target)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # the converter's errors have no common base
        return f"{type(error).__name__}: {describe(error)}"
    return ""


def _pre_process(source: Path, target: Path) -> str:
    """Write `target`; return why it could not be made, or an empty text."""
    reason = ""
    for skip_symbolic_shape in (False, True):  # it is in Python and gives up on some models
        try:
            quant_pre_process(source, target, skip_symbolic_shape=skip_symbolic_shape)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever the optimizer meets, the source stays
            reason = f"{type(error).__name__}: {describe(error)}"
        else:
            return ""
    return reason
