"""The folder that is shipped: the model, a program that runs it, its facts, checks and SHA-256 sums."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dlcli.card import Card
from dlcli.deploy.export import staging_folder
from dlcli.deploy.reference import ReferenceEvaluator
from dlcli.deploy.ship.attempts import Attempt
from dlcli.deploy.ship.program import why_no_program
from dlcli.deploy.ship.ship import Shipped
from dlcli.deploy.sidecar import facts
from dlcli.errors import DlcliError, UsageError
from dlcli.files import finite, fsync_path, read_json, sha256_file, write_json, write_text
from dlcli.formats.base import ModelFile, recognize
from dlcli.runs.folder import command_now, versions

CHECKS, SUMS = "checks.json", "SHA256SUMS"
_MODEL = "model"
_SCHEMA = 1
_FRONT_MATTER = re.compile(r"\A---\n.*?^license:\s*(\S[^\n]*)$.*?^---$", re.MULTILINE | re.DOTALL)


def check_folder(folder: Path) -> None:
    """Refuse to replace anything but what an earlier `ship` wrote. Raises: UsageError."""
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        written = not folder.is_symlink() and read_json(folder / CHECKS).get("command") == "ship"
    except (DlcliError, AttributeError):
        written = False
    if not written:
        raise UsageError(
            f"{str(folder)!r} exists and was not written by dlcli ship",
            hint="choose another folder: --output",
        )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, which replaces ``folder`` when the block succeeds."""
    check_folder(folder)
    with staging_folder(folder) as staged:
        new, old = staged / "new", staged / "old"
        new.mkdir()
        yield new
        for path in new.iterdir():
            fsync_path(path)
        if folder.exists():
            os.rename(folder, old)
        os.rename(new, folder)
        fsync_path(folder.parent)


def write_model(shipped: Shipped, reference: ReferenceEvaluator, folder: Path) -> list[str]:
    """Copy the model and write what runs it; returns sentences about what there is not.

    The program is tried on a sample of ``reference``: one that fails or differs is not shipped.
    """
    file = recognize(shipped.file)
    path = folder / f"{_MODEL}{file.format.suffix}"
    if len(file.files) > 1:
        raise DlcliError(
            f"{file.path} consists of {len(file.files)} files: a model of more than 2 GB is not shipped",
            hint="dlcli export writes it",
        )
    shutil.copyfile(file.path, path)
    model = ModelFile(path, file.format)
    write_json(folder / f"{path.name}.json", facts(model, file.card))
    ask = f"dlcli predict -a {path.name} asks it"
    example = file.format.examples.get("python")
    if example is None:
        return [f"no program that runs it: there is none for {file.format.name} files"]
    try:
        example.check(file.card, embedded=False)
    except UsageError as exc:
        why = exc.message.partition(": ")[2]
        return [f"no program that runs it: {why}; {ask}"]
    program = folder / f"predict_{file.format.name}.py"
    write_text(program, example.write(path, file.card))
    if why := why_no_program(program, model, reference):
        program.unlink()
        return [f"no program that runs it: {why}; {ask}"]
    return []


def write_checks(shipped: Shipped, notes: list[str], folder: Path) -> dict[str, Any]:
    """Write the verdicts as JSON; returns what ``--json`` prints."""
    result = {"written_by": "dlcli ship", "schema": _SCHEMA, **to_dict(shipped, notes)}
    write_json(folder / CHECKS, {**result, **command_now(), "versions": versions()})
    return result


def write_sums(folder: Path) -> None:
    """Write the SHA-256 of every file, as `sha256sum -c` reads them."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    write_text(folder / SUMS, "".join(f"{sha256_file(path)}  {path.name}\n" for path in paths))


def to_dict(shipped: Shipped, notes: list[str]) -> dict[str, Any]:
    """Return everything, JSON-ready."""
    chosen, config, test = shipped.chosen, shipped.bounds.config, shipped.test
    pareto = {attempt.label for attempt in shipped.pareto}
    result = {
        "command": "ship",
        "artifact": str(shipped.source),
        "target": shipped.target.name,
        "bounds": {
            "max_drop": config.max_drop,
            "max_size": config.max_size,
            "max_latency": config.max_latency,
            "max_time": config.max_time,
        },
        "chosen": chosen.label,
        "missed": shipped.missed,
        "checks": [
            {"check": name, "passed": passed, "text": text} for name, passed, text in checks(shipped)
        ],
        "test": None
        if test is None
        else {
            "metric": test.metric,
            "before": test.before,
            "after": test.metrics[test.metric],
            "difference": test.difference,
            "interval": [test.low, test.high],
            "agreement": test.agreement,
            "samples": shipped.test_samples,
        },
        "attempts": [
            {**attempt.model_dump(exclude={"recipe"}), "pareto": attempt.label in pareto}
            for attempt in shipped.attempts
        ],
        "failed": shipped.failed,
        "passed_over": shipped.passed_over,
        "left_out": [planned.label for planned in shipped.plan.left_out],
        "notes": notes,
        "weights": weights_of(recognize(shipped.source).card),
        "sha256": {"model": sha256_file(shipped.file), "source": sha256_file(shipped.source)},
        "elapsed_s": round(shipped.elapsed_s, 1),
    }
    values: dict[str, Any] = finite(result)
    return values


def checks(shipped: Shipped) -> Iterator[tuple[str, bool | None, str]]:
    """Yield name, verdict and text of each check; None is a fact that has no bound."""
    chosen, bounds = shipped.chosen, shipped.bounds
    delta = chosen.delta
    samples = f"{chosen.samples:,} samples of {chosen.split}"
    yield (
        "drop",
        bounds.keeps_drop(chosen),
        f"{delta.difference:+.4f} {delta.metric} on {samples}, which chose it "
        f"(95 % interval {delta.low:+.4f} to {delta.high:+.4f}); --max-drop {bounds.config.max_drop}",
    )
    if bounds.size_bytes is not None:
        holds = chosen.size_bytes <= bounds.size_bytes
        yield "size", holds, f"{chosen.size_bytes:,} bytes; --max-size {bounds.config.max_size}"
    if bounds.latency_ms is not None:
        call_ms = chosen.call_ms
        text = "not known" if call_ms is None else f"{call_ms:.4g} ms on {chosen.device}{_clock(chosen)}"
        holds = call_ms is not None and call_ms <= bounds.latency_ms
        yield "latency", holds, f"{text}; --max-latency {bounds.config.max_latency}"
    if delta.agreement is not None:
        yield "agreement", None, f"{delta.agreement:.2%} equal predictions on {samples}"
    test = shipped.test
    if test is None:
        yield "test", None, "there is no test split, and val chose this file: its figure is optimistic"
    else:
        yield (
            "test",
            None,
            f"{test.difference:+.4f} {test.metric} on {shipped.test_samples:,} samples of test, which "
            f"chose nothing (95 % interval {test.low:+.4f} to {test.high:+.4f})",
        )
    ratio = chosen.faster
    if ratio is not None:
        text = f"{ratio.median:.2f} times as fast ({ratio.low:.2f} to {ratio.high:.2f}) as the original"
        yield (
            "speed",
            None,
            f"{text} on {chosen.device}{_clock(chosen)}"
            + (f"; NOT KNOWN: {ratio.doubt}" if ratio.doubt else ""),
        )
    elif chosen.untimed:
        yield "speed", None, f"not known: {chosen.untimed}"


def weights_of(card: Card) -> dict[str, str]:
    """Return where the weights come from, and their licence where that is known."""
    origin, licence = card.weights_from, "not known"
    if origin == "scratch":
        licence = "none of others: trained from random weights"
    else:
        folder = Path(origin) if Path(origin).is_dir() else Path(origin).parent
        readme = folder / "README.md"
        if readme.is_file():
            text = readme.read_text(encoding="utf-8", errors="replace")[:20_000]
            match = _FRONT_MATTER.search(text)
            licence = match[1].strip() if match else licence
    return {"from": origin, "licence": licence}


def _clock(attempt: Attempt) -> str:
    return ", in CPU time of one thread" if attempt.clock == "cpu" else ""
