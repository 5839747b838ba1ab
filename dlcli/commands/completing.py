"""Values that a shell completes: runs, models, named data sets, metrics.

They come from file names and sources: a shell waits for each of them, so nothing is imported that takes
longer than reading a folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

Values = Callable[[Sequence[str]], Iterable[str]]  # of the words before

_SETS = re.compile(
    r'^ {4}(?:"([\w-]+)": \w+\(|\("([\w-]+)", )|DATASETS\.register\("([\w-]+)"\)', re.MULTILINE
)
_METRICS = re.compile(r'^ {4}"(\w+)": -?1,$|@register_metric\("(\w+)"', re.MULTILINE)


def values_after(words: Sequence[str]) -> Values | None:
    """Return what completes the word after ``words``, a command and its arguments; None: not values."""
    if words[-1].startswith("-") and len(words) > 1:
        return _OPTIONS.get(words[-1])
    return _ARGUMENTS.get(words[0])


def run_names(words: Sequence[str]) -> list[str]:
    """Return the runs, cross-validations and their folds in the folder of runs, newest first."""
    root = Path(words[words.index("--runs-dir") + 1] if "--runs-dir" in words[:-1] else "runs")
    records = [*root.glob("*/run.json"), *root.glob("*/folds.json"), *root.glob("*/fold-*/run.json")]
    newest_first = sorted((path.parent for path in records), key=lambda p: -p.stat().st_mtime)
    return [folder.relative_to(root).as_posix() for folder in newest_first]


def run_names_and_last(words: Sequence[str]) -> list[str]:
    """Return "last" and the runs, where both name one."""
    return ["last", *run_names(words)]


def model_names(words: Sequence[str]) -> list[str]:
    """Return the models of the zoo, then those of the installed torchvision."""
    from dlcli.zoo.names import own_names, torchvision_names

    return [*own_names(), *sorted(torchvision_names())]


def data_names(words: Sequence[str]) -> list[str]:
    """Return the data sets known by name."""
    return sorted(_declared("dlcli.data.sets", _SETS))


def metric_names(words: Sequence[str]) -> list[str]:
    """Return the metrics of dlcli, without those of the user's own code."""
    return sorted(_declared("dlcli.evaluation.metrics", _METRICS))


def metric_bounds(words: Sequence[str]) -> list[str]:
    """Return the beginnings of ``METRIC=VALUE``."""
    return [f"{name}=" for name in metric_names(words)]


def _declared(package: str, pattern: re.Pattern[str]) -> set[str]:
    """Return the names that match in the sources of a package, which is not imported."""
    parent, _, name = package.rpartition(".")
    spec = find_spec(parent)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    sources = (path.read_text("utf-8") for folder in folders for path in Path(folder, name).glob("*.py"))
    return {name for text in sources for groups in pattern.findall(text) for name in groups if name}


_OPTIONS: dict[str, Values] = {
    **dict.fromkeys(("--model", "-m"), model_names),
    **dict.fromkeys(("--data", "-d"), data_names),
    **dict.fromkeys(("--artifact", "-a", "--teacher", "--config"), run_names),
    "--resume": run_names_and_last,
    **dict.fromkeys(("--sort", "--monitor"), metric_names),
    "--min": metric_bounds,
}
_ARGUMENTS: dict[str, Values] = {
    **dict.fromkeys(
        ("eval", "export", "quantize", "prune", "ship", "benchmark", "serve", "info"), run_names
    ),
    **dict.fromkeys(("runs", "report"), run_names_and_last),
    "models": model_names,
    "data": data_names,
}
