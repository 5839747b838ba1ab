"""A server of an ONNX model of images as FastAPI's tutorials write it: one handler with typed bodies.

    python fastapi_server.py MODEL PORT

Called by ``serving.py`` in a Python that has FastAPI. It imports no dlcli. It takes the JSON of the
Open Inference Protocol with uint8 pixels (n, H, W, C) and calls ONNX Runtime once a request.
"""

import sys

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from starlette_server import read


class Tensor(BaseModel):
    """A tensor of the protocol."""

    shape: list[int]
    data: list[int]


class Call(BaseModel):
    """The body of a request."""

    inputs: list[Tensor]


def main(path: str, port: int) -> None:
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    app = FastAPI()

    @app.post("/predict")
    def predict(call: Call) -> dict[str, list[list[float]]]:
        outputs = np.asarray(session.run(None, {name: read(call.model_dump())})[0])
        return {"outputs": outputs.tolist()}

    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
