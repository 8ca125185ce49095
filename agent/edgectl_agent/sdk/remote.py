"""A model that is asked at the agent's inference endpoint: encrypted ones, and by choice.

The same predictions, slower: a request over HTTP each, on one connection for each thread. The agent
counts; here nothing is counted. Open Inference Protocol v2 with tensors in binary form.
"""

from __future__ import annotations

import http.client
import os
import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Struct

from edgectl_agent.inference.hub_messages import Elsewhere
from edgectl_agent.inference.protocol import KEEP
from edgectl_agent.inference.tensors import from_raw, to_raw
from edgectl_agent.sdk.contract import arrays_of
from edgectl_agent.sdk.errors import InputRefused, ModelUnavailable, PredictionFailed
from edgectl_agent.sdk.prediction import Answered, Prediction, Row, rows_of
from edgectl_agent.session import Tensor
from edgectl_agent.unix_path import short_path
from edgectl_protocol.manifest import Scores, TensorSpec

__all__ = ["Contract", "Remote"]

TOKEN_VARIABLE = "EDGECTL_ENDPOINT_TOKEN"  # noqa: S105 - a name
"""The endpoint's token, where the setting endpoint_token_file asks for one."""
_ANSWER_S_MAX = 60.0
_ANSWER_BYTES_MAX = 256 * 1024 * 1024
_OK, _BAD, _UNAUTHORIZED, _NOT_FOUND = 200, 400, 401, 404
_HEAD_HEADER = "Inference-Header-Content-Length"
_BUSY = frozenset({429, 503})


class Contract(Struct, frozen=True, kw_only=True):
    """What of a bundle's description is needed to ask for predictions and to read them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] = ()
    scores: Scores | None = None


class _Parameters(Struct, frozen=True, kw_only=True):
    manifest: str = ""
    variant: str = ""
    non_finite: bool = False


class _Metadata(Struct, frozen=True, kw_only=True):
    versions: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] = ()
    scores: Scores | None = None
    parameters: _Parameters = _Parameters()


class _Binary(Struct, frozen=True, kw_only=True):
    binary_data_size: int


class _Output(Struct, frozen=True, kw_only=True):
    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: _Binary


class _Answer(Struct, frozen=True, kw_only=True):
    model_version: str
    outputs: tuple[_Output, ...]
    parameters: _Parameters = _Parameters()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with short_path(self._path) as name:
            self.sock.connect(name)


class Remote:
    """One model of the endpoint; may be asked from any thread."""

    def __init__(self, slot: str, endpoint: str, offered: Elsewhere | None = None) -> None:
        """Take the contract, from the endpoint where the hub has not said it.

        Args:
            slot: name of the model.
            endpoint: such as ``http://127.0.0.1:8500``, or ``unix:/path/to/socket``.
            offered: what the hub says of it.

        Raises:
            ModelUnavailable: the endpoint was asked, and does not answer, or has no such model.
        """
        self._slot, self._endpoint = slot, endpoint
        self._base = f"/v2/models/{quote(slot, safe='')}"
        self._headers = {"Content-Type": "application/json"}
        token = os.environ.get(TOKEN_VARIABLE, "")
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._of_thread = threading.local()
        self._connections: set[http.client.HTTPConnection] = set()
        self.answered = Answered(version="", variant="", manifest="", config=_NO_CONTRACT)
        if offered is None:
            try:
                self.refresh()
            except BaseException:
                self.close()
                raise
        else:
            self.answered = Answered(
                version=offered.version,
                variant=offered.variant,
                manifest=offered.manifest,
                config=Contract(
                    inputs=offered.config.inputs,
                    outputs=offered.config.outputs,
                    labels=offered.config.labels,
                    scores=offered.config.scores,
                ),
            )

    def refresh(self) -> None:
        """Ask for the contract of what serves now; raise `ModelUnavailable`."""
        content, _ = self._ask("GET", self._base, None)
        found = msgspec.json.decode(content, type=_Metadata)
        self.answered = Answered(
            version=found.versions[0],
            variant=found.parameters.variant,
            manifest=found.parameters.manifest,
            config=Contract(
                inputs=found.inputs,
                outputs=found.outputs,
                labels=found.labels,
                scores=found.scores,
            ),
        )

    def predict(self, given: Any, *, keep_sample: bool = False, request: str = "") -> Prediction:
        """Ask for one prediction; see `Model.predict`."""
        arrays = arrays_of(given, self.answered.config.inputs)
        head, tensors = [], []
        for spec in self.answered.config.inputs:
            raw = to_raw(arrays[spec.name], spec.datatype)
            tensors.append(raw)
            head.append(
                {
                    "name": spec.name,
                    "shape": arrays[spec.name].shape,
                    "datatype": spec.datatype,
                    "parameters": {"binary_data_size": len(raw)},
                }
            )
        parameters = {"binary_data_output": True, **({KEEP: True} if keep_sample else {})}
        named = {"id": request} if request else {}
        content = msgspec.json.encode({**named, "inputs": head, "parameters": parameters})
        body = b"".join((content, *tensors))
        answer, values = _read(*self._ask("POST", f"{self._base}/infer", body, len(content)))
        if answer.parameters.manifest != self.answered.manifest:
            self.refresh()
        config = self.answered.config
        rows: tuple[Row, ...] = ()
        if config.scores is not None and not answer.parameters.non_finite:
            rows = rows_of(config.scores, values[config.scores.output])
        return Prediction(self.answered, values, rows)

    def close(self) -> None:
        """Hang up; a request under way connects again."""
        while self._connections:
            self._connections.pop().close()

    def _ask(
        self, method: str, path: str, body: bytes | None, head_bytes: int = 0
    ) -> tuple[bytes, int]:
        """Return the answer's body, and how much of it is JSON before binary tensors.

        A kept connection that has gone is replaced once.

        Args:
            method: of HTTP.
            path: of the route.
            body: JSON, then tensors.
            head_bytes: how much of it is JSON, where tensors follow.
        """
        headers = self._headers
        if head_bytes:
            headers = {**headers, _HEAD_HEADER: str(head_bytes)}
        for fresh in (False, True):
            connection = self._connection(fresh=fresh)
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                content = response.read(_ANSWER_BYTES_MAX)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if fresh or isinstance(error, TimeoutError):
                    raise ModelUnavailable(
                        "sdk.agent",
                        f"the inference endpoint does not answer at {self._endpoint}: {error}",
                        hint="start the agent; `edgectl-agent status` says what runs",
                    ) from error
                continue
            if response.status == _OK:
                return content, int(response.headers.get(_HEAD_HEADER, len(content)))
            raise self._error(response.status, content)
        raise AssertionError

    def _connection(self, *, fresh: bool) -> http.client.HTTPConnection:
        kept: http.client.HTTPConnection | None = getattr(self._of_thread, "connection", None)
        if kept is None or fresh:
            if kept is not None:
                self._connections.discard(kept)
            address = urlsplit(self._endpoint)
            if address.scheme == "unix":
                kept = _UnixConnection(Path(address.path), _ANSWER_S_MAX)
            else:
                kept = http.client.HTTPConnection(
                    address.hostname or "127.0.0.1", address.port or 80, timeout=_ANSWER_S_MAX
                )
            self._of_thread.connection = kept
            self._connections.add(kept)
        return kept

    def _error(self, status: int, content: bytes) -> Exception:
        try:
            sentence = str(msgspec.json.decode(content, type=dict[str, Any]).get("error", ""))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            sentence = f"HTTP {status}"
        if status == _BAD:
            return InputRefused("sdk.input", sentence)
        if status == _NOT_FOUND:
            return ModelUnavailable(
                "sdk.empty", sentence, hint="`edgectl-agent status` says what this device runs"
            )
        if status in _BUSY:
            return ModelUnavailable("sdk.busy", sentence, hint="ask again a little later")
        if status == _UNAUTHORIZED:
            return ModelUnavailable(
                "sdk.token", sentence, hint=f"give the endpoint's token in {TOKEN_VARIABLE}"
            )
        return PredictionFailed("sdk.failed", sentence, hint="try again")


_NO_CONTRACT = Contract(inputs=(), outputs=())


def _read(content: bytes, head_bytes: int) -> tuple[_Answer, dict[str, Tensor]]:
    """Return the answer and its outputs by name."""
    view = memoryview(content)
    answer = msgspec.json.decode(view[:head_bytes], type=_Answer)
    values, at = {}, head_bytes
    for output in answer.outputs:
        end = at + output.parameters.binary_data_size
        values[output.name] = from_raw(output.name, view[at:end], output.shape, output.datatype)
        at = end
    return answer, values
