"""The real model of the demo, run through the pipeline once, and the small models of the tests."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgectl_server.pipeline.runner import run_pipeline
from edgectl_server.pipeline.spec import PipelineResult, PipelineSpec, Progress
from once import made_once

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """A finished run of the pipeline."""

    spec: PipelineSpec
    directory: Path
    result: PipelineResult
    progress: list[Progress] = field(default_factory=list)


@pytest.fixture(scope="session")
def activity() -> Path:
    return ROOT / "server/edgectl/demo/activity"


@pytest.fixture(scope="session")
def occupancy() -> Path:
    return ROOT / "tests/data/occupancy"


def run(directory: Path, **fields: object) -> Run:
    """Run the real child to its end in `directory`."""
    spec = PipelineSpec(**({"model": "m", "version": "1"} | fields))
    progress: list[Progress] = []
    result = run_pipeline(spec, directory, on_progress=progress.append, cancelled=lambda: False)
    return Run(spec, directory, result, progress)


@pytest.fixture(scope="session")
def activity_run(activity: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The whole search on the activity model with its calibration and evaluation data."""

    def make(folder: Path) -> Run:
        return run(
            folder,
            model="har",
            source=activity / "har_v1.onnx",
            calibration=activity / "calibration.npz",
            evaluation=activity / "eval.npz",
            labels=(
                *("walking", "upstairs", "downstairs", "sitting", "standing", "lying"),
                "transition",
            ),
        )

    return made_once(tmp_path_factory, "activity-run", make)


@pytest.fixture(scope="session")
def mlp_run(occupancy: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The whole search on scikit-learn's perceptron: an integer label beside the probabilities."""

    def make(folder: Path) -> Run:
        return run(
            folder,
            model="occupancy",
            source=occupancy / "occ_mlp.onnx",
            calibration=occupancy / "train.npz",
            evaluation=occupancy / "test.npz",
        )

    return made_once(tmp_path_factory, "mlp-run", make)
