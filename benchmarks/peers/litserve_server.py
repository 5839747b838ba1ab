"""LitServe with an ONNX model of images: litserve_server.py MODEL PORT, called by ``serving.py``.

It takes and does what ``starlette_server.py`` does, in LitServe's own process for calls of the model.
"""

from __future__ import annotations

import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime
from starlette_server import read


class Api(litserve.LitAPI):
    """The model, and a request's way to it and back."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def setup(self, device: str) -> None:
        self.session = onnxruntime.InferenceSession(self.path)
        self.name = self.session.get_inputs()[0].name

    def decode_request(self, request) -> np.ndarray:  # with a type it would be one of pydantic's
        return read(request)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(None, {self.name: x})[0]

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        return {"outputs": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Api(sys.argv[1]), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
