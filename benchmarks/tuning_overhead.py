"""What a search costs beside its trials: CPU time of `dlcli tune`, in one process that is warm.

python benchmarks/tuning_overhead.py [--rounds 3] [--trials 12] [--options OPTION ...]

A trial's own time is that of its run from the plan to the last state, without the question to the
pruner: what `dlcli train` does for it but for its report. All else is the search: the checks at the
beginning, proposals, the pruner and the journal; and the end: the comparison of the best ten trials with
the default over the validation samples, the test split, and plots. A first study of three trials, which
is not counted, imports what there is to import.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

from common import machine

from dlcli.cli import main as dlcli
from dlcli.commands.tune_session import end, work

SEARCH = ("--model", "cnn", "--data", "digits", "--epochs", "10")


def timed(spent: Counter[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that adds its CPU time to ``spent[name]``."""

    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.process_time() - began

    return call


def tune(options: list[str], trials: int) -> None:
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        command = ["tune", *options, "--trials", str(trials), "--device", "cpu", "--runs-dir", folder]
        if code := dlcli([*command, "--name", "study", "-q"]):
            raise SystemExit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=list(SEARCH))
    args = parser.parse_args()
    spent: Counter[str] = Counter()
    work.TrialRun._train = timed(spent, "runs", work.TrialRun._train)
    work.TrialRun._prune = timed(spent, "pruner", work.TrialRun._prune)
    end.end_study = timed(spent, "end", end.end_study)
    tune(args.options, 3)
    shares: dict[str, list[float]] = {"search": [], "end": []}
    for _ in range(args.rounds):
        spent.clear()
        began = time.process_time()
        tune(args.options, args.trials)
        total = time.process_time() - began
        bare = spent["runs"] - spent["pruner"]
        shares["end"].append(spent["end"] / bare)
        shares["search"].append((total - spent["end"] - bare) / bare)
        print(f"trials {bare:.1f} s, in all {total:.1f} s, {dict(spent)}", flush=True)
    for name, values in shares.items():
        low, high = min(values), max(values)
        print(f"{name}: {statistics.median(values):.1%} of the trials ({low:.1%} to {high:.1%})")
    print(f"{' '.join(args.options)}, {args.trials} trials, n={args.rounds}; {machine()}")


if __name__ == "__main__":
    main()
