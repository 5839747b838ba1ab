"""The records of a study that has ended, with markup in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HOSTILE = "<script>alert(1)</script>"


def trial(number: int, value: float | None, status: str = "finished", **more: Any) -> dict[str, Any]:
    settings = {"optim.lr": 10.0**-number, "optim.optimizer": ["adam", HOSTILE][number % 2]}
    facts = {"run": "r", "model": "cnn", "settings": settings, "epochs": 3, "seconds": 1.5, "reason": ""}
    return {"number": number, "status": status, "value": value, **facts, **more}


def write_study(root: Path) -> Path:
    """Write a study "S" below ``root``, and return its folder."""
    folder = root / "runs" / "S"
    folder.mkdir(parents=True)
    record = {"monitor": "accuracy", "direction": 1, "task": "classification", "data": HOSTILE}
    (folder / "study.json").write_text(json.dumps({**record, "val_samples": 50}))
    row = {"metric": "accuracy", "difference": 0.2, "low": 0.1, "high": 0.3, "better": True}
    best = trial(2, 0.9, difference=row)
    trials = [
        trial(0, 0.7),
        trial(1, 0.6, "pruned"),
        best,
        trial(3, None, "failed", reason=HOSTILE),
    ]
    result = {
        "best": best,
        "trials": trials,
        "difference_from_default": row,
        "importance": {"optim.lr": 0.75, "optim.optimizer": 0.25},
        "test": {"metrics": {"accuracy": 0.8765}, "samples": 40},
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder
