"""Files with bytes changed, cut out, repeated or put in, by the mutations of the tests."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from forked import command

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from test_malformed import mutate, write_inputs

DEFECT = 70


def measure(folder: Path, trials: int, rng: random.Random) -> dict[str, Any]:
    """Give ``trials`` mutated files to the command that reads them: tables, texts, arrays, models."""
    commands = write_inputs(folder)
    names = sorted(commands)
    codes: Counter[str] = Counter()
    failures: list[str] = []
    longest = 0.0
    for number in range(trials):
        name = names[number % len(names)]
        path = folder / f"m{Path(name).suffix}"
        path.write_bytes(mutate((folder / name).read_bytes(), rng))
        began = time.monotonic()
        code, printed = command([*commands[name], str(path)], folder, folder / "log")
        longest = max(longest, time.monotonic() - began)
        codes[f"exit {code}"] += 1
        if code not in (0, 1, 2, 3) or "Traceback" in printed:
            failures.append(f"{name}, input {number}: exit {code}: {printed[-300:]}")
    return {"trials": trials, **codes, "longest_s": round(longest, 2), "failures": failures}
