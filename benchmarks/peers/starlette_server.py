"""A server of an ONNX model of images as tutorials write it: one handler of Starlette.

    python starlette_server.py MODEL PORT

Called by ``serving.py``. It imports no dlcli. It takes the JSON of the Open Inference Protocol with
uint8 pixels (n, H, W, C) and calls ONNX Runtime, with its own defaults, once a request.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnxruntime
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def read(call: dict[str, Any]) -> np.ndarray:
    """The input of the model: float32 (n, C, H, W)."""
    tensor = call["inputs"][0]
    pixels = np.asarray(tensor["data"], np.uint8).reshape(tensor["shape"])
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def main(path: str, port: int) -> None:
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name

    async def predict(request: Request) -> JSONResponse:
        outputs = session.run(None, {name: read(await request.json())})[0]
        return JSONResponse({"outputs": outputs.tolist()})

    app = Starlette(routes=[Route("/predict", predict, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
