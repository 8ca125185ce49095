"""The server's workers: which one does which kind of job.

Pushes and imports are done one after the other by one worker. Deltas have one of their own, and so
has training: neither is waited for by a push. Training is done on other machines too, by those that
have the trainer; what has passed there is pushed on the server, which alone signs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import ColumnElement, false

from edgectl_server.clock import now
from edgectl_server.contracts import Contracts
from edgectl_server.control_plane import ControlPlane
from edgectl_server.datasets import Datasets
from edgectl_server.delta_making import DELTAS, DeltasHandler
from edgectl_server.device_logs import LOGS
from edgectl_server.errors import Refused
from edgectl_server.imports import IMPORT, ImportHandler
from edgectl_server.jobs import Jobs
from edgectl_server.known_trials import KnownTrials
from edgectl_server.measurements import BENCHMARK
from edgectl_server.push import PushHandler
from edgectl_server.registry import PUSH, Registry
from edgectl_server.retraining import RETRAIN, RetrainHandler, Retrainings, trained_by
from edgectl_server.settings import Settings
from edgectl_server.signing.microcontroller_key import MicrocontrollerKey
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.training.trainers import (
    BUILT_IN,
    OwnTrainer,
    TrainersInvalid,
    load_trainers,
)
from edgectl_server.trial_sharing import TrialSharing

__all__ = ["open_delta_worker", "open_training", "open_worker", "register_distant_training"]


def _worker(settings: Settings, database: Database, name: str) -> Jobs:
    return Jobs(
        database,
        now,
        worker=name,
        lease_s=settings.job_lease_s,
        attempts_max=settings.job_attempts_max,
    )


def open_worker(
    settings: Settings,
    plane: ControlPlane,
    *,
    database: Database,
    blobs: BlobStore,
    known_trials: KnownTrials,
    passphrase: bytes | None,
) -> Jobs:
    """Return the worker that pushes and imports, and knows of the jobs that devices do."""
    data = settings.data_path
    jobs = _worker(settings, database, "server")
    push = PushHandler(
        data / "jobs",
        settings=settings,
        database=database,
        blobs=blobs,
        repository=plane.repository,
        signing=plane.signing,
        content_keys=plane.content_keys,
        microcontrollers=MicrocontrollerKey(data / "keys", passphrase=passphrase),
        known_trials=known_trials,
        sharing=TrialSharing(database, blobs, jobs, now),
        publisher=plane.publisher,
        now=now,
    )
    jobs.register(PUSH, push)
    importing = ImportHandler(
        data / "imports",
        database=database,
        blobs=blobs,
        repository=plane.repository,
        signing=plane.signing,
        publisher=plane.publisher,
        now=now,
    )
    jobs.register(IMPORT, importing)
    jobs.register_remote(BENCHMARK)
    jobs.register_remote(LOGS)
    return jobs


def open_delta_worker(
    settings: Settings,
    database: Database,
    blobs: BlobStore,
    *,
    made: Callable[[], None],
    cancelled_by: Jobs,
) -> Jobs:
    """Return the worker that makes deltas; it has no other work, and nobody else has this.

    Args:
        settings: limits of the work.
        database: of the jobs.
        blobs: of the models, and of what is made.
        made: called when rollouts need not wait any more.
        cancelled_by: the worker through which people cancel jobs. It makes no deltas, and writes
            what follows where none will be made.
    """
    worker = _worker(settings, database, "deltas")
    handler = DeltasHandler(
        settings.data_path / "deltas",
        settings=settings,
        database=database,
        blobs=blobs,
        now=now,
        made=made,
    )
    worker.register(DELTAS, handler)
    cancelled_by.register(DELTAS, handler, able=false())
    return worker


def _load_own_trainers(settings: Settings) -> Mapping[str, OwnTrainer]:
    """Return the operator's own trainers; raise `Refused` ``settings.trainers``."""
    try:
        return load_trainers(settings.trainers_file)
    except TrainersInvalid as error:
        raise Refused(
            "settings.trainers",
            str(error)[:1000],
            hint="docs/training.md shows what trainers_file holds",
        ) from error


def open_training(
    settings: Settings,
    database: Database,
    blobs: BlobStore,
    datasets: Datasets,
    registry: Registry,
) -> tuple[Retrainings, Jobs]:
    """Return the retrainings, and the worker that trains, if this server does.

    Raises:
        Refused: ``settings.trainers``.
    """
    trainers = _load_own_trainers(settings)
    worker = _worker(settings, database, "training")
    if settings.trains:
        _register_training(
            worker,
            settings,
            database=database,
            blobs=blobs,
            datasets=datasets,
            registry=registry,
            trainers=trainers,
        )
    retrainings = Retrainings(
        database=database,
        datasets=datasets,
        jobs=worker,
        trainers=trainers,
        now=now,
        tracked=bool(settings.mlflow_uri),
    )
    return retrainings, worker


def register_distant_training(
    worker: Jobs, settings: Settings, *, database: Database, blobs: BlobStore
) -> Sequence[str]:
    """Let the worker of another machine train for the server; return the trainers that it has.

    Args:
        worker: of that machine.
        settings: of that machine: its folder, its limits, its trainers.
        database: the server's.
        blobs: the server's.

    Raises:
        Refused: ``settings.trainers``.
    """
    datasets = Datasets(
        database=database,
        contracts=Contracts(blobs),
        uploads=BlobStore(settings.device_uploads_address),
        bytes_max=settings.datasets_bytes_max,
        now=now,
    )
    trainers = _load_own_trainers(settings)
    # It only pushes: what it would show of a version is asked of the server.
    registry = Registry(
        database, blobs, worker, now, shares=list, waits_for=lambda: lambda _path: None
    )
    _register_training(
        worker,
        settings,
        database=database,
        blobs=blobs,
        datasets=datasets,
        registry=registry,
        trainers=trainers,
        able=trained_by(trainers),
    )
    return (BUILT_IN, *trainers)


def _register_training(
    worker: Jobs,
    settings: Settings,
    *,
    database: Database,
    blobs: BlobStore,
    datasets: Datasets,
    registry: Registry,
    trainers: Mapping[str, OwnTrainer],
    able: ColumnElement[bool] | None = None,
) -> None:
    handler = RetrainHandler(
        settings.data_path / "trainings",
        settings=settings,
        database=database,
        blobs=blobs,
        datasets=datasets,
        registry=registry,
        trainers=trainers,
        now=now,
    )
    worker.register(RETRAIN, handler, able=able)
