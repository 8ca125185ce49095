"""A push as the operator follows it: the files, the request, and the wait for the pipeline."""

from __future__ import annotations

from pathlib import Path

from edgectl.client import Client
from edgectl.errors import LocalError, doing
from edgectl.progress import PushProgress
from edgectl.types import PushAccepted, PushOptions, PushRequest, VersionDetail

__all__ = ["finish_push", "start_push"]


def start_push(
    client: Client,
    progress: PushProgress,
    name: str,
    model: Path,
    *,
    version: str | None = None,
    calibration: Path | None = None,
    evaluation: Path | None = None,
    own_metric: Path | None = None,
    options: PushOptions,
    parent: str | None = None,
) -> PushAccepted:
    """Upload the files and ask for a version."""

    def send(path: Path | None) -> str | None:
        if path is None:
            return None
        with doing(f"uploading {path.name}"):
            report = progress.upload(path.name, path.stat().st_size)
            return client.upload(path, report).sha256

    request = PushRequest(
        model=send(model) or "",
        filename=model.name,
        version=version,
        calibration=send(calibration),
        evaluation=send(evaluation),
        own_metric=send(own_metric),
        options=options,
        parent=parent,
    )
    return client.push(name, request)


def finish_push(client: Client, progress: PushProgress, accepted: PushAccepted) -> VersionDetail:
    """Wait for the job, if there is one, and return the version as it then is."""
    with doing(f"waiting for {accepted.model}@{accepted.version}"):
        if accepted.job is not None:
            _wait(client, progress, accepted, accepted.job)
        return client.patiently(lambda: client.get_version(accepted.model, accepted.version))


def _wait(client: Client, progress: PushProgress, accepted: PushAccepted, job: str) -> None:
    try:
        client.wait_job(job, progress.job)
    except KeyboardInterrupt:
        raise LocalError(
            "push.interrupted",
            f"no longer watching; the push of {accepted.model}@{accepted.version} goes on",
            f"follow it with `edgectl jobs show {job} --watch`,"
            f" stop it with `edgectl jobs cancel {job}`",
        ) from None
