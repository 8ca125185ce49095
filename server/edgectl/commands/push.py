"""``edgectl push``: upload, wait for the pipeline, show the report, say what comes next."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import click

from edgectl.durations import Duration
from edgectl.errors import EdgectlError, doing
from edgectl.gate_options import check_allow, check_require, choose_metric
from edgectl.output import consoles, plain, print_json
from edgectl.progress import PushProgress
from edgectl.pushing import finish_push, start_push
from edgectl.saved_models import one_file
from edgectl.session import NAME, VERSION, Session, examples, json_option, pass_session
from edgectl.tables import report_table
from edgectl.trust_tables import wait_text
from edgectl.types import PushAccepted, PushOptions, VersionDetail
from edgectl_protocol.errors import InvalidName
from edgectl_protocol.names import check_model_name

__all__ = ["parse_input_shapes", "parse_labels", "push", "read_steps"]

_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
_MODEL = click.Path(exists=True, readable=True, path_type=Path)
_LABELS_BYTES_MAX = 1024 * 1024
_STEPS_BYTES_MAX = 32 * 1024
_CARD_CHARACTERS_MAX = 64 * 1024
_PRECISIONS = ("fp32", "fp16", "int8")
_RUNTIMES = ("onnxruntime", "litert")


@click.command(
    epilog=examples(
        "edgectl push har.onnx --calibration cal.npz --evaluation eval.npz",
        "edgectl push har_v2.onnx --name har --version 2 --max-drop 0.5 --labels labels.txt",
        "edgectl push detector.onnx --precision fp32 --detach --json",
        "edgectl push detector.onnx --calibration cal.npz --objective size --search-time 5m",
        "edgectl push har.onnx --calibration cal.npz --processing steps.toml",
        "edgectl push detector.onnx --input-shape images=Nx3x320x320 --precision fp32",
        "edgectl push model.keras --evaluation eval.npz",
        "edgectl push saved_model/ --name door",
        "edgectl push har.onnx --evaluation eval.npz --require 'accuracy>=0.9'",
        "edgectl push har.onnx --require 'size<=200kB' --require 'latency_p95<=5ms'",
        "edgectl push detector.onnx --evaluation eval.npz --metric map --max-drop 0.5",
        "edgectl push har.onnx --evaluation eval.npz --metric metric.py",
        "edgectl push har.onnx --labels new.txt --allow contract",
        "edgectl push har.onnx --calibration cal.npz --runtime onnxruntime,litert",
        "edgectl push person.tflite --evaluation eval.npz",
        "edgectl push har.onnx --calibration cal.npz --encrypt all",
        "edgectl push har.onnx --calibration cal.npz --encrypt int8",
    )
)
@click.argument("model", type=_MODEL)
@click.option(
    "--name", type=NAME, help="Of the model; the file's name without its ending by default."
)
@click.option("--version", type=VERSION, help="The next free number by default.")
@click.option("--calibration", type=_FILE, help="Inputs as .npz, for static int8.")
@click.option("--evaluation", type=_FILE, help="Inputs and labels as .npz, for the accuracy.")
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    help="Largest loss against fp32: points of a score (0.01), percent of an error.  [default: 1]",
)
@click.option(
    "--metric",
    metavar="NAME|FILE.py",
    help="accuracy, top5, f1, auc, rmse, map, agreement, or your own; by the data as default.",
)
@click.option(
    "--require",
    multiple=True,
    metavar="GATE",
    help="What every variant must reach, such as 'accuracy>=0.9'; more than once.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="NAME",
    help="Override a gate, such as contract, data or size; it is written down.",
)
@click.option(
    "--precision",
    default="fp32,int8",
    show_default=True,
    help="What may be made; with int8, at least one int8 variant must pass.",
)
@click.option(
    "--runtime",
    default="onnxruntime",
    show_default=True,
    help="For which variants are made: onnxruntime, litert, or both with a comma between.",
)
@click.option(
    "--objective",
    type=click.Choice(["latency", "size"]),
    default="latency",
    show_default=True,
    help="What the choice between int8 variants that keep the accuracy looks at first.",
)
@click.option(
    "--search-time",
    type=Duration(1, 86400),
    default="30m",
    show_default=True,
    help="No recipe is begun later than this after the first.",
)
@click.option(
    "--encrypt",
    metavar="all|VARIANTS",
    help="Only devices that are ordered to run it can read the model: all, or fp32,int8.",
)
@click.option("--card", type=_FILE, help="What the model is for, in Markdown; for its model card.")
@click.option("--labels", help="Names of the classes: a text file, one a line, or a,b,c.")
@click.option(
    "--processing",
    type=_FILE,
    help="Steps around the model, TOML: resize, normalize, window, softmax, …; see the docs.",
)
@click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="INPUT=SIZES",
    help="Fix an input's free sizes, such as x=Nx3x224x224; the first, the batch, may be N.",
)
@click.option("--parent", type=VERSION, help="The version that this one was trained from.")
@click.option("--detach", is_flag=True, help="Do not wait for the pipeline.")
@json_option
@pass_session
def push(
    session: Session,
    model: Path,
    *,
    name: str | None,
    version: str | None,
    calibration: Path | None,
    evaluation: Path | None,
    max_drop: float | None,
    metric: str | None,
    require: tuple[str, ...],
    allow: tuple[str, ...],
    precision: str,
    runtime: str,
    objective: str,
    search_time: int,
    encrypt: str | None,
    labels: str | None,
    card: Path | None,
    processing: Path | None,
    input_shapes: tuple[str, ...],
    parent: str | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Push a model: check, quantize, measure, sign and publish it.

    MODEL is ONNX, or becomes it on the server: a TensorFlow SavedModel (its folder), Keras (.keras,
    .h5), PyTorch (.pt2, by torch.export.save) or scikit-learn (.skops); see docs/converters.md. A
    .tflite file is measured and published as it is, for devices that have LiteRT; with --runtime
    onnxruntime,litert ONNX is converted for them too; see docs/tflite.md.

    Uploads are resumed where they broke off; the same content is never pushed twice. The exit code
    is 1 when every int8 variant loses more than --max-drop, or a gate refuses, with the table of
    what was tried. A model's policy adds to what is asked for here, and the stricter wins.
    A model of a team that signs its own waits for its signatures, with exit code 0.
    Ctrl-C leaves the push running on the server.

    With --encrypt, broker, blob store and mirrors hold ciphertext; the key goes to each device in
    its signed order. If all variants are encrypted, the server deletes the uploaded files.
    """
    name = name or _name_of(model)
    precisions = _choose("--precision", precision, _PRECISIONS)
    chosen = choose_metric(metric)
    options = PushOptions(
        max_drop_points=max_drop,
        metric=chosen.name,
        require=check_require(require),
        allow=check_allow(allow),
        precisions=precisions,
        labels=parse_labels(labels),
        processing=read_steps(processing),
        input_shapes=parse_input_shapes(input_shapes),
        runtimes=_choose("--runtime", runtime, _RUNTIMES),
        objective=objective,
        search_s_max=search_time,
        encrypt=_encrypted(encrypt, precisions),
        card=_read_card(card),
    )
    _, errors = consoles()
    with session.connect() as client, PushProgress(errors) as progress:
        with doing(f"pushing {model.name} as {name}"), one_file(model) as file:
            accepted = start_push(
                client,
                progress,
                name,
                file,
                version=version,
                calibration=calibration,
                evaluation=evaluation,
                own_metric=chosen.file,
                options=options,
                parent=parent,
            )
        if detach:
            result = None
        else:
            with doing(f"waiting for {accepted.model}@{accepted.version}"):
                result = finish_push(client, progress, accepted)
    if result is None:
        _show_detached(accepted, as_json=as_json)
        return
    _show_result(result, created=accepted.created, as_json=as_json)
    if result.state not in {"ready", "unsigned"}:
        _fail(result)


def parse_labels(text: str | None) -> list[str]:
    """Return class names from a file, one a line, or from ``a,b,c``."""
    if not text:
        return []
    path = Path(text)
    if "," in text or not (path.is_file() or path.suffix == ".txt"):
        return [label.strip() for label in text.split(",") if label.strip()]
    try:
        with path.open("rb") as file:
            content = file.read(_LABELS_BYTES_MAX + 1)
        lines = content.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}", param_hint="--labels") from error
    if len(content) > _LABELS_BYTES_MAX:
        raise click.BadParameter(f"{path} is larger than 1 MiB", param_hint="--labels")
    return [line.strip() for line in lines if line.strip()]


def read_steps(path: Path | None) -> str:
    """Return the text of a file of declared steps; the server says what is wrong in it."""
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            content = file.read(_STEPS_BYTES_MAX + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}", param_hint="--processing") from error
    if len(content) > _STEPS_BYTES_MAX or not text.strip():
        raise click.BadParameter(
            f"{path} has {'more than 32 KiB' if text.strip() else 'no steps'}; expected TOML such "
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


def _read_card(path: Path | None) -> str:
    """Return what the user has written for the model card."""
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            text = file.read(_CARD_CHARACTERS_MAX * 4 + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}", param_hint="--card") from error
    if len(text) > _CARD_CHARACTERS_MAX:
        raise click.BadParameter(
            f"{path} has more than {_CARD_CHARACTERS_MAX} characters", param_hint="--card"
        )
    return text


def _name_of(model: Path) -> str:
    stem = model.resolve().name if model.is_dir() else model.stem
    try:
        return check_model_name(stem)
    except InvalidName as error:
        proposal = re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:64] or "my-model"
        raise click.UsageError(
            f"{stem!r} cannot be the name of a model; give one, such as --name {proposal}"
        ) from error


def _encrypted(text: str | None, precisions: list[str]) -> list[str]:
    """Return which variants are to be encrypted."""
    if text is None:
        return []
    if text == "all":
        return precisions
    chosen = _choose("--encrypt", text, _PRECISIONS)
    missing = sorted(set(chosen) - set(precisions))
    if missing:
        raise click.BadParameter(
            f"{', '.join(missing)} is not made; --precision says what is", param_hint="--encrypt"
        )
    return chosen


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


def _show_detached(accepted: PushAccepted, *, as_json: bool) -> None:
    if as_json:
        print_json(accepted)
        return
    name = f"{plain(accepted.model)}@{plain(accepted.version)}"
    if accepted.job is None:
        click.echo(f"{name} is there already")
    else:
        click.echo(f"{name} is being made: edgectl jobs show {plain(accepted.job)} --watch")


def _show_result(version: VersionDetail, *, created: bool, as_json: bool) -> None:
    if as_json:
        print_json(version)
        return
    output, _ = consoles()
    name = f"{plain(version.model)}@{plain(version.version)}"
    if not created:
        output.print(f"{name} has this very content already")
    if version.report is not None:
        output.print(report_table(version, version.report))
    if version.state == "ready":
        output.print(f"\n{name} is ready. Next: edgectl rollout start {name} --all")
    elif version.waits_for is not None:
        role = plain(version.waits_for.role)
        output.print(
            f"\n{name} {wait_text(version.waits_for)}. Next: edgectl keys sign {role} --key KEY"
        )
        output.print(f"It is ready by itself then: edgectl models show {name} --watch")


def _fail(version: VersionDetail) -> NoReturn:
    """End with the reason of a push that has not become ready."""
    name = f"{version.model}@{version.version}"
    if version.error is not None:
        error = version.error
        with doing(f"making {name} of {version.source_name}"):
            raise EdgectlError(error.code, error.detail, error.hint, data=error.data)
    raise EdgectlError(
        f"push.{version.state}",
        f"{name} is {version.state}",
        f"see `edgectl models show {name}` and `edgectl jobs list`",
    )
