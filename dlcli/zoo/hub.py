"""Snapshots of the Hugging Face hub, in its own cache, through huggingface_hub."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from dlcli.errors import DlcliError
from dlcli.network import require
from dlcli.wording import first_line
from dlcli.zoo.names import hub_name
from dlcli.zoo.weight_files import (
    CONFIG,
    FILES,
    FILES_WITH_WEIGHTS,
    TOKENIZER,
    files_named_by,
    is_index,
    shards_of,
    weights_file,
)

# Those of pickles are not fetched.
_TENSORS = [name for name in FILES if ".safetensors" in name]


def hub_folder(text: str, *, offline: bool) -> tuple[Path, str]:
    """The folder of a snapshot, downloaded if need be, and ``OWNER/NAME@COMMIT``.

    Raises: DlcliError as `check_available`, and where the download fails.
    """
    repository, revision = _parse(text)
    folder = check_available(text, offline=offline) or _download(repository, revision)
    return folder, f"{repository}@{folder.name}"


def check_available(text: str, *, offline: bool) -> Path | None:
    """The folder of a snapshot in the cache; None where it has to be fetched and the hub answers.

    It needs no torch. Raises: DlcliError without the library, and where the snapshot is neither cached
    nor can be fetched: `require`.
    """
    repository, revision = _parse(text)
    constants = _constants(repository)
    folder = _cached(repository, revision)
    if folder is not None:
        return folder
    if offline or constants.HF_HUB_OFFLINE:
        setting = "--offline" if offline else "HF_HUB_OFFLINE"
        raise DlcliError(
            f"{repository} is not in the cache of the hub, or not all of it, and {setting} forbids "
            "fetching it",
            hint="--weights FOLDER takes a snapshot that was copied from elsewhere",
        )
    require(
        f"{constants.ENDPOINT}/{repository}/resolve/{revision or 'main'}/{CONFIG}",
        what=f"--weights {repository}, which is no folder here,",
        hint="check the name and the network, or give a folder: --weights FOLDER; --offline uses the "
        f"hub's cache alone, which 'hf download {repository}' fills with longer time-outs",
    )
    return None


def _parse(text: str) -> tuple[str, str | None]:
    """The repository and the revision of a name."""
    named = hub_name(text)
    assert named is not None
    return named


def _cached(repository: str, revision: str | None) -> Path | None:
    """The folder of a snapshot in the cache that has all files; None where it has not."""
    # The library proper takes half a second to import, of the three until there is an error.
    if not (Path(_constants(repository).HF_HUB_CACHE) / _folder_name(repository)).is_dir():
        return None
    hub = _import_hub(repository)
    try:
        # Without a pattern a snapshot that lacks files which are not read counts as incomplete.
        local = {"local_files_only": True, "allow_patterns": [CONFIG]}
        folder = Path(hub.snapshot_download(repository, revision=revision, **local))
        if all((folder / name).is_file() for name in (CONFIG, TOKENIZER)):
            file = weights_file(folder)
            return folder if not is_index(file) or shards_of(file) else None
    except (hub.errors.LocalEntryNotFoundError, DlcliError):
        return None
    return None


def _download(repository: str, revision: str | None) -> Path:
    """Fetch what `bert` and `hf:` read: one file of tensors, or all those that an index names."""
    hub = _import_hub(repository)

    def fetch(*names: str, revision: str | None) -> Path:
        patterns = list(map(glob.escape, names))
        return Path(hub.snapshot_download(repository, revision=revision, allow_patterns=patterns))

    try:
        folder = fetch(*FILES_WITH_WEIGHTS, *_TENSORS, revision=revision)
        file = weights_file(folder)
        if is_index(file):
            folder = fetch(*files_named_by(file), revision=folder.name)
    except (hub.errors.HfHubHTTPError, OSError, ValueError) as exc:
        raise DlcliError(f"cannot fetch {repository}: {first_line(exc)}") from exc
    return folder


def _folder_name(repository: str) -> str:
    """The folder of a repository in the cache, as `huggingface_hub` lays it out."""
    return f"models--{repository.replace('/', '--')}"


def _import_hub(repository: str) -> Any:
    """Raises: DlcliError without the library."""
    _constants(repository)
    import huggingface_hub
    import huggingface_hub.errors
    import huggingface_hub.utils

    hub: Any = huggingface_hub
    hub.utils.disable_progress_bars()
    return hub


def _constants(repository: str) -> Any:
    """The library's settings, which import little. Raises: DlcliError without it."""
    try:
        import huggingface_hub.constants
    except ModuleNotFoundError as exc:
        raise DlcliError(
            f"--weights {repository} is no folder here, and names of the hub need huggingface_hub",
            hint='pip install "dlcli[hub]"',
        ) from exc
    return huggingface_hub.constants
