"""The SDK against a real inference process: predictions, hot swaps, counts, an agent away."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from agent.inference.encrypted import encrypt_bundle
from agent.inference.litert import make_litert_bundle
from agent.inference.models import activity, make_bundle, save_model, tensor
from agent.sdk.conftest import LABELS, Follow, activity_bundle
from edgectl_agent import InputRefused, Model, ModelUnavailable, PredictionFailed
from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.options import Options
from edgectl_agent.inference.process import InferenceProcess
from waiting import wait_for


def passing_bundle(directory: Path, version: str = "2", **config: object) -> Bundle:
    """A model with other inputs that gives back what it is given, NaN included."""
    model = save_model(
        directory / f"passing-{version}.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [tensor("x", TensorProto.FLOAT, ["N", 3])],
        [tensor("y", TensorProto.FLOAT, ["N", 3])],
    )
    return make_bundle(
        directory,
        model,
        version=version,
        golden_inputs={"x": np.ones((2, 3), np.float32)},
        **config,
    )


def picky_bundle(directory: Path, version: str = "2") -> Bundle:
    """A model that fails on every index but 0 and 1."""
    model = save_model(
        directory / "gather.onnx",
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [tensor("x", TensorProto.INT64, ["N"])],
        [tensor("y", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor("table", TensorProto.FLOAT, [2], [10.0, 20.0])],
    )
    return make_bundle(
        directory,
        model,
        version=version,
        golden_inputs={"x": np.array([1], np.int64)},
        golden_outputs={"y": np.array([20], np.float32)},
    )


def test_a_prediction_is_that_of_the_endpoint(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    bundle = activity_bundle(tmp_path)
    process.load(bundle)
    model, asked = follow(), follow(in_process=False)
    assert model.in_process
    assert not asked.in_process
    for sample in activity()[0][:20]:
        ours, theirs = model.predict(sample), asked.predict(sample)
        np.testing.assert_allclose(ours.output, theirs.output, rtol=1e-5, atol=1e-6)
        assert ours.label == theirs.label == LABELS[int(ours.output.argmax())]
        assert ours.confidence == pytest.approx(theirs.confidence)
        assert 0 < (ours.confidence or 0) <= 1
        for one in (ours, theirs):
            assert (one.version, one.variant, one.manifest) == ("1", "fp32", bundle.manifest)
    assert model.labels == asked.labels == LABELS
    assert model.inputs == asked.inputs == bundle.config.inputs
    assert model.outputs == bundle.config.outputs


def test_whatever_an_application_has_becomes_the_models_input(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    process.load(activity_bundle(tmp_path))
    model = follow()
    sample = activity()[0][0]
    expected = model.predict(sample[np.newaxis]).output
    for given in (
        sample,
        sample.tolist(),
        sample.astype(np.float64),
        {"input": sample},
        np.asfortranarray(sample),
    ):
        np.testing.assert_allclose(model.predict(given).output, expected, rtol=1e-5)
    batch = model.predict_batch(activity()[0][:5])
    assert len(batch) == 5
    np.testing.assert_allclose(batch[0].output, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((6, 127), np.float32), "shape [6, 127], expected [-1, 6, 128]"),
        (np.zeros((2, 1, 6, 128), np.float32), "expected"),
        ({"other": 1}, "the model has ['input']"),
        ([[1, 2], [3]], "rows differ in length"),
        (np.full((6, 128), "1"), "is FP32, got"),
        (np.zeros((6, 128), np.complex64), "is FP32, got complex64"),
        (None, "is FP32, got object"),
        (object(), "is FP32, got object"),
    ],
)
def test_an_input_outside_the_contract_is_refused(
    process: InferenceProcess, follow: Follow, tmp_path: Path, given: object, words: str
) -> None:
    process.load(activity_bundle(tmp_path))
    model = follow()
    with pytest.raises(InputRefused) as refused:
        model.predict(given)
    assert isinstance(refused.value, ValueError)
    assert words in str(refused.value)
    model.close()
    (window,) = wait_for(process.windows)
    assert (window.requests, window.refused) == (0, 1)


def test_texts_and_several_inputs(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    model_file = save_model(
        tmp_path / "texts.onnx",
        [
            helper.make_node("Identity", ["text"], ["same"]),
            helper.make_node("Cast", ["number"], ["float"], to=TensorProto.FLOAT),
        ],
        [tensor("text", TensorProto.STRING, ["N"]), tensor("number", TensorProto.UINT8, ["N"])],
        [tensor("same", TensorProto.STRING, ["N"]), tensor("float", TensorProto.FLOAT, ["N"])],
    )
    process.load(
        make_bundle(
            tmp_path,
            model_file,
            golden_inputs={"text": np.array(["a"], object), "number": np.array([1], np.uint8)},
            golden_outputs={"float": np.array([1], np.float32)},
        )
    )
    for model in (follow(), follow(in_process=False)):
        found = model.predict({"text": ["ü", "b"], "number": [0, 255]})
        assert found["same"].tolist() == ["ü", "b"]
        assert found["float"].tolist() == [0, 255]
        assert sorted(found) == ["float", "same"]
        for wrong in (
            {"text": [object()], "number": [1]},
            {"text": [b"bytes"], "number": [1]},
            {"text": ["a"], "number": [256]},
            {"text": ["a"], "number": [-1]},
            {"text": ["a"], "number": [0.5]},
            {"text": ["a"]},
            ["a"],
        ):
            with pytest.raises(InputRefused):
                model.predict(wrong)
    wait_for(lambda: process.health("activity").requests == 2)
    assert process.health("activity").errors == 0


def test_what_it_counts_is_in_the_slots_counts(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    bundle = activity_bundle(tmp_path)
    process.load(bundle)
    model, asked = follow(), follow(in_process=False)
    labels = Counter[str | None]()
    for sample in activity()[0][:300]:
        labels[model.predict(sample).label] += 1
    labels[asked.predict(activity()[0][0]).label] += 1
    wait_for(lambda: process.health("activity").requests == 301)
    (window,) = process.windows()
    assert window.manifest == bundle.manifest
    assert (window.requests, window.errors, window.non_finite) == (301, 0, 0)
    assert sum(window.latency) == sum(window.confidence) == 301
    assert {LABELS[n]: count for n, count in enumerate(window.classes) if count} == labels


def test_hot_swaps_under_load(process: InferenceProcess, follow: Follow, tmp_path: Path) -> None:
    """Every prediction is answered, counted once, and for the digest that has answered."""
    bundles = [activity_bundle(tmp_path, str(number)) for number in range(5)]
    process.load(bundles[0])
    model = follow()
    stop = threading.Event()
    answered: Counter[str] = Counter()
    failures: list[Exception] = []

    def ask() -> None:
        mine: Counter[str] = Counter()
        while not stop.is_set():
            try:
                mine[model.predict(activity()[0][0]).manifest] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
                failures.append(error)
                return
        answered.update(mine)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for bundle in bundles[1:]:
        process.load(bundle)
        wait_for(lambda bundle=bundle: model.manifest == bundle.manifest)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not failures
    model.close()
    counted: Counter[str] = Counter()

    def all_counted() -> bool:
        for window in process.windows():
            counted[window.manifest] += window.requests
        return counted.total() == answered.total()

    wait_for(all_counted)
    assert counted == answered


def test_a_rollback_loads_nothing(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    first, second = activity_bundle(tmp_path), activity_bundle(tmp_path, "2")
    process.load(first)
    model = follow()
    before = model._follower.serving
    process.load(second)
    wait_for(lambda: model.version == "2")
    process.load(first)
    wait_for(lambda: model.version == "1")
    assert model._follower.serving is before
    model.predict(activity()[0][0])
    wait_for(lambda: process.health("activity").requests == 1)


def test_a_swap_to_another_contract_is_seen(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    process.load(activity_bundle(tmp_path))
    seen: list[tuple[str, str]] = []
    model = follow(on_swap=lambda model: seen.append((model.version, model.inputs[0].name)))
    process.load(passing_bundle(tmp_path))
    wait_for(lambda: seen)
    assert seen == [("2", "x")]
    with pytest.raises(InputRefused):
        model.predict(activity()[0][0])
    assert model.predict([1, 2, 3]).output.tolist() == [[1, 2, 3]]
    assert model.predict(np.ones((9, 3))).output.shape == (9, 3)


def test_a_callback_that_fails_changes_nothing(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    def fail(_: Model) -> None:
        raise RuntimeError

    process.load(activity_bundle(tmp_path))
    model = follow(on_swap=fail)
    for version in ("2", "3"):
        process.load(activity_bundle(tmp_path, version))
        wait_for(lambda version=version: model.version == version)


def test_a_model_that_misbehaves_here_is_seen_by_the_observation_at_once(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    process.load(picky_bundle(tmp_path))
    model = follow()
    assert model.predict([1]).output.tolist() == [20]
    with pytest.raises(PredictionFailed) as failed:
        model.predict([7])
    assert failed.value.code == "sdk.failed"
    wait_for(lambda: process.health("activity").errors == 1)
    process.load(passing_bundle(tmp_path, "3"))
    wait_for(lambda: model.version == "3")
    for value in (np.nan, np.inf, -np.inf):
        assert model.predict([1, value, 2]).label is None
    wait_for(lambda: process.health("activity").non_finite == 3)


def test_failures_without_end_do_not_flood_the_hub(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    process.load(picky_bundle(tmp_path))
    model = follow()
    failed = 0

    def enough() -> bool:
        nonlocal failed
        with pytest.raises(PredictionFailed):
            model.predict([7])
        failed += 1
        return failed >= 200

    wait_for(enough)
    wait_for(lambda: process.health("activity").errors == failed)
    assert not model.problem


def test_scores_of_any_shape_are_counted(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    process.load(passing_bundle(tmp_path, scores=True))
    model = follow()
    batch = model.predict([[9, 0, 0], [0, 9, 0], [0, 0, 9], [0, 0, 9]])
    assert [index for index, _ in batch.rows] == [0, 1, 2, 2]
    assert batch.labels == ["0", "1", "2", "2"]
    assert model.predict([0, 9, 0]).index == 1
    assert model.predict([[np.nan, 0, 0], [1, 2, 3]]).rows == ()
    model.close()
    wait_for(lambda: process.health("activity").requests == 3)
    (window,) = process.windows()
    assert window.classes == (1, 2, 2)
    assert sum(window.confidence) == 5
    assert window.non_finite == 1


def test_litert_runs_in_the_applications_process_too(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    process.load(make_litert_bundle(tmp_path))
    model = follow("sine")
    assert model.in_process
    assert abs(float(model.predict([[1.5708]]).output[0, 0]) - 1) < 0.1


def test_an_encrypted_model_is_asked_at_the_endpoint(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    plain = activity_bundle(tmp_path)
    process.load(encrypt_bundle(plain, tmp_path))
    model = follow()
    assert not model.in_process
    prediction = model.predict(activity()[0][0])
    assert prediction.label in LABELS
    with pytest.raises(InputRefused):
        model.predict([1, 2])
    assert process.health("activity").requests == 1
    process.load(plain)
    wait_for(lambda: model.in_process)
    np.testing.assert_allclose(
        model.predict(activity()[0][0]).output, prediction.output, rtol=1e-5, atol=1e-6
    )


def test_an_endpoint_can_be_asked_without_the_hub(
    process: InferenceProcess, tmp_path: Path
) -> None:
    process.load(activity_bundle(tmp_path))
    for endpoint in (process.endpoint, f"unix:{tmp_path}/inference.sock"):
        with Model("activity", endpoint=endpoint) as model:
            assert model.predict(activity()[0][0]).label in LABELS
            assert model.version == "1"
            process.load(activity_bundle(tmp_path, "2"))
            assert model.predict(activity()[0][0]).version == "2"
            assert model.version == "2"
            process.load(activity_bundle(tmp_path))
    with pytest.raises(ModelUnavailable) as missing:
        Model("another", endpoint=process.endpoint)
    assert missing.value.code == "sdk.empty"


def test_without_an_agent_the_next_step_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable) as missing:
        Model("activity", socket=tmp_path / "none.sock", wait_s=0.3)
    assert missing.value.code == "sdk.agent"
    assert str(tmp_path) in str(missing.value)
    assert "try: start the agent" in str(missing.value)


def test_what_the_endpoint_says_is_said_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text("x" * 32)
    token.chmod(0o600)
    process = InferenceProcess(
        host="127.0.0.1", port=0, socket=None, options=Options(token_file=str(token))
    )
    process.start()
    try:
        process.load(passing_bundle(tmp_path))
        with pytest.raises(ModelUnavailable) as refused:
            Model("activity", endpoint=process.endpoint)
        assert refused.value.code == "sdk.token"
        monkeypatch.setenv("EDGECTL_ENDPOINT_TOKEN", "x" * 32)
        with Model("activity", endpoint=process.endpoint) as model:
            assert model.predict([1, np.nan, 3]).rows == ()
            assert np.isnan(model.predict([1, np.nan, 3]).output[0, 1])
            assert model.predict(np.ones((9, 3))).output.shape == (9, 3)
            process.stop()
            with pytest.raises(ModelUnavailable) as away:
                model.predict([1, 2, 3])
        assert away.value.code == "sdk.agent"
    finally:
        process.stop()


def test_an_empty_slot_is_waited_for(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    model = follow(wait_s=0)
    wait_for(lambda: "sdk.empty" in model.problem)
    with pytest.raises(ModelUnavailable) as missing:
        model.predict(activity()[0][0])
    assert missing.value.code == "sdk.empty"
    assert "edgectl rollout start" in str(missing.value)
    waiting = follow(wait_s=0)
    waiting._wait_s = 60
    process.load(activity_bundle(tmp_path))
    assert waiting.predict(activity()[0][0]).version == "1"


def test_a_model_that_is_withdrawn_is_not_run_any_more(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    process.load(activity_bundle(tmp_path))
    model = follow()
    model.predict(activity()[0][0])
    process.unload("activity")

    def gone() -> str:
        try:
            model._wait_s = 0
            model.predict(activity()[0][0])
        except ModelUnavailable as error:
            return error.code
        return ""

    assert wait_for(gone) == "sdk.withdrawn"
    process.load(activity_bundle(tmp_path, "2"))
    model._wait_s = 60
    assert model.predict(activity()[0][0]).version == "2"


def test_it_goes_on_without_the_agent_and_loses_no_counts(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    bundle = activity_bundle(tmp_path)
    process.load(bundle)
    model = follow()
    process.stop()
    wait_for(lambda: "sdk.agent" in model.problem)
    for sample in activity()[0][:50]:
        assert model.predict(sample).manifest == bundle.manifest
    process.start()
    wait_for(lambda: "sdk.empty" in model.problem)
    assert model.predict(activity()[0][0]).manifest == bundle.manifest, "empty is not withdrawn"
    process.load(bundle)
    wait_for(lambda: process.health("activity").requests == 51)
    assert not model.problem
    process.load(activity_bundle(tmp_path, "2"))
    wait_for(lambda: model.version == "2")
