"""``dlcli info``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.commands.options import Json, Quiet, RunsDir
from dlcli.errors import BoundMissed, DlcliError, UsageError, nearest
from dlcli.runs.folder import DEFAULT_ROOT

if TYPE_CHECKING:
    from dlcli.benchmark.machine import Measurement
    from dlcli.evaluation.run_summaries import RunSummary
    from dlcli.formats.base import ModelFile
    from dlcli.machine.facts import Facts

_Artifact = Annotated[
    str | None,
    typer.Argument(
        help="A model file, a run folder or a run's name (default: this machine).",
        show_default=False,
    ),
]
_Require = Annotated[
    list[str] | None,
    typer.Option(
        "--require",
        metavar="NAME",
        help="Exit with 3 unless it works: cpu, cuda, cuda:1, mps, xpu, bf16, avx512, amx, nccl, "
        "compile ...",
        show_default=False,
    ),
]
_Timeout = Annotated[
    float, typer.Option("--timeout", min=1, help="Time limit of the library tests, in seconds.")
]
_Quick = Annotated[bool, typer.Option("--quick", help="Import and test nothing; under a second.")]
_Deep = Annotated[
    bool, typer.Option("--deep", help="Also torch.compile, and an all-reduce of two processes.")
]
_Bench = Annotated[bool, typer.Option("--bench", help="Also measure speeds, for a minute or two.")]
_Markdown = Annotated[
    bool, typer.Option("--markdown", help="For bug reports: without user name, home and host name.")
]


def command(
    artifact: _Artifact = None,
    require: _Require = None,
    quick: _Quick = False,
    deep: _Deep = False,
    bench: _Bench = False,
    timeout: _Timeout = 120.0,
    runs_dir: RunsDir = DEFAULT_ROOT,
    as_json: Json = False,
    markdown: _Markdown = False,
    quiet: Quiet = False,
) -> None:
    """Show this machine, what is wrong with it and what mends that; or what a model file is.

    Without an argument: versions, hardware, and a test of every device: products, convolutions, mixed
    precision and a tiny training, compared with the CPU. It also works, and says what is wrong, when
    torch or torchvision is broken. Of a file it shows the card, or, of another program's file, its graph
    and what `adopt` needs.

    Examples:
        dlcli info
        dlcli info --require cuda --require bf16
        dlcli info cnn-digits
    """
    if artifact is not None:
        given = {"--require": require, "--quick": quick, "--deep": deep}
        given |= {"--bench": bench, "--markdown": markdown}
        for option in (name for name, value in given.items() if value):
            raise UsageError(f"{option} is for this machine, not for a model file")
        _show_artifact(artifact, runs_dir, as_json=as_json)
        return
    _check(require or [], quick=quick, deep=deep, as_json=as_json, markdown=markdown)
    if quick and bench:
        raise UsageError("--quick tests nothing, and --bench measures", hint="leave --quick out")
    facts = _facts(runs_dir, timeout, quick=quick, deep=deep, quiet=quiet or as_json)
    speeds = _bench(facts, quiet=quiet or as_json) if bench else []
    _show_machine(facts, require or [], runs_dir, speeds, as_json=as_json, markdown=markdown)


def _check(require: list[str], *, quick: bool, deep: bool, as_json: bool, markdown: bool) -> None:
    """Raises: UsageError for requirements that are not known, and options that exclude each other."""
    from dlcli.machine.requirements import DEEP, REQUIREMENTS, is_known

    for name in require:
        if not is_known(name):
            raise UsageError(
                f"--require {name}: no such device or feature", hint=nearest(name, REQUIREMENTS)
            )
        if name in DEEP and not deep:
            raise UsageError(f"--require {name} needs a test that takes long", hint="add --deep")
    if quick and (deep or require):
        other = "--deep" if deep else "--require"
        raise UsageError(f"--quick tests nothing, and {other} needs tests", hint="leave --quick out")
    if as_json and markdown:
        raise UsageError("--json and --markdown exclude each other")


def _facts(runs_dir: Path, timeout_s: float, *, quick: bool, deep: bool, quiet: bool) -> Facts:
    """Read and test; on a terminal with a line that says what takes so long."""
    from dlcli.files import user_cache
    from dlcli.machine.causes.system import SHARED_MEMORY
    from dlcli.machine.facts import probe_facts, read_facts
    from dlcli.ui import console

    disks = {"runs": runs_dir, SHARED_MEMORY: Path("/dev/shm")}
    with suppress(OSError):  # a user without a home has no cache
        disks["cache"] = user_cache()
    if not disks[SHARED_MEMORY].is_dir():
        del disks[SHARED_MEMORY]
    if quick:
        return read_facts(disks=disks)
    err = console.stderr()
    if quiet or not console.on_terminal(err):
        return probe_facts(disks=disks, timeout_s=timeout_s, deep=deep)
    slow = "torch, the devices, torch.compile" if deep else "torch, the devices"
    with err.status(f"testing {slow} and ONNX Runtime (a {'minute' if deep else 'few seconds'})"):
        return probe_facts(disks=disks, timeout_s=timeout_s, deep=deep)


def _bench(facts: Facts, *, quiet: bool) -> list[Measurement]:
    """Measure the CPU and the accelerator; nothing where torch does not work."""
    from dlcli.benchmark.machine import measure_machine
    from dlcli.ui import console

    if not facts.torch.ok:
        return []
    err = console.stderr()
    if quiet or not console.on_terminal(err):
        return measure_machine(facts.best)
    with err.status("measuring speeds (a minute or two; other programs make them worse)"):
        return measure_machine(facts.best)


def _show_machine(
    facts: Facts,
    require: list[str],
    runs_dir: Path,
    speeds: list[Measurement],
    *,
    as_json: bool,
    markdown: bool,
) -> None:
    from dlcli.machine.causes.base import find_causes
    from dlcli.machine.requirements import missing
    from dlcli.ui.console import stdout
    from dlcli.ui.info import Report, print_report
    from dlcli.ui.info_bench import bench_sections
    from dlcli.ui.info_markdown import print_markdown
    from dlcli.ui.json_output import print_json

    causes = find_causes(facts)
    unmet = {name: missing(facts, causes, name) for name in require}
    cache, run = _image_cache(), _newest_run(runs_dir)
    if as_json:
        result: dict[str, Any] = {
            "command": "info",
            **facts.to_dict(),
            "causes": [cause.to_dict() for cause in causes],
            "required": [
                {"name": name, "ok": why is None, "reason": why and why.reason}
                for name, why in unmet.items()
            ],
            "image_cache": cache,
            "newest_run": run and run.path,
            "bench": _bench_rows(speeds),
        }
        print_json(result)
    else:
        bench = bench_sections(speeds, _ratios(speeds), 140 if markdown else stdout().width)
        report = Report(facts, causes, cache, _in_words(run) if run else "", bench)
        (print_markdown if markdown else print_report)(report)
    for name, why in unmet.items():
        if why is not None:
            hint = why.hint or "run dlcli info without --require to see every device"
            raise BoundMissed(f"--require {name}: {why.reason}", hint=hint)
    if facts.probed and not facts.usable:
        first = causes[0]
        raise DlcliError(
            f"{first.what}: {first.evidence}" if first.evidence else first.what, hint=first.hint
        )


def _ratios(speeds: list[Measurement]) -> dict[tuple[str, str], float]:
    if not speeds:
        return {}
    from dlcli.benchmark.machine import speedups

    return speedups(speeds)


def _bench_rows(speeds: list[Measurement]) -> list[dict[str, Any]]:
    """JSON-ready, with the ratio to the CPU."""
    ratios = _ratios(speeds)
    return [{**asdict(row), "speedup": ratios.get((row.what, row.device))} for row in speeds]


def _newest_run(runs_dir: Path) -> RunSummary | None:
    """The newest run, as far as its files can be read; None where there is none."""
    from dlcli.evaluation.run_summaries import summarise
    from dlcli.runs.folder import list_runs

    runs = list_runs(runs_dir) if runs_dir.is_dir() else []
    return summarise(runs[-1]) if runs else None


def _in_words(run: RunSummary) -> str:
    import math

    words = [run.path, run.status]
    if not math.isnan(run.best):
        words.append(f"{run.monitor} {run.best:.4g} in epoch {run.best_epoch}")
    if run.started_at:
        words.append(f"begun {run.started_at[:10]}")
    return ", ".join(words)


def _image_cache() -> dict[str, Any] | None:
    """The folder, size and limit of the cache of decoded images; None where there can be none."""
    from dlcli.pixels.cache.folder import disk_cache

    cache = disk_cache("auto", None, None)
    if cache is None:
        return None
    return {"dir": str(cache.root), "size_bytes": cache.size(), "limit_bytes": cache.limit_bytes()}


def _show_artifact(artifact: str, runs_dir: Path, *, as_json: bool) -> None:
    from dlcli.formats.base import recognize
    from dlcli.runs.folder import find_artifact, run_of
    from dlcli.ui.card import print_card
    from dlcli.ui.json_output import print_json
    from dlcli.ui.transforms import in_words

    path = find_artifact(artifact, runs_dir)
    file = recognize(path)
    if file.is_foreign:
        _show_foreign(file, as_json=as_json)
        return
    card, verified = file.card, file.verify()
    known = file.runs_code and file.is_own and file.code_is_known
    if not as_json:
        print_card(
            card,
            path=str(path),
            format=file.format.name,
            size_bytes=file.size,
            sha256=file.sha256,
            verified=verified,
            runs_code=file.runs_code,
            known=known,
            facts=file.format.facts(path),
        )
        return
    run = run_of(path)
    print_json(
        {
            "command": "info",
            "artifact": str(path),
            "run": str(run.path) if run else None,
            "format": file.format.name,
            **file.format.facts(path),
            "facts": file.format.facts(path),
            "size_bytes": file.size,
            "sha256": file.sha256,
            "verified": verified,
            "runs_code": file.runs_code,
            "trusted": known or not file.runs_code,
            "changes": [in_words(record) for record in card.transforms],
            "metrics": card.metrics,
            "card": card.model_dump(mode="json"),
        }
    )


def _show_foreign(file: ModelFile, *, as_json: bool) -> None:
    """Show what a file of another program says of itself, and what adopt needs to know."""
    from dlcli.deploy.adopt.examine import examine
    from dlcli.ui.foreign import print_foreign
    from dlcli.ui.json_output import print_json

    examined = examine(file)
    if not as_json:
        print_foreign(file, examined)
        return
    print_json(
        {
            "command": "info",
            "artifact": str(file.path),
            "format": file.format.name,
            "size_bytes": file.size,
            "sha256": file.sha256,
            "card": None,
            **examined.to_dict(),
        }
    )
