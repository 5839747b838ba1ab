"""dlcli: train, evaluate, export and inspect deep learning models, from the command line or Python.

Python's part is `dlcli.api`; its names are imported at their first use, so that the command line does
not pay for them. ``__init__.pyi`` has them for type checkers.
"""

import importlib
import os
import sys

__version__ = "0.2.0"

# The runtimes report their use to their makers. This runs before either is imported, in children too.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
if "openvino_telemetry" not in sys.modules:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # OpenVINO then has a stub

_API = ("DlcliError", "EvalResult", "Model", "Run", "evaluate", "load", "train")


def __getattr__(name: str) -> object:
    if name in _API:
        return getattr(importlib.import_module("dlcli.api"), name)
    raise AttributeError(f"module 'dlcli' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})
