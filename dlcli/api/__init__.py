"""dlcli from Python: what ``import dlcli`` offers, loaded at its first use.

run = dlcli.train(model="cnn", data="digits", epochs=3)
model = run.load()                          # or dlcli.load("best.onnx")
model.predict("photo.png")
dlcli.evaluate(model, split="test").metrics
"""

from __future__ import annotations

from dlcli.api.evaluation import evaluate
from dlcli.api.models import Model, load
from dlcli.api.training import Run, train
from dlcli.errors import DlcliError
from dlcli.evaluation.metrics.base import EvalResult

__all__ = ["DlcliError", "EvalResult", "Model", "Run", "evaluate", "load", "train"]
