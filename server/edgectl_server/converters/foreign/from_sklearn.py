"""scikit-learn → ONNX: a ``.skops`` file, never a pickle.

A ``.skops`` file names the Python types that it is made of. Loaded is what skops itself trusts, and
beyond that *classes* of scikit-learn and NumPy; a function, or a type from anywhere else, is
refused by its name before anything is built. Sources: the pages "Secure persistence with skops" of
skops and "zipmap" of skl2onnx.

A classifier with probabilities has one output, ``probabilities`` [N, C], in the order of its
classes, whose names become the labels of the version unless they are 0, 1, … already.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from edgectl_server.converters.foreign.archives import check_archive
from edgectl_server.converters.foreign.comparison import (
    EXACT,
    Input,
    array_name,
    check,
    onnx_runner,
    read_samples,
)
from edgectl_server.converters.foreign.refusal import Refusal, one_line

__all__ = ["convert"]

_OPSETS = {"": 17, "ai.onnx.ml": 3}
_OWN = ("sklearn.", "numpy.")
_NOT_TESTS = ("numpy.testing", "numpy.f2py", "numpy.distutils", "sklearn.externals")
_CLASSES_MAX = 1024


def convert(job: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Convert ``job["source"]`` to ``job["target"]``; the result's fields are `Conversion`'s."""
    path = Path(job["source"])
    check_archive(path, job["unpacked_bytes_max"])
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tell("reading the estimator")
        model = _load(path)
        told = sorted({one_line(one.message) for one in caught if "version" in str(one.message)})
    features = _features(model)
    name = array_name(job["data"])
    tell(f"{type(model).__name__}: converting")
    scores = hasattr(model, "predict_proba")
    classes = _classes(model, scores=scores)
    _write(model, name, features, Path(job["target"]), scores=scores)
    tell("comparing")
    samples = read_samples(job["data"], [Input(name, (features,), "float32")])
    run, names = onnx_runner(Path(job["target"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # feature names; what is wrong shows in the numbers
        expected = _answers(model, samples.arrays[name], scores=scores, outputs=len(names))
    rows = check(names, expected, run(samples.arrays), samples, EXACT)
    return {"checks": rows, "labels": classes, "warnings": told[:4]}


def _load(path: Path) -> Any:
    import skops.io

    try:
        needed = skops.io.get_untrusted_types(file=path)
        _check_types(needed)
        return skops.io.load(path, trusted=needed)
    except Refusal:
        raise
    except Exception as error:  # whatever a crafted or foreign file makes skops raise
        raise Refusal(
            "convert.damaged",
            f"skops cannot read the file: {type(error).__name__}: {one_line(error)}.",
            "Write it with skops.io.dump of a current scikit-learn and skops, and push it again.",
        ) from error


def _check_types(needed: list[str]) -> None:
    """Refuse types, among those that skops does not trust, that may not be loaded."""
    forbidden = sorted(name for name in needed if not _allowed(name))
    if forbidden:
        raise Refusal(
            "convert.forbidden_type",
            f"The file needs {', '.join(forbidden[:5])}; loaded are types of scikit-learn and NumPy"
            " alone.",
            "Make the estimator of scikit-learn's own steps, or export it to ONNX yourself.",
            {"types": forbidden[:50]},
        )


def _allowed(name: str) -> bool:
    """Say whether a type that skops does not trust may be loaded: a class of the two libraries."""
    if not name.startswith(_OWN) or name.startswith(_NOT_TESTS) or "_testing" in name:
        return False
    module, _, attribute = name.rpartition(".")
    try:
        return inspect.isclass(getattr(importlib.import_module(module), attribute, None))
    except ImportError:
        return False


def _features(model: Any) -> int:
    features = getattr(model, "n_features_in_", None)
    if not hasattr(model, "predict") or not isinstance(features, (int, np.integer)):
        raise Refusal(
            "convert.no_model",
            f"The file holds {type(model).__name__}, which is no fitted estimator that predicts.",
            "Save the fitted estimator or the whole pipeline: skops.io.dump(model, file).",
        )
    return int(features)


def _classes(model: Any, *, scores: bool) -> list[str]:
    """Return the names of the classes, or nothing where they are their own index."""
    found = getattr(model, "classes_", None)
    if found is None or not isinstance(found, np.ndarray) or found.ndim != 1:
        return []
    classes = found.tolist()
    if classes == list(range(len(classes))):
        return []
    if not scores:
        raise Refusal(
            "convert.classes",
            f"{type(model).__name__} answers its classes by name and has no probabilities.",
            "Fit it on the class numbers 0, 1, …, or use sklearn.calibration.CalibratedClassifierCV"
            " around it.",
        )
    return [str(one)[:128] for one in classes[:_CLASSES_MAX]]


def _write(model: Any, name: str, features: int, target: Path, *, scores: bool) -> None:
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType
    from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs
    from sklearn.base import is_classifier

    # Probabilities as a tensor, not as a sequence of dictionaries; not every classifier knows it.
    choices = [{id(model): {"zipmap": False}}, None] if is_classifier(model) else [None]
    inputs = [(name, FloatTensorType([None, features]))]
    for options in choices:
        try:
            onnx_model = skl2onnx.to_onnx(
                model, initial_types=inputs, target_opset=_OPSETS, options=options
            )
            break
        except Exception as error:  # skl2onnx raises several, of which few have a base of their own
            if options is not None and "Option 'zipmap' not in" in str(error):
                continue
            raise Refusal(
                "convert.unsupported",
                f"skl2onnx cannot convert {type(model).__name__}: {one_line(error)}.",
                "Use estimators that skl2onnx supports, or export the model to ONNX yourself.",
            ) from error
    if scores:
        (kept,) = (one for one in onnx_model.graph.output if one.name == "probabilities")
        onnx_model = select_model_inputs_outputs(onnx_model, outputs=["probabilities"])
        onnx_model.graph.output[0].CopyFrom(kept)  # with its type, which is dropped there
    target.write_bytes(onnx_model.SerializeToString(deterministic=True))


def _answers(model: Any, array: Any, *, scores: bool, outputs: int) -> list[Any]:
    """Return what the estimator answers, in the order of the converted outputs."""
    precise = array.astype(
        np.float64
    )  # the same values; some estimators take the type of their fit
    try:
        answer = model.predict_proba(precise) if scores else model.predict(precise)
        more = [] if scores or outputs == 1 else [_second(model, precise)]
    except Exception as error:
        raise Refusal(
            "convert.source",
            f"{type(model).__name__} cannot predict: {type(error).__name__}: {one_line(error)}.",
            "Save it with the scikit-learn version of the converter (docs/converters.md).",
        ) from error
    return [np.asarray(answer).reshape(len(array), -1), *more]


def _second(model: Any, array: Any) -> Any:
    for method in ("decision_function", "transform", "score_samples"):
        if hasattr(model, method):
            return np.asarray(getattr(model, method)(array)).reshape(len(array), -1)
    raise Refusal(
        "convert.unsupported",
        f"{type(model).__name__} has more outputs than can be compared with it.",
        "Export the model to ONNX yourself.",
    )
