"""Snapshots of the Hugging Face hub, in its own cache, through huggingface_hub."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from dlcli.errors import DlcliError
from dlcli.network import require
from dlcli.wording import first_line
from dlcli.zoo.names import hub_name
from dlcli.zoo.snapshots import CONFIG, FILES_WITH_WEIGHTS, TOKENIZER
from dlcli.zoo.weight_files import FILES, files_named_by, is_index, shards_of, weights_file

# Those of pickles are not fetched.
_TENSORS = [name for name in FILES if ".safetensors" in name]


def hub_folder(text: str, *, offline: bool) -> tuple[Path, str]:
    """The folder of a snapshot, downloaded if need be, and ``OWNER/NAME@COMMIT``.

    Raises: DlcliError without the library, and within three seconds where the snapshot is neither cached
    nor can be fetched.
    """
    named = hub_name(text)
    assert named is not None
    repository, revision = named
    hub = _import_hub(repository)
    folder = _cached(hub, repository, revision)
    if folder is None:
        if offline:
            raise DlcliError(
                f"{repository} is not in the cache of the hub, or not all of it, and --offline forbids "
                "fetching it",
                hint="--weights FOLDER takes a snapshot that was copied from elsewhere",
            )
        folder = _download(hub, repository, revision)
    return folder, f"{repository}@{folder.name}"


def _cached(hub: Any, repository: str, revision: str | None) -> Path | None:
    """The folder of a snapshot in the cache that has all files; None where it has not."""
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


def _download(hub: Any, repository: str, revision: str | None) -> Path:
    """Fetch what `bert` and `hf:` read: one file of tensors, or all those that an index names."""
    require(
        f"{hub.constants.ENDPOINT}/{repository}/resolve/{revision or 'main'}/{CONFIG}",
        what=f"--weights {repository}, which is no folder here,",
        hint="check the name and the network, or give a folder: --weights FOLDER (--offline uses the "
        "hub's cache alone)",
    )

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


def _import_hub(repository: str) -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ModuleNotFoundError as exc:
        raise DlcliError(
            f"--weights {repository} is no folder here, and names of the hub need huggingface_hub",
            hint='pip install "dlcli[hub]"',
        ) from exc
    hub: Any = huggingface_hub
    hub.utils.disable_progress_bars()
    return hub
