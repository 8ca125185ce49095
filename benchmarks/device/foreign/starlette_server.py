"""What a careful user would write: Open Inference Protocol, JSON by msgspec, on Starlette.

``python starlette_server.py PORT NAME=MODEL.onnx …``
"""

from __future__ import annotations

import sys

import msgspec
import numpy as np
import onnxruntime
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def main(arguments: list[str]) -> None:
    """Serve the models until killed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {
        name: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for name, _, path in (argument.partition("=") for argument in arguments[1:])
    }

    async def infer(request: Request) -> Response:
        name = request.path_params["name"]
        given = msgspec.json.decode(await request.body())["inputs"][0]
        values = np.array(given["data"], np.float32).reshape(given["shape"])
        (output,) = sessions[name].run(None, {given["name"]: values})
        answer = {
            "model_name": name,
            "outputs": [
                {
                    "name": "logits",
                    "shape": output.shape,
                    "datatype": "FP32",
                    "data": output.ravel().tolist(),
                }
            ],
        }
        return Response(msgspec.json.encode(answer), media_type="application/json")

    app = Starlette(routes=[Route("/v2/models/{name}/infer", infer, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=int(arguments[0]), log_level="error", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1:])
