"""``Model``: what an application of the device asks.

::

    from edgectl_agent import Model

    model = Model("gesture")
    prediction = model.predict(window)          # an array, a list, or a dict of them
    print(prediction.label, prediction.confidence, prediction.version)

The model runs in the application's own process and follows what the agent serves in the slot: a new
version is loaded and warmed up in a background thread, then one reference changes. Counts, never
inputs, go to the agent, for telemetry and for the observation of a new version.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from edgectl_agent.sdk.follower import Follower, Serving
from edgectl_agent.sdk.loaded import Loaded
from edgectl_agent.sdk.outcomes import check_request
from edgectl_agent.sdk.prediction import Prediction
from edgectl_agent.sdk.remote import Remote
from edgectl_protocol.manifest import TensorSpec
from edgectl_protocol.names import check_model_name

__all__ = ["DEFAULT_SOCKETS", "SOCKET_VARIABLE", "Model"]

SOCKET_VARIABLE = "EDGECTL_MODELS_SOCKET"
DEFAULT_SOCKETS = (
    Path("/run/edgectl-agent/models.sock"),
    Path("/var/lib/edgectl-agent/models.sock"),
)


class Model:
    """The model that serves in one slot of this device; safe to use from several threads.

    Attributes:
        name: of the slot.
        on_swap: called with this model, in a background thread, after another version has taken
            over; None for nothing. Inputs and labels may be others then.
    """

    def __init__(
        self,
        name: str,
        *,
        wait_s: float = 10.0,
        in_process: bool = True,
        socket: str | Path | None = None,
        endpoint: str | None = None,
        on_swap: Callable[[Model], object] | None = None,
    ) -> None:
        """Follow the slot `name`, and wait until there is a model.

        Args:
            name: of the slot: the model's name.
            wait_s: how long to wait for a model, here and in `predict` when there is none; 0 does
                not wait, and the constructor then raises nothing.
            in_process: False asks the agent's inference endpoint instead: slower, without a copy of
                the model in this process, and without a runtime here.
            socket: path of the agent's models_socket. By default that of the environment variable
                EDGECTL_MODELS_SOCKET, or the first of `DEFAULT_SOCKETS` that is there.
            endpoint: address of the inference endpoint, ``http://127.0.0.1:8500`` or
                ``unix:/path/to/socket``, for an application that may not connect to the
                models_socket: as ``in_process=False``, and nothing is followed.
            on_swap: see the attribute.

        Raises:
            InvalidName: `name` cannot be a model's name.
            ModelUnavailable: there is no model within `wait_s`.
        """
        self.name = check_model_name(name)
        self.on_swap = on_swap
        self._wait_s = wait_s
        this = weakref.ref(self)  # the thread must not keep alive what nobody uses any more
        follower = self._follower = Follower(
            name,
            _socket_path(socket),
            lambda: _swapped(this),
            files=in_process and endpoint is None,
        )
        self._end = weakref.finalize(self, follower.close)
        if endpoint is not None:
            follower.serving = Remote(name, endpoint)
        elif wait_s > 0:
            follower.wait(wait_s)
        else:
            follower.start()

    def wait(self, wait_s: float) -> None:
        """Wait until there is a model, at most `wait_s`; raise `ModelUnavailable`."""
        self._follower.wait(wait_s)

    def predict(self, given: Any, *, keep_sample: bool = False, request: str = "") -> Prediction:
        """Return the outputs for one input, or one batch.

        Args:
            given: an array, a list or a number for a model with one input; a dict of them by input
                name otherwise. Shape and datatype are those of `inputs`; a sample may leave out a
                batch axis of 1 or -1, and numbers are converted where nothing but precision is
                lost.
            keep_sample: whether the input shall be kept for labelling, where the model's policy of
                samples has the reason ``asked``; one of many is, within the budget of the day.
            request: the application's own name of this request, 64 printable characters of ASCII
                without spaces: a sample of it carries the name, so that `tell_outcome` can say
                later what it was of. Of many rows, row N is ``REQUEST:N``.

        Raises:
            InputRefused: it does not fit, or `request` is no name; also a ValueError.
            PredictionFailed: the model failed on it.
            ModelUnavailable: there is no model, also after `wait_s`.
        """
        if request:
            check_request(request)
        serving = self._follower.serving
        if serving is None:
            serving = self._follower.wait(self._wait_s)
        return serving.predict(given, keep_sample=keep_sample, request=request)

    def predict_batch(self, samples: Sequence[Any]) -> list[Prediction]:
        """Return one prediction for each sample; all are of the same version.

        Raises:
            As `predict`, of the first sample that fails.
        """
        serving = self._serving()
        return [serving.predict(sample) for sample in samples]

    @property
    def version(self) -> str:
        """Version that answers now."""
        return self._serving().answered.version

    @property
    def variant(self) -> str:
        """Its variant, such as ``int8``."""
        return self._serving().answered.variant

    @property
    def manifest(self) -> str:
        """Digest of its bundle."""
        return self._serving().answered.manifest

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its classes; empty where the bundle has none."""
        return self._serving().answered.config.labels

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Its inputs: name, datatype, shape; -1 is any size."""
        return self._serving().answered.config.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Its outputs."""
        return self._serving().answered.config.outputs

    @property
    def in_process(self) -> bool:
        """Whether it runs in this process; encrypted models do not."""
        return isinstance(self._serving(), Loaded)

    @property
    def problem(self) -> str:
        """Why nothing newer is here, such as an agent that is away; empty if all is well."""
        return str(self._follower.problem or "")

    def close(self) -> None:
        """Tell the agent the last counts, forget the model; done when the process ends as well."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        serving = self._follower.serving
        shown = (
            f"{serving.answered.version} ({serving.answered.variant})" if serving else "no model"
        )
        return f"<Model {self.name}: {shown}>"

    def _serving(self) -> Serving:
        return self._follower.serving or self._follower.wait(self._wait_s)


def _swapped(this: weakref.ref[Model]) -> None:
    model = this()
    if model is not None and model.on_swap is not None:
        model.on_swap(model)


def _socket_path(given: str | Path | None) -> Path:
    given = given or os.environ.get(SOCKET_VARIABLE)
    if given:
        return Path(given).absolute()
    return next((path for path in DEFAULT_SOCKETS if path.exists()), DEFAULT_SOCKETS[-1])
