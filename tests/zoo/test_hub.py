"""Names of the Hugging Face hub as --weights: its cache, --offline, and no network."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_bert
from tiny_hub import COMMIT, serving

from dlcli.cli import main
from dlcli.errors import DlcliError
from dlcli.formats.base import read_card
from dlcli.runs.folder import RunFolder
from dlcli.runs.saved import read_run
from dlcli.zoo import hub as module
from dlcli.zoo.hub import hub_folder
from dlcli.zoo.names import hub_name

hub: Any = pytest.importorskip("huggingface_hub")

# Fetches a repository and finds it in the cache; the library reads its settings when it is imported.
TWICE = """
import sys
from dlcli.zoo.hub import hub_folder
for offline in (False, True):
    print(*hub_folder(sys.argv[1], offline=offline))
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, as its library lays it out, in a folder of the test."""
    folder = tmp_path / "hub"
    own = hub.snapshot_download
    monkeypatch.setattr(
        hub, "snapshot_download", lambda *args, **settings: own(*args, cache_dir=folder, **settings)
    )
    return folder


def fill(cache: Path, repository: str) -> Path:
    """A cached snapshot, whose main branch is `COMMIT`."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return tiny_bert.write_snapshot(folder / "snapshots" / COMMIT)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("owner/name", ("owner/name", None)),
        ("owner/na.me-2@main", ("owner/na.me-2", "main")),
        ("folder/file.safetensors", None),
        ("../name", None),
        ("/root/name", None),
        ("a/b/c", None),
        ("name", None),
    ],
)
def test_names_of_the_hub(text: str, named: tuple[str, str | None] | None) -> None:
    assert hub_name(text) == named


def test_a_run_records_the_revision_and_repeats_it(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(cache, "owner/tiny")
    tiny_bert.write_questions(tmp_path / "q.csv")
    train = ["train", "-m", "bert", "-d", "q.csv", "--device", "cpu", "-e", "1", "-q"]
    assert main([*train, "--weights", "owner/tiny", "--offline", "--name", "a"]) == 0
    named = f"owner/tiny@{COMMIT}"
    run = RunFolder(Path("runs/a"))
    assert read_card(run.best).weights_from == named
    assert read_run(run).config.model.weights == named
    assert main([*train, "--config", "runs/a/config.yaml", "--offline", "--name", "b"]) == 0
    assert read_card(Path("runs/b/best.safetensors")).weights_from == named


def test_a_snapshot_that_is_not_cached_is_fetched_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[str] = []

    def fetch(repository: str, **settings: Any) -> str:
        if settings.get("local_files_only"):
            raise hub.errors.LocalEntryNotFoundError("not cached")
        requests.append(repository)
        return str(fill(cache, repository))

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    monkeypatch.setattr(module, "require", lambda url, **words: requests.append(url))
    folder, label = hub_folder("owner/tiny@main", offline=False)
    assert (folder.name, label) == (COMMIT, f"owner/tiny@{COMMIT}")
    assert requests[0].endswith("/owner/tiny/resolve/main/config.json")
    assert requests[1:] == ["owner/tiny"]


def test_without_a_network_it_is_one_error_within_three_seconds(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DlcliError, match="not in the cache of the hub, or not all of it, and --offline"):
        hub_folder("owner/tiny", offline=True)
    monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    begin = time.monotonic()
    with pytest.raises(DlcliError, match="cannot fetch --weights owner/tiny") as error:
        hub_folder("owner/tiny", offline=False)
    assert time.monotonic() - begin < 3
    assert "--weights FOLDER" in str(error.value.hint)


@pytest.mark.parametrize("model", ["bert --weights owner/tiny", "hf:owner/tiny"])
def test_a_run_says_so_before_it_reads_data_or_imports_torch(tmp_path: Path, model: str) -> None:
    tiny_bert.write_questions(tmp_path / "q.csv")
    code = "import sys; from dlcli.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", code, "train", "-m", *model.split(), "-d", "q.csv"]

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        settings: Any = {"capture_output": True, "text": True, "check": False}
        return subprocess.run(command, env=env | more, cwd=tmp_path, **settings)

    done = run()
    assert done.stdout.split() == ["1", "False"], done.stderr
    assert "cannot fetch --weights owner/tiny, which is no folder here, from 127.0.0.1" in done.stderr
    offline = {**env, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, env=offline, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "not all of it, and HF_HUB_OFFLINE forbids fetching it" in done.stderr


@pytest.mark.parametrize("sharded", [False, True])
def test_a_repository_is_fetched_from_a_server_and_then_needs_none(
    tmp_path: Path, sharded: bool
) -> None:
    folder = tiny_bert.write_snapshot(tmp_path / "remote")
    (folder / "README.md").write_text("what no model needs")
    (folder / "pytorch_model.bin").write_bytes(b"pickles are not fetched")
    if sharded:
        tiny_bert.shard(folder, "a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors")
    wanted = sorted(path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
    with serving(folder) as (address, sent):
        env = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-c", TWICE, "owner/tiny"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second
    assert first.endswith(f" owner/tiny@{COMMIT}")
    assert sorted(sent) == wanted  # each of them once


def test_a_snapshot_without_one_of_its_shards_is_not_taken_from_the_cache(cache: Path) -> None:
    folder = fill(cache, "owner/tiny")
    tiny_bert.shard(folder, "a.safetensors", "b.safetensors")
    assert hub_folder("owner/tiny", offline=True)[0] == folder
    (folder / "b.safetensors").unlink()
    with pytest.raises(DlcliError, match="or not all of it, and --offline forbids"):
        hub_folder("owner/tiny", offline=True)
