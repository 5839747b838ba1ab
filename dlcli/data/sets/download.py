"""Load a registered data set from the user's folder, dlcli's cache, or the network."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import ModuleType

from dlcli.data.kinds import DataListing
from dlcli.data.sets.named import NamedSet, cache_dir
from dlcli.errors import DlcliError
from dlcli.files import atomic_folder
from dlcli.network import require

_ARCHIVES = (".tar.gz", ".tgz", ".zip", ".gz", ".tar")


def load_named_set(name: str, entry: NamedSet, *, data_dir: Path | None, offline: bool) -> DataListing:
    """Load the set ``name`` from ``data_dir``, dlcli's cache, or its own site, in this order.

    Downloads go to the cache atomically; nothing is written to ``data_dir``. Raises: DlcliError, within
    three seconds when the network is not available.
    """
    if entry.url is None or entry.fetch is None:
        listing = entry.read(Path())
        assert listing is not None
        return listing
    if data_dir is not None and not data_dir.is_dir():
        raise DlcliError(
            f"--data-dir {data_dir} is not a folder", hint=f"it must contain the files of {name}"
        )
    cached = cache_dir() / name
    for folder in (data_dir, cached):
        listing = entry.read(folder) if folder is not None and folder.is_dir() else None
        if listing is not None:
            return listing
    searched = f"{data_dir} and {cached}" if data_dir is not None else str(cached)
    hint = f"give a copy on disk with --data-dir DIR (searched: {searched})"
    if Path(name).is_dir():
        hint += f", or give ./{name} for the folder of that name"
    if offline:
        raise DlcliError(
            f"the data set {name} is not on disk, and --offline forbids its download", hint=hint
        )
    require(entry.url, what=f"the data set {name}", hint=hint)
    _download(name, entry, cached, hint)
    listing = entry.read(cached)
    if listing is None:
        raise DlcliError(
            f"the download of {name} does not contain the expected files: {cached}", hint=hint
        )
    return listing


def torchvision_datasets() -> ModuleType:
    """Import `torchvision.datasets`. Raises: DlcliError when that fails."""
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError, AttributeError, OSError) as exc:
        raise DlcliError(
            f"torchvision cannot be imported, and this data set needs it: {exc}",
            hint="torch and torchvision must have matching versions: see dlcli info",
        ) from exc
    module: ModuleType = datasets
    return module


def _download(name: str, entry: NamedSet, target: Path, hint: str) -> None:
    import http.client
    import tarfile
    import urllib.error
    import zipfile

    assert entry.fetch is not None
    with atomic_folder(target) as tmp:
        try:
            # Some versions of torchvision print to stdout, which is for the result of dlcli.
            with contextlib.redirect_stdout(sys.stderr):
                entry.fetch(tmp)
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as exc:
            raise DlcliError(f"the download of {name} failed: {exc}", hint=hint) from exc
        except (RuntimeError, EOFError, tarfile.TarError, zipfile.BadZipFile) as exc:
            raise DlcliError(f"the download of {name} is damaged: {exc}", hint=hint) from exc
        for archive in tmp.iterdir():
            if archive.is_file() and archive.name.endswith(_ARCHIVES):
                archive.unlink()
