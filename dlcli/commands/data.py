"""``dlcli data``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.commands.options import Json, Quiet, Settings, takes_config
from dlcli.config import TrainConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.settings import merge, validate
from dlcli.trust import allowing
from dlcli.wording import plural

if TYPE_CHECKING:
    from dlcli.data.base import DataSource
    from dlcli.data.kinds import ModelNeeds
    from dlcli.datacheck.base import DataReport

_OPTIONS = {
    "data.data_dir", "data.kind", "data.task", "data.target", "data.split_column", "data.group_column",
    "data.time_column", "data.series_column", "data.window", "data.horizon", "data.tokenizer",
    "data.max_length", "data.offline", "data.workers", "data.cache_dir", "model.name",
    "model.img_size", "augment.level", "fit.seed",
}  # fmt: skip


@takes_config(TrainConfig, only=_OPTIONS)
def command(
    settings: Settings[TrainConfig],
    *,
    path: Annotated[
        str | None,
        typer.Argument(metavar="PATH", help="Folder, file, file.py:NAME, or a data set such as digits."),
    ] = None,
    show_augment: Annotated[
        bool,
        typer.Option(
            "--show-augment",
            help="Plot augmented images as the model sees them (--augment, or standard); no checks.",
        ),
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Decode all images, even more than 20,000.")
    ] = False,
    plots: Annotated[
        Path | None, typer.Option("--plots", metavar="DIR", help="Write plots into this folder.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", hidden=True, help="Older name of --plots.")
    ] = None,
    no_plots: Annotated[
        bool, typer.Option("--no-plots", hidden=True, help="Write no plots, as without --plots.")
    ] = False,
    clear_cache: Annotated[
        bool,
        typer.Option("--clear-cache", help="Delete the cache of decoded images."),
    ] = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Inspect a data set: statistics and problems.

    Counts, balance, sizes, missing values, token lengths; unreadable files,
    duplicates, leaks between splits, classes missing in a split, constant or
    leaking columns, gaps in time. The data is only read. The exit code is 1
    if there are errors.

    Examples:
        dlcli data ./imgs
        dlcli data houses.csv --target price
        dlcli data digits --plots figures
    """
    if clear_cache:
        _clear_cache(path, settings.resolve(), as_json=json_output)
        return
    path = _required_path(path, settings)
    output = _plots_folder(plots, output, show_augment=show_augment, no_plots=no_plots)
    flags = {"data": {"data": path}}
    config = validate(TrainConfig, merge(settings.overrides, flags))
    if config.model.name is not None:
        from dlcli.zoo.names import check_spelling

        check_spelling(config.model.name)

    from dlcli.data.sources import open_source
    from dlcli.datacheck.checking import opening_failed
    from dlcli.ui.json_output import print_json

    try:
        with allowing(path):
            source = open_source(config.data, seed=config.fit.seed)
    except UsageError:
        raise
    except DlcliError as exc:
        if json_output:
            finding = opening_failed(exc)
            nothing: dict[str, Any] = {
                "kind": None,
                "task": None,
                "splits": {},
                "warnings": 0,
                "plots": [],
            }
            print_json(
                {
                    "command": "data",
                    "data": path,
                    "findings": [finding.to_dict()],
                    "errors": 1,
                    **nothing,
                }
            )
        raise
    if source.kind != "image" and (config.model.img_size or config.augment.level):
        flag = "--img-size" if config.model.img_size else "drawing what --augment does"
        raise UsageError(f"{flag} is for images, and this is {source.kind} data", hint="leave it out")
    folder = _folder(source, output) if show_augment or output is not None else None
    needs, recipe = _of_model(config, source)
    config = validate(TrainConfig, merge(recipe, settings.overrides, flags))
    if show_augment:
        _show_augment(source, config, needs, folder, json_output)
    else:
        _check(source, config, needs, folder, every=every, quiet=quiet, as_json=json_output)


def _required_path(path: str | None, settings: Settings[TrainConfig]) -> str:
    """Return PATH. Raises: UsageError without it, and for an option of --clear-cache."""
    if path is None:
        raise UsageError("PATH is missing", hint="dlcli data FOLDER, or a name: dlcli data digits")
    if settings.flags.get("data", {}).get("cache_dir") is not None:
        raise UsageError("--cache-dir is for --clear-cache: nothing is cached here", hint="leave it out")
    return path


def _plots_folder(
    plots: Path | None, output: Path | None, *, show_augment: bool, no_plots: bool
) -> Path | None:
    """Return the value of --plots, under either name. Raises: UsageError for contradicting options."""
    if plots is not None and output is not None:
        raise UsageError("--output is the older name of --plots", hint="give --plots alone")
    output = plots or output
    if no_plots and (show_augment or output is not None):
        flag = "--show-augment" if show_augment else "--plots"
        raise UsageError(f"{flag} writes a plot, and --no-plots forbids it")
    return output


def _clear_cache(path: str | None, config: TrainConfig, *, as_json: bool) -> None:
    """Delete the cache of decoded images. Raises: UsageError; DlcliError where that is not possible."""
    if path is not None:
        raise UsageError("--clear-cache deletes the whole cache", hint="leave PATH out")
    from dlcli.pixels.cache.folder import disk_cache
    from dlcli.ui.data import print_cleared
    from dlcli.ui.json_output import print_json

    cache = disk_cache("disk", config.data.cache_dir, None)
    if cache is None:
        raise DlcliError("this user has no home, and so no cache", hint="--cache-dir DIR")
    try:
        freed = cache.clear()
    except OSError as exc:
        raise DlcliError(f"cannot clear the cache {cache.root}: {exc.strerror or exc}") from exc
    if as_json:
        print_json({"command": "data", "cache_dir": str(cache.root), "freed_bytes": freed})
    else:
        print_cleared(cache.root, freed)


def _check(
    source: DataSource,
    config: TrainConfig,
    needs: ModelNeeds | None,
    folder: Path | None,
    *,
    every: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    from dlcli.datacheck.base import CheckOptions
    from dlcli.datacheck.checking import check_data
    from dlcli.ui.data import print_report, reading_progress
    from dlcli.ui.json_output import print_json

    with reading_progress("images", quiet or as_json) as progress:
        max_decoded = None if every else CheckOptions(config).max_decoded
        report = check_data(source, CheckOptions(config, max_decoded, progress), needs)
    plots: list[Path] = []
    if folder is not None:
        from dlcli.ui.plots.data import save_charts

        plots = save_charts(folder, report.charts)
    if as_json:
        print_json({"command": "data", **report.to_dict(), "plots": [str(plot) for plot in plots]})
    else:
        print_report(report, plots)
    _raise_errors(report)


def _raise_errors(report: DataReport) -> None:
    errors = [finding for finding in report.findings if finding.level == "error"]
    if errors:
        codes = ", ".join(dict.fromkeys(finding.code for finding in errors))
        count = plural(len(errors), "error")
        raise DlcliError(f"{report.name}: {count} in the data ({codes})", hint=errors[0].hint)


def _show_augment(
    source: DataSource, config: TrainConfig, needs: ModelNeeds | None, folder: Path | None, as_json: bool
) -> None:
    from dlcli.data.kinds import ModelNeeds
    from dlcli.datacheck.targets import split_facts
    from dlcli.training.augmentation.sample import sample_augmented
    from dlcli.ui.data import print_augmented
    from dlcli.ui.json_output import print_json
    from dlcli.ui.plots.augmentations import AugmentRow, captions, save_augment_grid

    assert folder is not None  # --show-augment has one
    if config.augment.level is None:
        level = config.augment.model_copy(update={"level": "standard"})
        config = config.model_copy(update={"augment": level})
    shown = sample_augmented(source, config, needs or ModelNeeds())
    pixels, targets = shown.original
    heads = captions(targets, shown.task)
    mixed = [captions(t, shown.task) if shown.mixes else [""] * len(pixels) for _, t in shown.varied]
    rows = [
        AugmentRow(
            [pixels[i], *(varied[i] for varied, _ in shown.varied)],
            [heads[i], *(words[i] for words in mixed)],
        )
        for i in range(len(pixels))
    ]
    picture = save_augment_grid(folder / "augment.png", rows)
    if as_json:
        print_json(
            {
                "command": "data",
                "name": source.name,
                "data": source.origin,
                "kind": source.kind,
                "task": source.task,
                "splits": split_facts(source),
                "checked": False,
                "augmentation": shown.sentence,
                "findings": [],
                "plots": [str(picture)],
            }
        )
    else:
        print_augmented(source.name, shown.sentence, shown.task.input.shape, picture)


def _of_model(config: TrainConfig, source: DataSource) -> tuple[ModelNeeds | None, dict[str, Any]]:
    """Return what ``--model`` requires of the data, and its recipe."""
    if config.model.name is None:
        return None, {}
    from dataclasses import replace

    from dlcli.zoo.base import check_name, find_model

    check_name(config.model.name)
    entry = find_model(config.model.name, source.kind)
    return replace(entry.needs, name=entry.name), entry.recipe_for(source.task)


def _folder(source: DataSource, output: Path | None) -> Path:
    """Return the folder of the plots, by default one named after the data.

    Raises: UsageError when it is in the data.
    """
    folder = output or Path(f"dlcli-data-{_safe_name(source.name)}")
    roots = [Path(root) for root in (source.origin, source.data_dir) if root and os.path.isdir(root)]
    where = Path(os.path.realpath(folder))
    if any(where.is_relative_to(os.path.realpath(root)) for root in roots):
        what = "the current folder" if output is None else f"--plots {output}"
        raise UsageError(
            f"{what} is in the data folder, where dlcli never writes",
            hint="--plots DIR, outside of it",
        )
    return folder


def _safe_name(name: str) -> str:
    """Return a name with other characters than letters, digits and -_. replaced."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip(".") or "data"
