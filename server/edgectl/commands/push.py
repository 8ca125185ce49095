"""``edgectl push``: upload, wait for the pipeline, show the report, say what comes next."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import click

from edgectl.durations import Duration
from edgectl.errors import EdgectlError, doing
from edgectl.gate_options import check_allow, check_require, check_update_budget, choose_metric
from edgectl.output import consoles, plain, print_json
from edgectl.progress import PushProgress
from edgectl.push_options import (
    choose_encrypted,
    choose_precisions,
    choose_runtimes,
    name_of,
    parse_input_shapes,
    parse_labels,
    read_card,
    read_steps,
)
from edgectl.pushing import finish_push, start_push
from edgectl.saved_models import one_file
from edgectl.session import NAME, VERSION, Session, examples, json_option, pass_session
from edgectl.tables import report_table
from edgectl.trust_tables import wait_text
from edgectl.types import PushAccepted, PushOptions, VersionDetail

__all__ = ["push"]

_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
_MODEL = click.Path(exists=True, readable=True, path_type=Path)


@click.command(
    epilog=examples(
        "edgectl push har.onnx --calibration cal.npz --evaluation eval.npz",
        "edgectl push har_v2.onnx --name har --version 2 --max-drop 0.5 --labels labels.txt",
        "edgectl push detector.onnx --precision fp32 --detach --json",
        "edgectl push detector.onnx --calibration cal.npz --objective size --search-time 5m",
        "edgectl push har.onnx --calibration cal.npz --processing steps.toml",
        "edgectl push detector.onnx --input-shape images=Nx3x320x320 --precision fp32",
        "edgectl push har_v2.onnx --name har --parent 1 --evaluation eval.npz --update-budget 0.5",
        "edgectl push model.keras --evaluation eval.npz",
        "edgectl push saved_model/ --name door",
        "edgectl push har.onnx --evaluation eval.npz --require 'accuracy>=0.9'",
        "edgectl push har.onnx --require 'size<=200kB' --require 'latency_p95<=5ms'",
        "edgectl push detector.onnx --evaluation eval.npz --metric map --max-drop 0.5",
        "edgectl push har.onnx --evaluation eval.npz --metric metric.py",
        "edgectl push har.onnx --labels new.txt --allow contract",
        "edgectl push har.onnx --calibration cal.npz --runtime onnxruntime,litert",
        "edgectl push har.onnx --calibration cal.npz --evaluation eval.npz --runtime cortex-m",
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
    callback=lambda _context, _parameter, text: choose_precisions("--precision", text),
    default="fp32,int8",
    show_default=True,
    help="What may be made; with int8, at least one int8 variant must pass.",
)
@click.option(
    "--runtime",
    callback=lambda _context, _parameter, text: choose_runtimes("--runtime", text),
    default="onnxruntime",
    show_default=True,
    help="For which variants are made: onnxruntime, litert, cortex-m; several with commas.",
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
@click.option(
    "--update-budget",
    type=click.FloatRange(0, 100),
    metavar="POINTS",
    help="What a smaller update from --parent may cost, in points of what was trained.",
)
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
    precision: list[str],
    runtime: list[str],
    objective: str,
    search_time: int,
    encrypt: str | None,
    labels: str | None,
    card: Path | None,
    processing: Path | None,
    input_shapes: tuple[str, ...],
    parent: str | None,
    update_budget: float | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Push a model: check, quantize, measure, sign and publish it.

    MODEL is ONNX, or becomes it on the server: a TensorFlow SavedModel (its folder), Keras (.keras,
    .h5), PyTorch (.pt2, by torch.export.save) or scikit-learn (.skops); see docs/converters.md. A
    .tflite file is measured and published as it is, for devices that have LiteRT; with --runtime
    onnxruntime,litert ONNX is converted for them too; see docs/tflite.md. With cortex-m there is a
    variant for microcontrollers; see docs/firmware-format.md.

    Uploads are resumed where they broke off; the same content is never pushed twice. The exit code
    is 1 when every int8 variant loses more than --max-drop, or a gate refuses, with the table of
    what was tried. A model's policy adds to what is asked for here, and the stricter wins. A model
    of a team that signs its own waits for its signatures, with exit code 0. Ctrl-C leaves the push
    running on the server.

    With --update-budget, each variant is released in small steps from that of --parent, by the
    fewest bytes that cost no more than this; what is released is measured and signed, and the
    report shows both. See docs/pipeline.md.

    With --encrypt, broker, blob store and mirrors hold ciphertext; the key goes to each device in
    its signed order. If all variants are encrypted, the server deletes the uploaded files.
    """
    name = name or name_of(model)
    chosen = choose_metric(metric)
    options = PushOptions(
        max_drop_points=max_drop,
        metric=chosen.name,
        require=check_require(require),
        allow=check_allow(allow),
        update_budget_points=check_update_budget(
            update_budget, parent=parent is not None, data=bool(calibration or evaluation)
        ),
        precisions=precision,
        labels=parse_labels(labels),
        processing=read_steps(processing),
        input_shapes=parse_input_shapes(input_shapes),
        runtimes=runtime,
        objective=objective,
        search_s_max=search_time,
        encrypt=choose_encrypted(encrypt, precision),
        card=read_card(card),
    )
    with session.connect() as client, PushProgress(consoles()[1]) as progress:
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
        result = None if detach else finish_push(client, progress, accepted)
    _show(accepted, result, as_json=as_json)


def _show(accepted: PushAccepted, result: VersionDetail | None, *, as_json: bool) -> None:
    """Show how far the push is; end with its reason if nothing was made."""
    if result is None:
        _show_detached(accepted, as_json=as_json)
        return
    _show_result(result, created=accepted.created, as_json=as_json)
    if result.state not in {"ready", "unsigned"}:
        _fail(result)


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
    """End with the reason of a push of which nothing was made."""
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
