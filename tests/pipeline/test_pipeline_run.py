"""The whole run in its real child: real models, refusals, and what the parent reads of them."""

import numpy as np
import onnx
import onnxruntime
import pytest

from edgectl_protocol.manifest import GateResult
from edgectl_server.pipeline.errors import PipelineFailed, PipelineRefused
from edgectl_server.pipeline.recipes import RECIPES
from edgectl_server.pipeline.runner import run_pipeline
from edgectl_server.pipeline.spec import (
    Confusion,
    DataCheckRow,
    Disagreement,
    GateRow,
    PipelineLimits,
    PipelineSpec,
    TrialReport,
    TrialRow,
    to_document,
)
from edgectl_server.schemas import (
    ConfusionInfo,
    DataCheckInfo,
    DisagreementInfo,
    GateInfo,
    Report,
    Trial,
)
from pipeline import crafted
from pipeline.conftest import run

INT8 = [recipe.name for recipe in RECIPES if recipe.precision == "int8"]
SOURCES = ("source", "calibration", "evaluation")


def refusal(directory, **fields):
    with pytest.raises(PipelineRefused) as caught:
        run(directory, **fields)
    assert caught.value.hint
    return caught.value


def test_the_rows_are_those_of_the_api():
    assert set(TrialRow.__struct_fields__) == set(Trial.model_fields)
    assert set(TrialReport.__struct_fields__) == set(Report.model_fields)
    assert set(GateRow.__struct_fields__) == set(GateInfo.model_fields)
    assert set(GateRow.__struct_fields__) == {*GateResult.__struct_fields__, "variant"}
    assert set(DataCheckRow.__struct_fields__) == set(DataCheckInfo.model_fields)
    assert set(Confusion.__struct_fields__) == set(ConfusionInfo.model_fields)
    assert set(Disagreement.__struct_fields__) == set(DisagreementInfo.model_fields)


def test_activity_report(activity_run):
    report = Report.model_validate(to_document(activity_run.result.report))
    assert (report.metric, report.metric_source, report.samples) == ("accuracy", "evaluation", 1500)
    assert report.reference == pytest.approx(0.954, abs=0.002)
    assert report.warnings == []
    assert [row.recipe for row in report.trials] == ["fp32", *INT8]
    slow = {row.recipe for row in report.trials if "slower" in row.reason}
    assert slow <= {"int8-dynamic", "int8-dynamic-s8"}
    for row in report.trials:
        if row.recipe in slow:
            assert row.status == "skipped"
            continue
        assert row.status == "accepted", row
        assert row.value >= report.reference - 0.01
        assert 0 < row.latency_p50_us <= row.latency_p95_us
    assert (report.opset, report.nodes, report.parameters) == (17, 13, 110_535)


def test_activity_candidates(activity_run):
    candidates = {one.variant: one for one in activity_run.result.candidates}
    assert set(candidates) == {"fp32", "int8"}
    int8, fp32 = candidates["int8"], candidates["fp32"]
    assert (int8.rank, fp32.rank) == (0, 1), "a third of the size comes first"
    assert int8.trial.size_bytes < 0.4 * fp32.trial.size_bytes
    assert int8.scores.kind == "logits"
    assert int8.evaluation.samples == 1500
    assert int8.quantization.recipe == int8.trial.recipe
    assert fp32.quantization.calibration is None
    assert [(spec.name, spec.shape) for spec in int8.outputs] == [("logits", (-1, 7))]


def test_progress_is_told_in_order(activity_run):
    stages = list(dict.fromkeys(progress.stage for progress in activity_run.progress))
    assert stages == ["check", "clean", "evaluate", "quantize", "latency", "golden"]
    ranges, *quantize = [told for told in activity_run.progress if told.stage == "quantize"]
    assert ranges.message == "minmax ranges"
    assert [(told.done, told.total) for told in quantize] == [(n, 10) for n in range(1, 11)]
    assert {told.message for told in quantize} == set(INT8)


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_golden_cases_prove_the_variant_and_catch_another(activity_run, variant):
    folder = activity_run.directory / variant
    candidate = next(c for c in activity_run.result.candidates if c.variant == variant)
    golden = np.load(folder / "golden.npz", allow_pickle=False)
    tolerance = candidate.golden.tolerances["logits"]
    assert golden["input.input"].shape == (16, 6, 128)
    assert golden["output.logits"].shape == (16, 7)

    def share_within(path, scale=1.0):
        session = onnxruntime.InferenceSession(path)
        inside = 0
        for case, wanted in zip(golden["input.input"], golden["output.logits"], strict=True):
            (got,) = session.run(None, {"input": case[None]})
            bound = tolerance.atol + tolerance.rtol * np.abs(wanted)
            inside += bool((np.abs(got[0] * scale - wanted) <= bound).all())
        return inside / len(golden["output.logits"])

    assert share_within(folder / "model.onnx") == 1.0
    assert share_within(folder / "model.onnx", scale=-1.0) < candidate.golden.agreement_min
    if variant == "int8":  # another processor's int8 is about as far off as fp32 is
        assert share_within(activity_run.directory / "fp32/model.onnx") >= 0.5


def test_scikit_learn_perceptron(mlp_run):
    report = mlp_run.result.report
    assert report.reference == pytest.approx(0.917, abs=0.002)
    assert any(row.precision == "int8" and row.status == "accepted" for row in report.trials)
    candidate = mlp_run.result.candidates[0]
    assert candidate.scores.output == "probabilities"
    assert candidate.scores.kind == "probabilities"
    assert [(spec.name, spec.datatype, spec.shape) for spec in candidate.outputs] == [
        ("label", "INT64", (-1,)),
        ("probabilities", "FP32", (-1, 2)),
    ]
    assert candidate.golden.agreement_min == 0.9


def test_a_run_gives_the_same_models_again(mlp_run, tmp_path):
    """Measurements differ, files do not: what has not changed is not sent again."""
    again = run(tmp_path, **{name: getattr(mlp_run.spec, name) for name in SOURCES})
    for name in ("cleaned.onnx", *(f"{recipe}.onnx" for recipe in INT8)):
        assert (again.directory / name).read_bytes() == (mlp_run.directory / name).read_bytes()
    name = "fp32/golden.npz"
    assert (again.directory / name).read_bytes() == (mlp_run.directory / name).read_bytes()


def test_a_forest_is_published_as_fp32(tmp_path, occupancy):
    result = run(
        tmp_path,
        source=occupancy / "occ_rf.onnx",
        calibration=occupancy / "train.npz",
        evaluation=occupancy / "test.npz",
    ).result
    assert [candidate.variant for candidate in result.candidates] == ["fp32"]
    assert result.report.reference == pytest.approx(0.950, abs=0.002)
    assert {row.status for row in result.report.trials} == {"accepted", "skipped"}
    assert "Only fp32 is published" in result.report.warnings[0]


def test_without_data_only_fp32_is_published(tmp_path, activity):
    result = run(tmp_path, source=activity / "har_v1.onnx").result
    assert [candidate.variant for candidate in result.candidates] == ["fp32"]
    report = result.report
    assert (report.metric, report.reference, report.samples) == (None, None, 0)
    assert all(row.reason for row in report.trials if row.status == "skipped")
    assert any("int8 was not tried" in warning for warning in report.warnings)


def test_calibration_data_alone_measures_agreement(tmp_path, activity):
    result = run(
        tmp_path,
        source=activity / "har_v1.onnx",
        calibration=activity / "calibration.npz",
        recipes=("int8-static-minmax-per-tensor",),
    ).result
    report = result.report
    assert (report.metric, report.metric_source, report.reference) == (
        "agreement",
        "calibration",
        1.0,
    )
    assert len(report.warnings) == 2
    assert len(report.trials) == 2


def test_too_little_calibration_is_refused_with_the_table(tmp_path, activity):
    """Eight windows of one activity give ranges that fit no other."""
    windows = np.load(activity / "calibration.npz")["input"]
    quietest = windows[np.argsort(windows.std(axis=(1, 2)))[:8]]
    error = refusal(
        tmp_path,
        source=activity / "har_v1.onnx",
        calibration=crafted.save_arrays(tmp_path / "few.npz", input=quietest),
        evaluation=activity / "eval.npz",
        recipes=("int8-static-minmax-per-tensor", "int8-static-minmax-per-channel"),
    )
    assert error.code == "pipeline.accuracy"
    assert "--max-drop" in error.hint
    assert "--precision fp32" in error.hint
    report = Report.model_validate(error.data["report"])
    assert [row.status for row in report.trials] == ["accepted", "rejected", "rejected"]
    assert all("points of accuracy" in row.reason for row in report.trials[1:])
    assert all(row.drop_points > 1 for row in report.trials[1:])


def test_int8_alone_leaves_fp32_out(tmp_path):
    data = crafted.save_arrays(
        tmp_path / "data.npz",
        x=np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32),
    )
    result = run(
        tmp_path,
        source=crafted.save(crafted.dense(), tmp_path / "dense.onnx"),
        calibration=data,
        precisions=("int8",),
        max_drop_points=10.0,
    ).result
    assert result.candidates[0].variant == "int8"
    assert {candidate.precision for candidate in result.candidates} == {"int8"}
    assert result.report.trials[0].reason == "the reference; not asked for"


def test_an_old_operator_set_is_brought_up_to_date(tmp_path):
    """Per-channel scales came with opset 13."""
    rows = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    result = run(
        tmp_path,
        source=crafted.save(crafted.dense(opset=11), tmp_path / "m.onnx"),
        calibration=crafted.save_arrays(tmp_path / "data.npz", input=rows),
        max_drop_points=20.0,
    ).result
    assert {row.status for row in result.report.trials} == {"accepted"}
    assert result.report.opset == 11, "as it was pushed"
    assert max(one.version for one in onnx.load(tmp_path / "fp32/model.onnx").opset_import) >= 13


@pytest.fixture(scope="session")
def strict_run(occupancy, tmp_path_factory):
    """A model that no whole recipe quantizes well, so that ranges and mixed precision are tried."""
    with np.load(occupancy / "train.npz") as arrays:
        calibration = {name: array[:64] for name, array in arrays.items()}
    folder = tmp_path_factory.mktemp("strict")
    return run(
        folder,
        source=crafted.save(crafted.layers(), folder / "m.onnx"),
        calibration=crafted.save_arrays(folder / "data.npz", x=calibration["X"]),
    )


def test_mixed_precision_keeps_the_operators_in_float_that_lose_most(strict_run):
    report = strict_run.result.report
    status = {row.recipe: row.status for row in report.trials if row.precision == "int8"}
    accepted = [recipe for recipe, how in status.items() if how == "accepted"]
    assert accepted == ["int8-mixed-minmax-per-tensor-reduced-2"]
    assert [row.node for row in report.sensitivity[:2]] == ["n3", "n2"], "as it was made"
    assert list(report.sensitivity) == sorted(report.sensitivity, key=lambda row: -row.loss)
    (mixed,) = [row for row in report.trials if row.recipe.endswith("reduced-2")]
    assert mixed.float_nodes == 2
    ranges = {row.recipe.split("-")[2] for row in report.trials if "static" in row.recipe}
    assert ranges == {"minmax", "entropy", "percentile"}


def test_half_precision_on_demand(tmp_path, activity):
    result = run(
        tmp_path,
        source=activity / "har_v1.onnx",
        evaluation=activity / "eval.npz",
        precisions=("fp32", "fp16"),
    ).result
    assert {one.variant for one in result.candidates} == {"fp32", "fp16"}
    fp32, fp16 = result.report.trials
    assert fp16.size_bytes < 0.52 * fp32.size_bytes
    assert abs(fp16.drop_points) < 0.2


def test_a_search_without_time_begins_no_trial(tmp_path, activity):
    result = run(
        tmp_path,
        source=activity / "har_v1.onnx",
        calibration=activity / "calibration.npz",
        limits=PipelineLimits(search_s_max=1e-9),
    ).result
    assert [candidate.variant for candidate in result.candidates] == ["fp32"]
    reasons = {row.reason for row in result.report.trials if row.status == "skipped"}
    assert reasons == {"the time for the search was up"}


def test_a_fixed_batch_of_one_and_a_regression(tmp_path):
    """No class scores: agreement is R² with fp32; samples are run one at a time."""
    model = crafted.dense(batch=1, scores=False, outputs=1)
    rows = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    result = run(
        tmp_path,
        source=crafted.save(model, tmp_path / "m.onnx"),
        calibration=crafted.save_arrays(tmp_path / "data.npz", input=rows),
        max_drop_points=20.0,
    ).result
    assert result.report.metric == "agreement"
    assert result.candidates[0].scores is None
    assert result.candidates[0].inputs[0].shape == (1, 8)
    assert result.candidates[0].outputs[0].shape == (1, 1)
    assert "R²" in result.report.warnings[0]


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (crafted.random_answers, "model.not_repeatable"),
        (crafted.not_finite, "model.non_finite"),
        (crafted.wrong_batch, "model.shape"),
        (crafted.custom_domain, "model.custom_op"),
    ],
)
def test_refusals_come_through_the_child(tmp_path, build, code):
    source = crafted.save(build(), tmp_path / "m.onnx")
    assert refusal(tmp_path, source=source).code == code


def test_data_errors_come_through_the_child(tmp_path, activity):
    bad = crafted.save_arrays(tmp_path / "bad.npz", input=np.zeros((4, 6, 64), np.float32))
    error = refusal(tmp_path, source=activity / "har_v1.onnx", evaluation=bad)
    assert error.code == "data.shape"
    assert "evaluation" in error.detail
    assert "[N, 6, 128]" in error.detail


def test_class_names_must_fit_the_scores(tmp_path, activity):
    error = refusal(tmp_path, source=activity / "har_v1.onnx", labels=("sitting", "standing"))
    assert error.code == "model.labels"
    assert "7" in error.detail


def test_a_missing_source_is_a_failure_of_ours(tmp_path):
    with pytest.raises(PipelineFailed) as caught:
        run(tmp_path, source=tmp_path / "none.onnx")
    assert caught.value.code == "pipeline.disk"


def test_the_result_may_not_be_a_link_or_nonsense(tmp_path, monkeypatch):
    """A child that has been taken over writes what it likes."""
    from edgectl_server.confined import Ended
    from edgectl_server.pipeline import runner

    secret = tmp_path / "secret.json"
    secret.write_text("{}")

    def leave(content):
        def fake(limits, directory, on_progress, cancelled):
            path = directory / "result.json"
            if content is None:
                path.symlink_to(secret)
            else:
                path.write_bytes(content)
            return Ended(code=0, cpu_s=0.0, stderr=b"")

        return fake

    spec = PipelineSpec(model="m", version="1", source=tmp_path / "m.onnx")
    for content in (None, b"", b"[]", b'{"source": "../x"}', b" " * (5 * 2**20), b"[" * 100_000):
        monkeypatch.setattr(runner, "_run_child", leave(content))
        with pytest.raises(PipelineFailed) as caught:
            run_pipeline(spec, tmp_path, on_progress=print, cancelled=lambda: False)
        assert caught.value.code == "pipeline.crashed"
