"""dlcli: train, evaluate, export and inspect deep learning models from the command line."""

import os
import sys

__version__ = "0.2.0"

# The runtimes report their use to their makers. This runs before either is imported, in children too.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
if "openvino_telemetry" not in sys.modules:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # OpenVINO then has a stub
