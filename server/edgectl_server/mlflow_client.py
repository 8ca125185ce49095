"""The calls of MLflow's REST API (2.0) that tell of a training: one run of one experiment.

https://mlflow.org/docs/latest/api_reference/rest-api.html. Everything can be done twice: the run is
looked for by a tag before it is made, parameters and tags keep their values, and metrics have the
time of the training. Answers are read up to a bound; redirects are not followed, so that a token
goes nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import httpx2
import msgspec

__all__ = ["MlflowClient", "MlflowFailed", "TrackedRun"]

_STEP_S = 5.0
_CALL_S_MAX = 15.0
_ANSWER_BYTES_MAX = 1024 * 1024
_NOT_FOUND = 404
_OK = 200
_PARAMS_MAX = 100
_METRICS_MAX = 400
_VALUE_MAX = 500
"""Characters of a parameter that every version of MLflow takes."""
_TAG = "edgectl.retraining"
_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./ ")
_Answer = TypeVar("_Answer")


class MlflowFailed(Exception):
    """The tracking server could not be told."""


class TrackedRun(NamedTuple):
    """What is told of one training; times in ms since 1970."""

    identity: str
    """By which it is found again."""
    name: str
    status: str
    """FINISHED, FAILED or KILLED."""
    began_ms: int
    ended_ms: int
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


class _Experiment(msgspec.Struct):
    experiment_id: str


class _Got(msgspec.Struct):
    experiment: _Experiment


class _RunInfo(msgspec.Struct):
    run_id: str


class _Run(msgspec.Struct):
    info: _RunInfo


class _Made(msgspec.Struct):
    run: _Run


class _Found(msgspec.Struct):
    runs: list[_Run] = []


class MlflowClient:
    """Tells one tracking server. Its methods are for one thread at a time."""

    def __init__(self, uri: str, experiment: str, token: Callable[[], str]) -> None:
        """Take where it is.

        Args:
            uri: of the tracking server, https or http.
            experiment: that runs belong to; it is made if there is none of this name.
            token: returns the bearer token, empty for none; asked at each call, so that a new one
                is taken without a restart.
        """
        self._uri = uri.rstrip("/")
        self._experiment = experiment
        self._token = token

    def tell(self, run: TrackedRun) -> tuple[str, str]:
        """Write a run; return its id and the address of its page.

        Raises:
            MlflowFailed: it cannot be reached, refuses, or answers what is no answer.
        """
        with httpx2.Client(timeout=_STEP_S, follow_redirects=False) as http:
            self._http = http
            experiment = self._find_experiment()
            found = self._find_run(experiment, run) or self._make_run(experiment, run)
            self._log(found, run)
            end = {"run_id": found, "status": run.status, "end_time": run.ended_ms}
            self._call("POST", "runs/update", dict, json=end)
        return found, f"{self._uri}/#/experiments/{experiment}/runs/{found}"

    def _find_experiment(self) -> str:
        named = {"experiment_name": self._experiment}
        found = self._call("GET", "experiments/get-by-name", _Got, params=named, missing=True)
        if found is not None:
            return found.experiment.experiment_id
        made = self._call(
            "POST", "experiments/create", _Experiment, json={"name": self._experiment}
        )
        assert made is not None
        return made.experiment_id

    def _find_run(self, experiment: str, run: TrackedRun) -> str | None:
        wanted = {
            "experiment_ids": [experiment],
            "filter": f"tags.`{_TAG}` = '{run.identity}'",
            "max_results": 1,
        }
        found = self._call("POST", "runs/search", _Found, json=wanted)
        assert found is not None
        return found.runs[0].info.run_id if found.runs else None

    def _make_run(self, experiment: str, run: TrackedRun) -> str:
        wanted = {
            "experiment_id": experiment,
            "run_name": run.name,
            "start_time": run.began_ms,
            "tags": [{"key": _TAG, "value": run.identity}],
        }
        made = self._call("POST", "runs/create", _Made, json=wanted)
        assert made is not None
        return made.run.info.run_id

    def _log(self, found: str, run: TrackedRun) -> None:
        batch = {
            "run_id": found,
            "params": _pairs(run.params)[:_PARAMS_MAX],
            "tags": _pairs(run.tags),
            "metrics": [
                {"key": _key(name), "value": value, "timestamp": run.ended_ms, "step": 0}
                for name, value in list(run.metrics.items())[:_METRICS_MAX]
            ],
        }
        self._call("POST", "runs/log-batch", dict, json=batch)

    def _call(
        self, method: str, path: str, kind: type[_Answer], *, missing: bool = False, **options: Any
    ) -> _Answer | None:
        """Ask, and return the answer; None where `missing` is an answer and there is nothing."""
        headers = {"Accept-Encoding": "identity"}
        token = self._token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        address = f"{self._uri}/api/2.0/mlflow/{path}"
        try:
            with self._http.stream(method, address, headers=headers, **options) as answer:
                content = _read(answer)
                status = answer.status_code
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise MlflowFailed(f"{path}: {type(error).__name__}: {error}") from error
        if missing and status == _NOT_FOUND:
            return None
        if status != _OK:
            raise MlflowFailed(f"{path}: answered {status}")
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.MsgspecError as error:
            raise MlflowFailed(f"{path}: this is no tracking server of MLflow") from error


def _read(answer: httpx2.Response) -> bytes:
    content, end = b"", time.monotonic() + _CALL_S_MAX
    for part in answer.iter_bytes():
        content += part
        if len(content) > _ANSWER_BYTES_MAX:
            raise MlflowFailed(f"answered more than {_ANSWER_BYTES_MAX} bytes")
        if time.monotonic() > end:
            raise MlflowFailed(f"no whole answer within {_CALL_S_MAX:g} s")
    return content


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": _key(name), "value": value[:_VALUE_MAX]} for name, value in values.items()]


def _key(name: str) -> str:
    """Return a name as MLflow takes it."""
    return "".join(one if one in _ALLOWED else "_" for one in name)[:250]
