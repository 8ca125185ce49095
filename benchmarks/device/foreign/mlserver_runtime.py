"""The runtime that an MLServer user writes for an ONNX model, after its documentation."""

from __future__ import annotations

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    """One ONNX model."""

    async def load(self) -> bool:
        """Load it with one thread."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        uri = self.settings.parameters.uri
        self._session = onnxruntime.InferenceSession(
            uri, options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Compute the output."""
        given = payload.inputs[0]
        values = NumpyCodec.decode_input(given)
        (output,) = self._session.run(None, {given.name: values})
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("logits", output)]
        )
