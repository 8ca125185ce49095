"""``edgectl server worker``: a machine that trains, and makes trials (`trial_sharing`), for others.

It needs the server's database and blob store, and a folder of its own. Whoever has the database has
the server's data: a worker is as trusted as that. Trials and trainings have a thread each.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading

from edgectl_server.clock import now
from edgectl_server.errors import Unavailable
from edgectl_server.job_workers import register_distant_training
from edgectl_server.jobs import Jobs
from edgectl_server.known_trials import KnownTrials
from edgectl_server.settings import Settings
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.files import make_private_directory
from edgectl_server.trial_sharing import TRIALS, Presence, TrialsHandler

__all__ = ["run_worker"]

_BEAT_S = 3.0
_LOOK_S = 1.0
_NAME_MAX = 128
_TRAINING = ", training"


def run_worker(settings: Settings, *, as_json: bool) -> None:
    """Make trials and train until SIGTERM or SIGINT.

    Args:
        settings: ``database_url`` and ``blobs_url`` are the server's, the data folder is its own.
        as_json: print the ready line as JSON.

    Raises:
        Unavailable: ``worker.shared``: there is nothing that it could share with a server.
        Refused: ``settings.trainers``.
    """
    if not settings.database_url:
        raise Unavailable(
            "worker.shared",
            "a worker has the server's database, and none is named",
            hint="set database_url (PostgreSQL) and blobs_url to those of the server",
        )
    os.umask(0o077)
    data = make_private_directory(settings.data_path)
    name = f"{socket.gethostname()[:60]}:{data}"[:_NAME_MAX]
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _signal, _frame: stopping.set())
    database = Database(settings.database_address)
    try:
        blobs = BlobStore(settings.blobs_address)
        jobs = _jobs(settings, database, name)
        known = KnownTrials(database, blobs, now, bytes_max=settings.known_trials_bytes_max)
        handler = TrialsHandler(
            data / "trials",
            database=database,
            blobs=blobs,
            known_trials=known,
            workers=settings.pipeline_workers,
        )
        jobs.register(TRIALS, handler)
        training = _jobs(settings, database, _training_name(name))
        trainers = register_distant_training(training, settings, database=database, blobs=blobs)
        presence = Presence(database, now, name, trainers)
        presence.beat()
        for one in (jobs, training):
            one.start()
        _say_ready(name, as_json=as_json)
        try:
            while not stopping.wait(_BEAT_S):
                presence.beat()
        finally:
            for one in (training, jobs):
                one.close()
            presence.leave()
    finally:
        database.close()


def _jobs(settings: Settings, database: Database, name: str) -> Jobs:
    return Jobs(
        database,
        now,
        worker=name,
        lease_s=settings.job_lease_s,
        attempts_max=settings.job_attempts_max,
        look_s=_LOOK_S,
    )


def _training_name(name: str) -> str:
    """Return the name that the trainings of a machine are held under."""
    return f"{name[: _NAME_MAX - len(_TRAINING)]}{_TRAINING}"


def _say_ready(name: str, *, as_json: bool) -> None:
    line = json.dumps({"ready": True, "worker": name}) if as_json else f"worker {name}: ready"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
