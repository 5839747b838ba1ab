"""Names of the Hugging Face hub as --weights: its cache, --offline, and no network."""

from __future__ import annotations

import os
import re
import socket
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
pytest.importorskip("huggingface_hub.constants")

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
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(folder))
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


def try_to_train(folder: Path, model: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Prints the exit code, whether torch was imported, and the CPU time."""
    tiny_bert.write_questions(folder / "q.csv")
    code = (
        "import sys, time; from dlcli.cli import main; "
        "print(main(sys.argv[1:]), 'torch' in sys.modules, time.process_time())"
    )
    env = {**os.environ, "HF_HOME": str(folder / "home"), **environment}
    command = [sys.executable, "-c", code, "train", "-m", *model.split(), "-d", "q.csv"]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("model", ["bert --weights owner/tiny", "hf:owner/tiny"])
def test_a_run_says_so_before_it_reads_data_or_imports_torch(tmp_path: Path, model: str) -> None:
    refused = "http://127.0.0.1:9"
    done = try_to_train(tmp_path, model, HF_ENDPOINT=refused)
    assert done.stdout.split()[:2] == ["1", "False"], done.stderr
    assert "cannot fetch --weights owner/tiny, which is no folder here, from 127.0.0.1" in done.stderr
    done = try_to_train(tmp_path, model, HF_ENDPOINT=refused, HF_HUB_OFFLINE="1")
    assert "not all of it, and HF_HUB_OFFLINE forbids fetching it" in done.stderr


def test_a_silent_network_is_given_up_within_three_seconds_of_the_start(tmp_path: Path) -> None:
    """The wait and the CPU time, so that a busy machine does not fail it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = try_to_train(tmp_path, "bert --weights owner/tiny", HF_ENDPOINT=endpoint)
    code, torch_imported, cpu_s = done.stdout.split()
    waited = re.search(r"no reply within ([\d.]+) s", done.stderr)
    assert (code, torch_imported, waited is not None) == ("1", "False", True), done.stderr
    assert waited is not None
    assert float(waited[1]) + float(cpu_s) < 3


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
