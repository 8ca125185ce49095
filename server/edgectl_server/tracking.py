"""Retrainings are told to a tracking server once they have ended, if one is set.

Rules:

1. A training never waits for it: what is to be told is in the retraining's own row, and a duty of
   the server tells it afterwards. A tracking server that is away delays nothing and fails nothing.
2. A row is claimed by writing when it is due again, so that of several servers one tells it; who
   was killed in between does it again, and finds the run that it had made.
3. It is tried again as messages of alerts are, and given up after that: the row says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgectl_server.errors import Refused, Unavailable
from edgectl_server.mlflow_client import MlflowClient, MlflowFailed, TrackedRun
from edgectl_server.settings import Settings
from edgectl_server.signing.key_files import read_passphrase
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Job, RetrainingRow

__all__ = ["Tracker", "open_client"]

logger = logging.getLogger(__name__)

_CLAIM = timedelta(seconds=180)
_ERROR_MAX = 300
_AGAIN_S = (5, 60, 300, 1800, 7200, 18000, 36000)
_TOLD_AT_ONCE = 16
_STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}


def open_client(settings: Settings) -> MlflowClient | None:
    """Return what tells; None: no tracking server is set.

    Raises:
        Refused: ``settings.mlflow``: the address is none.
        Unavailable: ``keys.passphrase`` or ``keys.permissions``: of the token's file.
    """
    uri, file = settings.mlflow_uri, settings.mlflow_token_file
    if not uri:
        return None
    parts = urlsplit(uri)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise Refused(
            "settings.mlflow",
            "mlflow_uri is no address of a tracking server, or has a user in it",
            hint="set it to such as https://mlflow.example.org; a token goes to mlflow_token_file",
        )
    read_passphrase(file)

    def token() -> str:
        return (read_passphrase(file) or b"").decode("latin-1")

    return MlflowClient(uri, settings.mlflow_experiment, token)


class Tracker:
    """Tells what has ended; `look` is called by a ticker."""

    def __init__(
        self, database: Database, client: MlflowClient, now: Callable[[], datetime]
    ) -> None:
        """Take what it needs."""
        self._database = database
        self._client = client
        self._now = now

    def look(self) -> int:
        """Tell the retrainings that have ended; return how many were told."""
        told = 0
        for _ in range(_TOLD_AT_ONCE):
            claimed = self._claim()
            if claimed is None:
                break
            told += self._tell(*claimed)
        return told

    def _claim(self) -> tuple[str, TrackedRun] | None:
        now = self._now()
        due = (
            select(RetrainingRow)
            .join(Job, Job.id == RetrainingRow.id)
            .where(RetrainingRow.track_at <= now, Job.finished_at.is_not(None))
            .order_by(RetrainingRow.track_at)
            .limit(1)
        )
        with self._database.read() as session:  # most looks find nothing, and lock nothing
            if session.scalar(due.with_only_columns(RetrainingRow.id)) is None:
                return None
        with self._database.write() as session:
            row = session.scalars(
                due.with_for_update(of=RetrainingRow, skip_locked=True)
            ).one_or_none()
            if row is None:
                return None
            row.track_at = now + _CLAIM
            return row.id, run_of(row, session.get_one(Job, row.id))

    def _tell(self, retraining: str, run: TrackedRun) -> bool:
        try:
            identity, address = self._client.tell(run)
        except (MlflowFailed, Unavailable) as error:
            self._failed(retraining, str(error))
            return False
        with self._database.write() as session:
            row = _locked(session, retraining)
            row.tracking = {"state": "told", "run": identity, "address": address, "error": ""}
            row.track_at = None
        return True

    def _failed(self, retraining: str, why: str) -> None:
        with self._database.write() as session:
            row = _locked(session, retraining)
            tries = (row.tracking or {}).get("tries", 0) + 1
            again = tries <= len(_AGAIN_S)
            row.track_at = self._now() + timedelta(seconds=_AGAIN_S[tries - 1]) if again else None
            state = "pending" if again else "failed"
            row.tracking = {"state": state, "tries": tries, "error": why[:_ERROR_MAX]}
        logger.warning("retraining %s could not be told to MLflow: %s", retraining, why)


def run_of(row: RetrainingRow, job: Job) -> TrackedRun:
    """Return what is told of a retraining."""
    accuracies = row.accuracies or {}
    metrics: dict[str, float] = {f"trainer.{name}": v for name, v in (row.metrics or {}).items()}
    for kind in ("new", "old"):
        pair = accuracies.get(kind)
        if pair is None or not pair["rows"]:
            continue
        metrics |= {
            f"{kind}.rows": pair["rows"],
            f"{kind}.champion_accuracy": pair["champion"] / pair["rows"],
            f"{kind}.challenger_accuracy": pair["challenger"] / pair["rows"],
        }
    asked = {name: str(value) for name, value in row.request.items() if value is not None}
    tags = {
        "edgectl.model": row.model,
        "edgectl.dataset": row.dataset,
        "edgectl.by": row.created_by,
        "edgectl.passed": str(row.candidate is not None).lower(),
    }
    if row.candidate is not None:
        tags["edgectl.candidate"] = row.candidate
    if row.version is not None:
        tags["edgectl.version"] = f"{row.model}@{row.version}"
    if job.error is not None:
        tags["edgectl.refused"] = f"{job.error.get('code')}: {job.error.get('detail')}"
    fixed = {"model": row.model, "parent": row.parent, "dataset": row.dataset}
    return TrackedRun(
        identity=row.id,
        name=f"{row.model} {row.id[:8]}",
        status=_STATUS.get(job.state, "FAILED"),
        began_ms=_ms(job.started_at or job.created_at),
        ended_ms=_ms(job.finished_at or job.created_at),
        params=fixed | asked | {"trainer": row.trainer, "dataset": row.dataset},
        metrics=metrics,
        tags=tags,
    )


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _locked(session: Session, retraining: str) -> Any:
    return session.get_one(RetrainingRow, retraining, with_for_update=True)
