"""Find a named data set: in the user's folder, in dlcli's cache, or on the network."""

from __future__ import annotations

import contextlib
import http.client
import sys
import tarfile
import urllib.error
import zipfile
from pathlib import Path
from types import ModuleType

from dlcli.data.kinds import DataListing
from dlcli.data.sets.named import NamedSet, cache_dir
from dlcli.errors import DlcliError
from dlcli.files import atomic_folder
from dlcli.network import require

_ARCHIVES = (".tar.gz", ".tgz", ".zip", ".gz", ".tar")


def obtain(name: str, entry: NamedSet, *, data_dir: Path | None, offline: bool) -> DataListing:
    """The set ``name`` from ``data_dir``, dlcli's cache, or its own site, in this order.

    A download goes to the cache as a whole or not at all; nothing is written to ``data_dir``.
    Raises: DlcliError, within three seconds when the network is not there.
    """
    if entry.url is None or entry.fetch is None:
        listing = entry.read(Path())
        assert listing is not None
        return listing
    if data_dir is not None and not data_dir.is_dir():
        raise DlcliError(f"--data-dir {data_dir} is no folder", hint=f"it must hold the files of {name}")
    cached = cache_dir() / name
    for place in (data_dir, cached):
        listing = entry.read(place) if place is not None and place.is_dir() else None
        if listing is not None:
            return listing
    places = f"{data_dir} and {cached}" if data_dir is not None else str(cached)
    hint = f"give a copy on disk with --data-dir DIR (looked in {places})"
    if Path(name).is_dir():
        hint += f", or write ./{name} to mean the folder of that name"
    if offline:
        raise DlcliError(
            f"the data set {name} is not on disk, and --offline forbids fetching it", hint=hint
        )
    require(entry.url, what=f"the data set {name}", hint=hint)
    _fetch(name, entry, cached, hint)
    listing = entry.read(cached)
    if listing is None:
        raise DlcliError(f"what was fetched for {name} is not what was expected: {cached}", hint=hint)
    return listing


def torchvision_datasets() -> ModuleType:
    """`torchvision.datasets`. Raises: DlcliError when torchvision does not import."""
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError, AttributeError, OSError) as exc:
        raise DlcliError(
            f"torchvision cannot be imported, and this data set needs it: {exc}",
            hint="torch and torchvision must fit each other: see dlcli info",
        ) from exc
    module: ModuleType = datasets
    return module


def _fetch(name: str, entry: NamedSet, target: Path, hint: str) -> None:
    assert entry.fetch is not None
    with atomic_folder(target) as tmp:
        try:
            # torchvision prints on stdout in some versions, and stdout carries dlcli's result.
            with contextlib.redirect_stdout(sys.stderr):
                entry.fetch(tmp)
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as exc:
            raise DlcliError(f"fetching {name} broke off: {exc}", hint=hint) from exc
        except (RuntimeError, EOFError, tarfile.TarError, zipfile.BadZipFile) as exc:
            raise DlcliError(f"what was fetched for {name} is damaged: {exc}", hint=hint) from exc
        for archive in tmp.iterdir():
            if archive.is_file() and archive.name.endswith(_ARCHIVES):
                archive.unlink()
