"""What dlcli survives: kills, flipped bits, malformed inputs, hostile files. Prints counts and JSON.

python benchmarks/robustness.py [kills bits malformed hostile] [--quick] [--seed 0] [--output FILE]

Everything happens in a temporary folder, on data that comes with scikit-learn. Linux and macOS only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import robustness_bits
import robustness_hostile
import robustness_kills
import robustness_malformed
from common import machine

Part = Callable[[Path, int, random.Random], dict[str, Any]]

# Each part, and how many trials it makes: with --quick, and without.
PARTS: dict[str, tuple[Part, int, int]] = {
    "kills": (robustness_kills.measure, 4, 200),
    "bits": (robustness_bits.measure, 5, 100),
    "malformed": (robustness_malformed.measure, 60, 2000),
    "hostile": (robustness_hostile.measure, 0, 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a few trials of each")
    parser.add_argument("--trials", type=int, help="trials of each part, or flips of each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    args = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "seed": args.seed}
    failed = False
    for name in args.parts or PARTS:
        measure, few, many = PARTS[name]
        trials = args.trials or (few if args.quick else many)
        with tempfile.TemporaryDirectory() as folder:
            os.environ["DLCLI_STATE"] = str(Path(folder, "state-of-the-user"))
            start = time.monotonic()
            result = measure(Path(folder), trials, random.Random(args.seed))
        results[name] = {**result, "seconds": round(time.monotonic() - start, 1)}
        failed = failed or bool(result["failures"])
        print(f"{name}: {json.dumps(results[name], indent=2)}", flush=True)
    print(results["machine"])
    if args.output is not None:
        args.output.write_text(json.dumps(results, indent=2) + "\n")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
