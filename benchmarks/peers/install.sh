#!/usr/bin/env bash
# A Python environment of the peers that training_speed.py runs beside dlcli: install.sh FOLDER
set -euo pipefail
python3 -m venv "$1"
# Ultralytics since 8.4 trains no model of torchvision, only its own.
"$1/bin/pip" install torch torchvision lightning "ultralytics<8.4"
